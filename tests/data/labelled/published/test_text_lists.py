"""Sets of pictures and text files that list them: labels, counts and the order of classes are torchvision's."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import pytest
from torchvision import datasets

import published_sets as sets
from openslip.data.labelled import imagenet, open_labelled
from openslip.errors import DataError
from openslip.evaluation.zeroshot import ZeroShot
from oracle import knn, zeroshot
from published_sets import ours, paths, theirs

TORCHVISION = {
    "food101": (datasets.Food101, "_image_files", {"train": "train", "test": "test"}),
    "dtd": (datasets.DTD, "_image_files", {"train": "train", "val": "val", "test": "test"}),
    "pets": (datasets.OxfordIIITPet, "_images", {"train": "trainval", "test": "test"}),
    "aircraft": (datasets.FGVCAircraft, "_image_files", {"train": "train", "val": "val", "test": "test"}),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_labels_and_classes_are_torchvisions(name, tmp_path):
    folder = getattr(sets, name)(tmp_path)
    reference, files, splits = TORCHVISION[name]
    found = open_labelled(str(folder))
    assert set(found.splits) == set(splits)
    for split, called in splits.items():
        dataset = reference(str(tmp_path), split=called, download=False)
        assert ours(found, split) == theirs(dataset, files)
        same = [one.replace("_", " ").lower() for one in dataset.classes]
        assert [one.lower() for one in found.class_names] == same
    assert found.named
    assert zeroshot(str(folder), list(found.class_names)) == 1
    assert knn(str(tmp_path), list(found.class_names)) == 1  # the folder above, in which it lies alone


def test_gtsrb(tmp_path):
    folder = sets.gtsrb(tmp_path)
    found = open_labelled(str(folder))
    for split in ("train", "test"):
        dataset = datasets.GTSRB(str(tmp_path), split=split, download=False)
        assert ours(found, split) == dict(dataset._samples)
    assert found.values == (0, 1, 2)
    assert not found.named
    assert knn(str(folder), list("abc")) == 1
    sets.write(folder / "classes.json", '["speed limit", "stop", "yield"]')
    found = open_labelled(str(tmp_path))
    assert found.class_names == ("speed limit", "stop", "yield")
    assert "Class names from classes.json." in found.notes


@pytest.mark.parametrize("partitions", [True, False])
def test_sun397(tmp_path, partitions):
    folder = sets.sun397(tmp_path, partitions)
    found = open_labelled(str(folder))
    dataset = datasets.SUN397(str(tmp_path), download=False)
    assert list(found.class_names) == [one.replace("/", " ").replace("_", " ") for one in dataset.classes]
    every = theirs(dataset, "_image_files")
    assert len(every) == 12
    for split in found.splits:
        assert ours(found, split).items() <= every.items()
    assert {s: len(p) for s, p in found.splits.items()} == (
        {"train": 4, "test": 4} if partitions else {"all": 12}
    )
    said = " ".join(found.notes)
    assert ("Pictures in SUN397 that no list names and that are left out: 4" in said) == partitions
    assert zeroshot(str(folder), list(found.class_names)) == 1


def test_cub(tmp_path):
    folder = sets.cub(tmp_path)
    found = open_labelled(str(folder))
    assert found.class_names == ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")
    assert {split: Counter(part.labels.tolist()) for split, part in found.splits.items()} == {
        "train": {0: 2, 1: 2, 2: 2},
        "test": {0: 1, 1: 1, 2: 1},
    }
    assert all(path.endswith("_2.jpg") for path in paths(found, "test"))
    assert zeroshot(str(folder), list(found.class_names)) == 1


def test_what_is_missing_or_unlisted_is_counted(tmp_path):
    folder = sets.food101(tmp_path)
    (folder / "images/apple_pie/1000.jpg").unlink()
    sets.jpg(folder / "images/waffles/7.jpg", 0)
    found = open_labelled(str(folder))
    assert len(found.splits["train"]) == 5
    said = " ".join(found.notes)
    assert "food-101 is in the layout of Food-101." in said
    assert "Listed pictures of train that are missing and left out: 1, such as apple_pie/1000." in said
    assert (
        f"Pictures in images that no list names and that are left out: 1, such as {os.path.join('waffles', '7.jpg')}."
        in said
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Bengal_3", r"test\.txt has 1 of 2 entries.*Bengal_3"),
        ("Bengal_3 x 1 1", "'x' where a number belongs"),
    ],
)
def test_lists_that_are_damaged_are_refused(tmp_path, line, message):
    folder = sets.pets(tmp_path)
    sets.write(folder / "annotations/test.txt", line)
    with pytest.raises(DataError, match=message):
        open_labelled(str(folder))


def test_a_list_without_its_pictures_is_refused(tmp_path):
    folder = sets.pets(tmp_path)
    for path in (folder / "images").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="None of the listed pictures is in .*images"):
        open_labelled(str(folder))


def test_several_sets_side_by_side_are_refused(tmp_path):
    sets.food101(tmp_path)
    sets.dtd(tmp_path)
    with pytest.raises(DataError, match=r"holds more than one data set.*Food-101 in food-101"):
        open_labelled(str(tmp_path))


def test_a_set_beside_another_folder_is_refused(tmp_path):
    sets.food101(tmp_path)
    sets.put(tmp_path / "cats/1.png", 0)
    with pytest.raises(DataError, match=r"holds more than one data set.*Name the folder of one"):
        open_labelled(str(tmp_path))


def test_caltech101_without_background(tmp_path):
    folder = sets.caltech101(tmp_path)
    found = open_labelled(str(folder))
    (tmp_path / "reference").mkdir()
    dataset = datasets.Caltech101(str(tmp_path), download=False)
    assert list(found.values) == dataset.categories
    assert Counter(found.splits["all"].labels.tolist()) == Counter(dataset.y)
    assert any("1 picture left out" in said and "BACKGROUND_Google" in said for said in found.notes)
    assert zeroshot(str(folder), list(found.class_names)) == 1


def test_folders_of_classes_need_no_layout(tmp_path):
    found = open_labelled(str(sets.eurosat(tmp_path)))
    assert list(found.values) == datasets.EuroSAT(str(tmp_path), download=False).classes
    assert len(found.splits["all"]) == 15
    for maker, reference in (
        (sets.country211, datasets.Country211),
        (sets.rendered_sst2, datasets.RenderedSST2),
    ):
        found = open_labelled(str(maker(tmp_path)))
        for split, called in (("train", "train"), ("val", "val"), ("test", "test")):
            called = "valid" if reference is datasets.Country211 and split == "val" else called
            dataset: Any = reference(str(tmp_path), split=called, download=False)
            samples = getattr(dataset, "samples", None) or dataset._samples
            assert ours(found, split) == {str(path): label for path, label in samples}
            assert list(found.values) == dataset.classes


def test_resisc45_is_parted_by_its_lists(tmp_path):
    folder = sets.resisc45(tmp_path)
    found = open_labelled(str(folder))
    assert {split: Counter(part.labels.tolist()) for split, part in found.splits.items()} == {
        "train": {0: 3, 1: 3, 2: 3},
        "val": {0: 1, 1: 1, 2: 1},
        "test": {0: 1, 1: 1, 2: 1},
    }
    assert found.class_names == ("airplane", "baseball diamond", "sea ice")
    assert all(path.endswith("_005.jpg") for path in paths(found, "test"))
    assert zeroshot(str(folder), list(found.class_names)) == knn(str(folder), list("abc")) == 1
    for path in folder.glob("NWPU-RESISC45/*"):  # the lists among the folders of classes
        path.rename(folder / path.name)
    (folder / "NWPU-RESISC45").rmdir()
    assert open_labelled(str(folder)).splits["test"].labels.tolist() == [0, 1, 2]


def test_resisc45_without_lists_has_no_splits(tmp_path):
    found = open_labelled(str(sets.resisc45(tmp_path, lists=False)))
    assert {split: len(part) for split, part in found.splits.items()} == {"all": 15}
    assert found.values == sets.RESISC45


UCF101_FORMS: dict[str, dict[str, Any]] = {
    "frames in the folders of the videos": {},
    "CoOp's frames": {"called": "UCF-101-midframes"},
    "CoOp's frames and lists": {"called": "UCF-101-midframes", "lists": False},
    "all frames": {"frames": 4},
}


@pytest.mark.parametrize("form", UCF101_FORMS)
def test_ucf101_is_parted_by_the_first_of_its_lists(form, tmp_path):
    folder = sets.ucf101(tmp_path, **UCF101_FORMS[form])
    found = open_labelled(str(folder))
    counts = {split: Counter(part.labels.tolist()) for split, part in found.splits.items()}
    assert counts["test"] == {0: 2, 1: 2, 2: 2}
    assert sum((counts[split] for split in counts if split != "test"), Counter()) == {0: 4, 1: 4, 2: 4}
    assert ("val" in counts) == form.endswith("lists")
    # Clips of a group are of one scene: no group is on both sides.
    groups = {
        split: {re.findall(r"_g(\d+)_", path)[0] for path in paths(found, split)} for split in found.splits
    }
    assert groups.pop("test") == {"01"}
    assert set().union(*groups.values()) == {"08", "09"}
    names = ["Apply Eye Makeup", "Handstand Pushups", "Yo Yo"]
    assert knn(str(folder), names) == 1
    task = ZeroShot(f"ucf101@{folder}")
    assert [asked for (asked,) in task._asked(task.keep()).names] == [
        "Apply Eye Makeup",
        "Hand Stand Pushups",
        "Yo Yo",
    ]
    said = " ".join(found.notes)
    assert ("middle frame of each video is measured" in said) == (form == "all frames")
    assert "left out" not in said


def test_ucf101_as_the_papers_code_has_it_and_without_lists(tmp_path):
    folder = sets.ucf101(tmp_path, lists=False)
    assert list(open_labelled(str(folder)).splits) == ["all"]
    for split in ("train", "val"):
        (folder / split).mkdir()
    for name in sets.UCF101:
        for path in sorted((folder / "UCF-101" / name).iterdir()):
            place = folder / ("val" if "_g01_" in path.name else "train") / name / path.name
            place.parent.mkdir(exist_ok=True)
            path.rename(place)
    found = open_labelled(str(folder))
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 12, "val": 6}
    assert zeroshot(str(folder), list(sets.UCF101)) == 1


@pytest.mark.parametrize("content", ["[]", '{"train": [["a.jpg", 0]]}', '{"train": []}'])
def test_a_damaged_list_of_ucf101_is_refused(tmp_path, content):
    folder = sets.ucf101(tmp_path, called="UCF-101-midframes", lists=False)
    sets.write(folder / "split_zhou_UCF101.json", content)
    with pytest.raises(DataError, match=r"list of videos cannot be read.*split_zhou_UCF101\.json"):
        open_labelled(str(folder))


def test_videos_of_ucf101_without_a_frame_are_counted(tmp_path):
    folder = sets.ucf101(tmp_path)
    (folder / "UCF-101/YoYo/v_YoYo_g01_c02.jpg").unlink()
    sets.jpg(folder / "UCF-101/YoYo/v_YoYo_g25_c01.jpg", 2)
    said = " ".join(open_labelled(str(folder)).notes)
    assert "Listed pictures of test that are missing and left out: 1" in said
    assert "Pictures in ucf101 that no list names and that are left out: 1" in said


@pytest.mark.parametrize("splits", [("train", "val"), ("train_images", "val_images")])
def test_kinetics700_in_both_of_its_layouts(tmp_path, splits):
    folder = sets.kinetics700(tmp_path, splits)
    found = open_labelled(str(folder))
    assert found.values == sets.KINETICS
    assert {split: len(part) for split, part in found.splits.items()} == {"train": 6, "val": 6}
    assert zeroshot(str(folder), list(sets.KINETICS)) == knn(str(folder), list(sets.KINETICS)) == 1
    assert not [said for said in found.notes if "left out" in said]


def test_imagenetv2_has_imagenets_labels(tmp_path):
    folder = sets.imagenetv2(tmp_path)
    task = ZeroShot(f"imagenetv2@{tmp_path}")  # the folder above does not say what it is
    task.check()
    found = task.opened()
    assert found.splits["all"].labels.tolist() == list(range(1000))
    classes = [int(os.path.dirname(path)[len(folder.name) + 1 :]) for path in paths(found, "all")]
    assert classes == list(range(1000))
    assert task._asked(found).names == tuple((name,) for name in imagenet.clip_names())
    assert not [line for line in task.lines() if "zero-shot needs" in line]


def test_imagenet_samples_are_told_by_the_names_of_their_files(tmp_path):
    folder = sets.imagenet_samples(tmp_path)
    found = open_labelled(str(folder))
    assert found.class_names == ("tench", "goldfish", "common redshank")
    assert {split: len(part) for split, part in found.splits.items()} == {"all": 3}
    assert zeroshot(str(folder), list(found.class_names)) == 1
