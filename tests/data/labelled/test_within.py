"""What lies within the folders of classes: in layouts as people download them."""

from __future__ import annotations

import pytest

from openslip.data.labelled import open_labelled
from openslip.errors import DataError
from oracle import knn, put, zeroshot

NAMES = ["abbey", "airport", "church indoor", "church outdoor"]
OTHER = 999
"""A picture of no class: measured, it would cost a model that is always right its 100 %."""


def lay(root, *pictures: tuple[str, int]) -> str:
    for path, number in pictures:
        put(root / path, number)
    return str(root)


def sort(*folders: str, count: int = 3) -> list[tuple[str, int]]:
    """Return pictures whose numbers are those of their folders."""
    return [
        (f"{folder}/{number}{i}.png", number) for number, folder in enumerate(folders) for i in range(count)
    ]


def always_right(spec: str, names: list[str]) -> tuple[int, str]:
    """Return the number of classes and what is said, having seen that a perfect model gets everything."""
    assert zeroshot(spec, names) == knn(spec, names) == 1.0
    data = open_labelled(spec)
    return len(data.class_names), " ".join(data.notes)


@pytest.mark.parametrize("splits", [[""], ["train/", "val/"]])
def test_folders_of_letters_sort_classes(tmp_path, splits):
    """SUN397 and Places."""
    folders = ["a/abbey", "a/airport", "c/church/indoor", "c/church/outdoor"]
    spec = lay(
        tmp_path, *(picture for split in splits for picture in sort(*(f"{split}{f}" for f in folders)))
    )
    count, said = always_right(spec, NAMES)
    assert count == 4
    assert "The folders a, c only sort the folders of classes in them" in said
    assert open_labelled(spec).class_names == tuple(NAMES)


def test_letters_may_be_the_classes(tmp_path):
    spec = lay(tmp_path, *sort("A", "B"), *sort("A/A1", "B/B1"), *sort("A/A2", "B/B2"))
    assert open_labelled(spec).class_names == ("A", "B")


@pytest.mark.parametrize("again", ["animals/{}", "data/animals/{}"])
def test_a_copy_of_the_set_within_it_is_left_out(tmp_path, again):
    """Archives often hold themselves once more."""
    first = "animals/{}" if "data" in again else "{}"
    names = ["cat", "dog"]
    spec = lay(tmp_path, *sort(*map(first.format, names)), *sort(*map(again.format, names)))
    count, said = always_right(spec, names)
    assert count == 2
    assert "6 pictures left out, in folders that hold copies of those beside them" in said


def test_further_pictures_under_the_same_names_are_refused(tmp_path):
    spec = lay(tmp_path, *sort("cat", "dog"), *sort("more/cat", "more/dog", count=5))
    with pytest.raises(
        DataError, match="unclear whether more in .* is a class.*as folders beside it: cat, dog"
    ):
        open_labelled(spec)


def test_masks_within_classes_are_left_out(tmp_path):
    masks = [(f"{name}/masks/{i}.png", OTHER) for name in ("covid", "normal") for i in range(4)]
    spec = lay(tmp_path, *sort("covid/images", "normal/images"), *masks)
    count, said = always_right(spec, ["covid", "normal"])
    assert count == 2
    assert "8 pictures left out, in folders that annotate other pictures: masks." in said


def test_masks_beside_their_pictures_are_left_out(tmp_path):
    masks = [("benign/00_mask.png", OTHER), ("benign/00_mask_1.png", OTHER), ("malignant/10-GT.png", OTHER)]
    alone = [("benign/face_mask.png", 0)]
    spec = lay(tmp_path, *sort("benign", "malignant"), *masks, *alone)
    _, said = always_right(spec, ["benign", "malignant"])
    assert "3 pictures left out, named like masks of pictures beside them" in said
    assert len(open_labelled(spec).splits["all"]) == 7


@pytest.mark.parametrize(
    "inner", [("front", "back"), ("day 1", "day 2"), ("1", "2"), ("Left view", "Right view")]
)
def test_the_same_views_in_each_are_no_classes(tmp_path, inner):
    spec = lay(tmp_path, *(p for within in inner for p in sort(f"cat/{within}", f"dog/{within}")))
    count, said = always_right(spec, ["cat", "dog"])
    assert count == 2
    assert "the 4 folders inside them" in said


@pytest.mark.parametrize(
    "folders",
    [
        ["art/cup", "art/bike", "art/bed", "photo/cup", "photo/bike"],  # a domain lacks a class
        ["birds/images/001.Auk", "birds/images/002.Owl", "masks/001.Auk", "masks/002.Owl"],
        ["blur/1/n01440764", "blur/1/n01443537", "noise/1/n01440764", "noise/1/n01443537"],
        [f"fold{i}/{split}/{name}" for i in (1, 2) for split in ("train", "test") for name in ("cat", "dog")],
        [f"{source}/{digit}" for source in ("mnist", "svhn") for digit in range(10)],
    ],
)
def test_what_lies_inside_may_be_the_classes(tmp_path, folders):
    with pytest.raises(DataError, match="unclear which folders of .* are its classes.*give one of the outer"):
        open_labelled(lay(tmp_path, *sort(*folders)))


@pytest.mark.parametrize("called", ["images_{:03}", "HAM10000_images_part_{}", "Fold {}", "batch{}"])
def test_parts_of_one_set_are_no_classes(tmp_path, called):
    (tmp_path / "metadata_of_all.csv").write_text("image_id,dx\n")
    spec = lay(tmp_path, *sort(*(called.format(i) for i in range(1, 4))))
    with pytest.raises(DataError, match=r"named like parts of one set.*or give metadata_of_all\.csv"):
        open_labelled(spec)
