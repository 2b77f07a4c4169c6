"""What the values of classes tell about their names."""

from __future__ import annotations

import pytest

from openslip.data.labelled import imagenet, open_labelled
from openslip.data.labelled.class_names import class_names
from openslip.data.labelled.classes import in_order
from openslip.errors import EvaluationError
from oracle import put, zeroshot

IDS = imagenet._ids()


def test_the_thousand_wordnet_ids_whatever_the_folder_is_called(tmp_path):
    for i in range(0, 1000, 10):
        put(tmp_path / "pictures/val" / IDS[i] / "1.png", i)
    assert zeroshot(str(tmp_path / "pictures"), list(imagenet.clip_names())) == 1.0
    data = open_labelled(str(tmp_path / "pictures"))
    assert data.class_names[:2] == ("tench", "brambling")
    assert "The names of 100 WordNet ids are ImageNet's (n01440764: tench)." in data.notes


def test_ids_beyond_the_thousand():
    assert class_names(["n00007846", "n01440764"], "x").names == ("person", "tench")
    some = class_names(["n01440764", "n99999999"], "x")
    assert (some.names, some.named) == (("tench", "n99999999"), False)
    assert "1 of 2 WordNet ids has no known name, such as n99999999" in some.notes[1]


def test_ids_without_names_are_the_cause(tmp_path):
    for one in ("n01440764", "n99999999"):
        put(tmp_path / "test" / one / "1.png", 0)
    with pytest.raises(EvaluationError, match="have no names.*n99999999.*classes.json"):
        zeroshot(str(tmp_path), ["tench"])
    (tmp_path / "classes.json").write_text('{"n99999999": "chimera", "n01440764": "fish"}')
    assert open_labelled(str(tmp_path)).class_names == ("chimera", "fish")


def test_ids_that_are_declared_as_names_have_names_too():
    assert class_names(["n01440764", "n01443537"], "x", declared=True).names == ("tench", "goldfish")


def test_names_behind_ids_and_numbers():
    assert class_names(["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], "x").names == (
        "Chihuahua",
        "Japanese spaniel",
    )
    assert class_names(["001.Black_footed_Albatross", "017.Cardinal"], "x").names == (
        "Black footed Albatross",
        "Cardinal",
    )
    counted = class_names(["0_cat", "1_dog", "2_owl"], "x")
    assert counted.names == ("cat", "dog", "owl")
    assert counted.notes == ("Numbers before the names of classes are left out: 0_cat is called 'cat'.",)


@pytest.mark.parametrize(
    "values",
    [
        ["1_cent", "5_cents"],  # numbers that do not count
        ["01_euro", "02_euro"],  # they would be one
        ["1 star", "2 stars"],
        ["3d_model", "4_leaf_clover"],
        ["cat", "dog"],
        ["2cv", "beetle"],
        ["stage 1", "stage 2"],
    ],
)
def test_names_that_are_names(values):
    assert class_names(values, "x").named
    assert class_names(values, "x").names == tuple(value.replace("_", " ") for value in values)


@pytest.mark.parametrize(
    "values", [["0", "1"], ["007", "011"], ["class_0", "class_1"], ["c1", "c2"], ["Label 3", "label-4"]]
)
def test_numbers_are_no_names(values):
    found = class_names(values, "my set")
    assert not found.named
    assert "numbers without names" in found.notes[0]
    assert class_names(values, "my set", declared=True).named


def test_imagenet_labels_only_where_they_are_certain():
    def by_number(values, name):
        return class_names(list(map(str, values)), name)

    assert by_number(range(1000), "imagenetv2-matched-frequency").names == imagenet.clip_names()
    assert class_names([f"{i:04d}" for i in range(1000)], "ImageNet").named
    assert not by_number(range(1000), "my pictures").named
    assert not by_number(range(1, 1001), "imagenet").named
    assert not by_number(range(999), "imagenet").named
    assert not by_number([-(10**30), 10**30], "imagenet").named


def test_numbered_folders_come_as_numbers(tmp_path):
    for i in range(12):
        put(tmp_path / "set" / str(i) / "1.png", i)
        put(tmp_path / "named" / f"{i}.thing_{'abcdefghijkl'[i]}" / "1.png", i)
    data = open_labelled(str(tmp_path / "set"))
    assert data.class_names == tuple(map(str, range(12)))
    assert not data.named
    assert open_labelled(str(tmp_path / "named")).class_names[-1] == "thing l"
    with pytest.raises(EvaluationError, match="have no names"):
        zeroshot(str(tmp_path / "set"), data.class_names)


def test_numbered_folders_with_names_beside(tmp_path):
    for i in range(3):
        put(tmp_path / "set/train" / str(i + 1) / "1.png", i)
        put(tmp_path / "set/test" / str(i + 1) / "1.png", i)
    (tmp_path / "set/classes.json").write_text('{"1": "cat", "2": "dog", "3": "owl"}')
    for spec in ("set", "set/test"):
        assert zeroshot(str(tmp_path / spec), ["cat", "dog", "owl"]) == 1.0
    assert open_labelled(str(tmp_path / "set")).class_names == ("cat", "dog", "owl")


def test_order():
    assert in_order(["c10", "c2", "10", "9", "b"]) == ["9", "10", "b", "c2", "c10"]
    assert in_order(["a" + "9" * 5000, "a1", "²"]) == ["a1", "a" + "9" * 5000, "²"]
