"""Labelled images in folders."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from evaluation_fakes import color_folder
from openslip.data.labelled import load_labelled
from openslip.errors import ConfigError, DataError


def test_split_folders(tmp_path):
    color_folder(tmp_path / "my_set", {"red": 3, "green": 2})
    (tmp_path / "my_set/train/deep_blue").mkdir()
    data = load_labelled(str(tmp_path / "my_set"), "test")
    assert (data.name, data.split, len(data), data.named) == ("my_set", "test", 5, True)
    assert data.class_names == ("green", "red")
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.labels.dtype == np.int64
    assert data.images[4] == (tmp_path / "my_set/test/red/002.png").read_bytes()
    assert list(pickle.loads(pickle.dumps(data)).images) == list(data.images)


def test_validation_stands_in_for_test(tmp_path):
    color_folder(tmp_path, {"red": 1, "green": 1}, splits=("train", "val"))
    assert load_labelled(str(tmp_path), "test").split == "val"
    assert load_labelled(str(tmp_path), "validation").split == "val"


def test_no_splits_gives_a_fixed_stratified_fifth(tmp_path, caplog):
    color_folder(tmp_path / "plain", {"red": 10, "green": 20, "gold": 1}, splits=())
    train, test = (load_labelled(str(tmp_path / "plain"), split) for split in ("train", "test"))
    assert np.bincount(test.labels, minlength=3).tolist() == [0, 4, 2]  # gold, green, red
    assert np.bincount(train.labels).tolist() == [1, 16, 8]
    assert not set(train.images) & set(test.images)
    assert list(load_labelled(str(tmp_path / "plain"), "test").images) == list(test.images)
    assert "plain has no train and test split" in caplog.text


def test_file_that_went_away_is_one_images_error(tmp_path):
    color_folder(tmp_path, {"red": 2, "green": 1})
    data = load_labelled(str(tmp_path))
    (tmp_path / "test/red/001.png").unlink()
    with pytest.raises(DataError, match=r"does not exist.*001\.png"):
        data.images[2]


def test_errors_teach(tmp_path):
    color_folder(tmp_path / "birds", {"red": 2, "green": 1}, splits=("train",))
    with pytest.raises(DataError, match="Did you mean 'birds'"):
        load_labelled(str(tmp_path / "brids"))
    with pytest.raises(DataError, match="no labelled test split"):
        load_labelled(str(tmp_path / "birds"))
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        load_labelled(str(tmp_path / "birds"), "tset")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no labelled images"):
        load_labelled(str(tmp_path / "empty"))
    color_folder(tmp_path / "one", {"red": 2})
    with pytest.raises(DataError, match="fewer than two classes"):
        load_labelled(str(tmp_path / "one"))
    (tmp_path / "x.zip").touch()
    with pytest.raises(DataError, match=r"folder or a \.parquet"):
        load_labelled(str(tmp_path / "x.zip"))


def test_names_that_are_not_utf8(tmp_path):
    color_folder(tmp_path, {"red": 3, "blue": 3}, splits=())
    (tmp_path / "red" / "000.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/red/\xff.png"))
    whole = [load_labelled(str(tmp_path), split) for split in ("train", "test")]
    assert sum(map(len, whole)) == 6
