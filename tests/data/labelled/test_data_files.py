"""Which files of a set are of which split."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openslip.data.labelled.data_files import DataFiles, find, split_in
from openslip.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def place_of(spec) -> DataFiles:
    found = find(str(spec))
    assert found is not None
    return found


def by_split(spec, root):
    return {s: [os.path.relpath(path, root) for path in paths] for s, paths in place_of(spec).splits.items()}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00004.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("default/test/0000.parquet", "test"),
        ("TEST/part-0.parquet", "test"),
        ("imagenet-val-000012.tar", "val"),
        ("testing_birds.parquet", "test"),
        ("training-data.parquet", "train"),
        ("my_train.parquet", "train"),
        ("latest.parquet", ""),
        ("restraint-0.tar", ""),
        ("device.csv", ""),
    ],
)
def test_split_in(path, split):
    assert split_in(path) == split


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train-0.parquet", "test-0.parquet"], {"train": ["train-0.parquet"], "test": ["test-0.parquet"]}),
        (["data/train.parquet", "data/dev.parquet"], {"train": ["data/train.parquet"], "val": ["data/dev.parquet"]}),
        (["default/train/0000.parquet", "default/test/0000.parquet"],
         {"train": ["default/train/0000.parquet"], "test": ["default/test/0000.parquet"]}),
        (["a.parquet", "b.parquet"], {"all": ["a.parquet", "b.parquet"]}),
        (["testing_birds.parquet"], {"all": ["testing_birds.parquet"]}),
        (["my_train.parquet", "my_test.parquet"], {"train": ["my_train.parquet"], "test": ["my_test.parquet"]}),
        (["test/0.tar", "train/0.tar"], {"train": ["train/0.tar"], "test": ["test/0.tar"]}),
        (["test.parquet", "deeper/train.parquet"], {"test": ["test.parquet"]}),
        ([".hidden.parquet", "test.parquet"], {"test": ["test.parquet"]}),
        (["00000.tar", "00000.parquet"], {"all": ["00000.tar"]}),
    ],
)  # fmt: skip
def test_folders(tmp_path, names, found):
    touch(tmp_path, *names)
    assert by_split(tmp_path, tmp_path) == found


def test_several_sets_side_by_side_are_refused(tmp_path):
    touch(
        tmp_path / "a",
        *(f"{config}/{split}-0.parquet" for config in ("en", "de") for split in ("train", "test")),
    )
    with pytest.raises(
        DataError, match=r"several sets side by side.*de/test-0.parquet, en/test-0.parquet.*a/de'"
    ):
        find(str(tmp_path / "a"))
    touch(tmp_path / "b", "cats-train.csv", "cats-test.parquet", "cats-train.parquet", "dogs-train.parquet")
    with pytest.raises(DataError, match=r"several sets side by side.*cats-train.parquet, dogs-train.parquet"):
        find(str(tmp_path / "b"))
    assert by_split(tmp_path / "b/cats-*.parquet", tmp_path / "b") == {
        "train": ["cats-train.parquet"],
        "test": ["cats-test.parquet"],
    }
    touch(tmp_path / "c", "x.parquet", "y.tar")
    with pytest.raises(DataError, match="Parquet files and tar shards"):
        find(str(tmp_path / "c"))


def test_what_is_named_is_measured(tmp_path):
    touch(
        tmp_path,
        "train-0.parquet",
        "train-1.parquet",
        "test-0.parquet",
        "val.csv",
        "other-train.csv",
        "train.csv",
    )
    assert by_split(tmp_path / "train-0.parquet", tmp_path) == {"all": ["train-0.parquet"]}
    assert by_split(tmp_path / "test-0.parquet", tmp_path) == {
        "train": ["train-0.parquet", "train-1.parquet"],
        "test": ["test-0.parquet"],
    }
    assert by_split(tmp_path / "val.csv", tmp_path) == {"train": ["train.csv"], "val": ["val.csv"]}
    assert by_split(tmp_path / "t*-0.parquet", tmp_path) == {
        "train": ["train-0.parquet"],
        "test": ["test-0.parquet"],
    }
    assert place_of(tmp_path / "train-0.parquet").notes == [
        f"{tmp_path}/train-0.parquet alone is measured, without the other files of its set (2)"
    ]
    touch(tmp_path / "s", "train/0.tar", "test/0.tar", "test/1.tar")
    assert by_split(tmp_path / "s/test/*.tar", tmp_path / "s") == {
        "train": ["train/0.tar"],
        "test": ["test/0.tar", "test/1.tar"],
    }


def test_the_folder_of_a_split(tmp_path):
    touch(tmp_path, "train/0.tar", "test/0.tar", "test/1.tar")
    place = place_of(tmp_path / "test")
    assert {split: len(files) for split, files in place.splits.items()} == {"train": 1, "test": 2}
    assert (place.root, place.beside) == (tmp_path, True)
    assert list(place_of(tmp_path / "train").splits) == ["all"]


def test_files_of_no_split_are_said(tmp_path):
    touch(tmp_path, "train.parquet", "test.parquet", "extra.parquet")
    assert "are left out (1): extra.parquet" in place_of(tmp_path).notes[0]


def test_addresses(tmp_path):
    place = place_of("https://test.example.com/set/train-0.parquet")
    assert (place.splits, place.root) == ({"all": ["https://test.example.com/set/train-0.parquet"]}, None)
    assert list(place_of("https://example.com/set/{train,test}-0.parquet").splits) == ["train", "test"]
    assert place_of("https://example.com/set/train-0.tar").kind == "tar"
    with pytest.raises(DataError, match="only Parquet files and tar shards are read.*Copy"):
        find("https://example.com/set/train.csv")
    with pytest.raises(DataError, match="hf download"):
        find("hf:owner/name")
    touch(tmp_path, "a.parquet", "b.tar")
    with pytest.raises(DataError, match="come from a folder"):
        find(str(tmp_path / "*.*"))


def test_pictures_are_no_data_files(tmp_path):
    touch(
        tmp_path,
        "train/cat/1.jpg",
        "train/cat/1.parquet",
        "train/dog/1.jpg",
        "train/cat/notes.csv",
        "all.tar",
    )
    assert find(str(tmp_path)) is None
    touch(tmp_path, "metadata.csv")
    assert place_of(tmp_path).files == [str(Path(tmp_path) / "metadata.csv")]
