"""The split of data that came without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.labelled import splits


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_held_out_is_a_stratified_fifth(labels):
    labels = np.array(labels)
    keys = [f"{i}" for i in range(len(labels))]
    test = splits.held_out(keys, labels)
    for label in set(labels.tolist()):
        total, held_out = (labels == label).sum(), (labels[test] == label).sum()
        assert held_out == (0 if total == 1 else max(1, round(0.2 * total)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Training_Set", "train"), ("TRAIN-images", "train"), ("train2017", "train")),
        *(("seg_train", "train"), ("trainset", "train"), ("train (1)", "train"), ("train_80", "train")),
        *(
            ("val", "val"),
            ("validation_data", "val"),
            ("Valid", "val"),
            ("dev", "val"),
            ("val_images", "val"),
        ),
        *(("test_set", "test"), ("Testing", "test"), ("evaluation", "test"), ("test1", "test")),
        *(("trainer", ""), ("train station", ""), ("test tube", ""), ("value", ""), ("device", ""), ("", "")),
        *(("train_val", ""), ("trainA", ""), ("images", ""), ("2017", ""), ("birds_train", "")),
    ],
)
def test_names_of_splits(name, split):
    assert splits.split_called(name) == split


def test_names_of_splits_beside_each_other():
    assert splits.splits_called(["birds_train", "birds_test", "cat"]) == {
        "birds_train": "train",
        "birds_test": "test",
    }
    assert splits.splits_called(["train station", "test tube"]) == {}
    assert splits.splits_called(["train", "car"]) == {"train": "train"}
