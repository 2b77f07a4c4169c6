"""Sets whose pictures are bytes of a few files: pixels, labels and the order of classes are torchvision's."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

import published_arrays as sets
from openslip.data.labelled import open_labelled
from openslip.errors import DataError
from published_sets import same, write


@pytest.fixture(autouse=True)
def _any_checksum(monkeypatch):
    for module in (datasets.cifar, datasets.stl10, datasets.fer2013, datasets.mnist):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)


@pytest.mark.parametrize(
    ("maker", "reference", "binary"),
    [
        (sets.cifar10, datasets.CIFAR10, sets.cifar10_binary),
        (sets.cifar100, datasets.CIFAR100, sets.cifar100_binary),
    ],
)
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_cifar(tmp_path, maker, reference, binary):
    maker(tmp_path)
    for folder in (tmp_path, binary(tmp_path / "binary")):
        found = open_labelled(str(folder if folder != tmp_path else tmp_path / reference.base_folder))
        for split in ("train", "test"):
            dataset = reference(str(tmp_path), train=split == "train", download=False)
            assert same(found.splits[split], dataset)
            assert list(found.class_names) == dataset.classes
        assert found.named


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(tmp_path, zipped):
    sets.mnist(tmp_path)
    folder = sets.mnist(tmp_path / "ours", zipped=zipped)
    found = open_labelled(str(folder.parent))
    for split in ("train", "test"):
        assert same(
            found.splits[split], datasets.MNIST(str(tmp_path), train=split == "train", download=False)
        )
    assert found.class_names == tuple("0123456789")
    assert found.named


def test_fashion_is_told_from_digits_by_its_labels(tmp_path):
    found = open_labelled(str(sets.mnist(tmp_path, sets.FASHION_LABELS, "FashionMNIST")))
    assert list(found.class_names) == datasets.FashionMNIST.classes
    other = {split: labels[1:] for split, labels in sets.MNIST_LABELS.items()}
    unknown = sets.mnist(tmp_path, other, "KMNIST")
    assert not open_labelled(str(unknown)).named
    write(unknown / "classes.txt", "o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    assert open_labelled(str(unknown)).class_names[3] == "tsu"


def test_stl10(tmp_path):
    folder = sets.stl10(tmp_path)
    found = open_labelled(str(folder))
    for split in ("train", "test"):
        dataset = datasets.STL10(str(tmp_path), split=split, download=False)
        assert same(found.splits[split], dataset)
        assert list(found.class_names) == dataset.classes
    assert "3 pictures of unlabeled_X.bin have no label and are left out." in found.notes


@pytest.mark.parametrize("icml", [False, True])
def test_fer2013(tmp_path, icml):
    folder = sets.fer2013(tmp_path, icml)
    found = open_labelled(str(folder / "icml_face_data.csv") if icml else str(folder))
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 5, "val": 2, "test": 2}
    if not icml:  # of which torchvision does not read the quotes
        assert same(found.splits["train"], datasets.FER2013(str(tmp_path), split="train"))
        test: Any = datasets.FER2013(str(tmp_path), split="test")  # both of the competition's test sets
        pairs = list(test)
        images = [*found.splits["val"].images, *found.splits["test"].images]
        assert all(
            np.array_equal(ours, np.asarray(image.convert("RGB"))) for ours, (image, _) in zip(images, pairs)
        )
        values = [found.values[label] for split in ("val", "test") for label in found.splits[split].labels]
        assert values == [label for _, label in pairs]
    assert found.class_names[3] == "happiness"


def test_of_two_tables_of_fer2013_the_named_one_is_read(tmp_path):
    sets.fer2013(tmp_path)
    folder = sets.fer2013(tmp_path, icml=True)
    lines = (folder / "fer2013.csv").read_text().splitlines()
    write(folder / "fer2013.csv", *lines[:-1])
    for name, count in (("fer2013.csv", 1), ("icml_face_data.csv", 2)):
        assert len(open_labelled(str(folder / name)).splits["test"]) == count


def test_missing_batch_is_said(tmp_path):
    folder = sets.cifar10(tmp_path)
    (folder / "data_batch_4").unlink()
    found = open_labelled(str(folder))
    assert len(found.splits["train"]) == 16
    assert "data_batch_4 is missing: its pictures of train are left out." in found.notes


def test_damaged_files_are_refused(tmp_path):
    folder = sets.mnist(tmp_path, zipped=True)
    path = folder / "t10k-images-idx3-ubyte.gz"
    whole = gzip.decompress(path.read_bytes())
    for data, message in (
        (gzip.compress(whole[:-1]), "does not match its header"),
        (gzip.compress(whole + b"1"), "does not match its header"),
        (path.read_bytes()[:-20], "cannot be read"),
        (gzip.compress(b"\0\0\x0d" + whole[3:]), "not an idx file of bytes with 3 axes"),
        (gzip.compress(whole[:4] + b"\xff" * 12 + whole[16:]), "not an idx file of bytes with 3 axes"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            open_labelled(str(folder))
    folder = sets.stl10(tmp_path)
    (folder / "test_X.bin").write_bytes(b"1" * 100)
    with pytest.raises(DataError, match="not a multiple of the length of a picture"):
        open_labelled(str(folder))
    sets.pixels(9, 3, 96, 96).tofile(folder / "test_X.bin")
    with pytest.raises(DataError, match="10 labels for 9 pictures"):
        open_labelled(str(folder))
    folder = sets.fer2013(tmp_path)
    write(folder / "fer2013.csv", "emotion,pixels,Usage", "1,1 2 3 4,Somewhere")
    with pytest.raises(DataError, match="not FER-2013's"):
        open_labelled(str(folder))
    write(folder / "fer2013.csv", "emotion,pixels,Usage", "1,1 2 3,Training", "2,1 2 3 256,Training")
    found = open_labelled(str(folder))
    for i in range(2):
        with pytest.raises(DataError, match="A row holds no picture"):
            found.splits["all" if "all" in found.splits else "train"].images[i]


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    folder = sets.cifar10(tmp_path)
    (folder / "test_batch").write_bytes(b"\x80\x02cos\nsystem\nU\x04true\x85R.")
    with pytest.raises(DataError, match=r"refused; nothing of it was executed.*os\.system"):
        open_labelled(str(folder))
    sets.batch(folder / "test_batch", {"data": [1], "labels": [1]})
    with pytest.raises(DataError, match="no batch of CIFAR"):
        open_labelled(str(folder))
