"""Sets with MAT-files: pixels, labels and the order of classes are torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

import published_sets as sets
from openslip.data.labelled import imagenet, open_labelled
from openslip.errors import DataError
from oracle import knn, zeroshot
from published_arrays import svhn
from published_sets import ours, same, theirs


@pytest.fixture(autouse=True)
def _any_checksum(monkeypatch):
    for module in (datasets.svhn, datasets.flowers102):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)


def test_svhn(tmp_path):
    found = open_labelled(str(svhn(tmp_path)))
    for split in ("train", "test"):
        assert same(found.splits[split], datasets.SVHN(str(tmp_path), split=split, download=False))
    assert found.class_names == tuple("0123456789")
    assert found.named


def test_flowers(tmp_path):
    folder = sets.flowers(tmp_path)
    found = open_labelled(str(folder))
    for split in ("train", "val", "test"):
        files = theirs(datasets.Flowers102(str(tmp_path), split=split, download=False), "_image_files")
        values = {path: found.values[label] for path, label in ours(found, split).items()}
        assert values == {path: label + 1 for path, label in files.items()}
    assert not found.named
    sets.write(
        folder / "cat_to_name.json",
        '{"1": "pink primrose", "77": "passion flower", "102": "blackberry lily"}',
    )
    assert open_labelled(str(folder)).class_names == ("pink primrose", "passion flower", "blackberry lily")
    assert knn(str(folder), ["x"] * 103) == 1


def test_cars(tmp_path):
    folder = sets.cars(tmp_path)
    found = open_labelled(str(folder))
    for split in ("train", "test"):
        dataset = datasets.StanfordCars(str(tmp_path), split=split, download=False)
        assert ours(found, split) == {path: int(label) for path, label in dataset._samples}
        assert list(found.class_names) == dataset.classes
    assert zeroshot(str(folder), list(found.class_names)) == 1
    together = open_labelled(str(sets.cars_together(tmp_path)))
    assert together.class_names == found.class_names
    assert {split: part.labels.tolist() for split, part in together.splits.items()} == {
        "train": [2, 0, 1],
        "test": [0, 1, 2],
    }


def test_cars_without_labels_are_refused(tmp_path):
    folder = sets.cars(tmp_path)
    (folder / "cars_test_annos_withlabels.mat").unlink()
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": sets.structs(fname=["00001.jpg"])})
    with pytest.raises(DataError, match=r"have no class.*cars_test_annos_withlabels\.mat"):
        open_labelled(str(folder))


def test_imagenet_with_its_development_kit(tmp_path):
    ids = [imagenet._ids()[i] for i in (0, 7, 207)]
    folder = sets.imagenet(tmp_path, ids)
    found = open_labelled(str(folder))
    assert found.values == tuple(ids)
    assert found.class_names == ("tench", "rooster", "Golden Retriever")
    assert {split: len(part) for split, part in found.splits.items()} == {"val": 6, "train": 3}
    assert zeroshot(str(folder), list(found.class_names)) == 1
    assert knn(str(folder), list(found.class_names)) == 1


def test_labels_that_do_not_fit_are_refused(tmp_path):
    folder = sets.flowers(tmp_path)
    savemat(folder / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[10]]})
    with pytest.raises(DataError, match="names pictures that have no label"):
        open_labelled(str(folder))
    svhn(tmp_path / "svhn")
    savemat(tmp_path / "svhn/test_32x32.mat", {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": [[1]]})
    with pytest.raises(DataError, match="no pictures of 32 × 32 with a digit each"):
        open_labelled(str(tmp_path / "svhn"))


@pytest.mark.parametrize(
    ("maker", "file", "variables"),
    [
        (svhn, "test_32x32.mat", {"X": "text", "y": "text"}),
        (sets.flowers, "imagelabels.mat", {"labels": sets.cells("a", "b")}),
        (
            sets.cars,
            "devkit/cars_train_annos.mat",
            {"annotations": sets.structs(**{"class": ["x"]}, fname=["a"])},
        ),
        (sets.cars, "devkit/cars_train_annos.mat", {"annotations": np.zeros((2, 2))}),
        (
            sets.cars_together,
            "cars_annos.mat",
            {
                "annotations": sets.structs(relative_im_path=[1.0], test=[np.zeros(0)], **{"class": [1.0]}),
                "class_names": sets.cells("a"),
            },
        ),
    ],
)
def test_variables_of_another_kind_are_refused(tmp_path, maker, file, variables):
    folder = maker(tmp_path / "set")
    savemat(folder / file, variables)
    with pytest.raises(DataError):
        open_labelled(str(folder))
