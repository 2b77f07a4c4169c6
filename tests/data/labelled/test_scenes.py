"""The embedded scenes as labelled images."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from openslip.data.labelled import load_labelled
from openslip.data.labelled import scenes as labelled_scenes
from openslip.data.record import Record
from openslip.errors import DataError


@pytest.fixture(autouse=True)
def scenes(monkeypatch):
    made = []

    class Scenes:
        class_names = ("fish", "bird")

        def __init__(self, split, count, seed=0, size=96):
            self.key, self.count = (split, seed), count
            made.append((split, count, seed))

        def __len__(self):
            return self.count

        def label(self, index):
            return index % 2

        def __getitem__(self, index):
            return Record(np.full((2, 2, 3), index, np.uint8), (), "", "scenes")

    monkeypatch.setitem(sys.modules, "openslip.scenes", SimpleNamespace(Scenes=Scenes))
    labelled_scenes.open_scenes.cache_clear()
    yield made
    labelled_scenes.open_scenes.cache_clear()


def test_splits_counts_and_seed(scenes):
    data = load_labelled("scenes", "test")
    assert (data.name, len(data), data.class_names) == ("scenes", 2000, ("fish", "bird"))
    assert data.labels[:3].tolist() == [0, 1, 0]
    assert data.images[7] is data.images[7]
    load_labelled("scenes", "train")
    load_labelled("scenes:heldout:30", "test")
    load_labelled("scenes:heldout:30", "train")
    load_labelled("scenes:val:20", "test")
    assert {(s, n) for s, n, _ in scenes} == {
        ("train", 4000),
        ("test", 2000),
        ("train", 60),
        ("heldout", 30),
        ("train", 40),
        ("test", 20),
    }


def test_what_settings_are_chosen_by_is_not_what_is_reported(scenes):
    for spec in ("scenes:test:9", "scenes:val:9"):
        load_labelled(spec, "test")
        load_labelled(spec, "train")
    test, val = {seed for _, _, seed in scenes[:2]}, {seed for _, _, seed in scenes[2:]}
    assert len(test) == len(val) == 1
    assert test != val
    assert min(test) > 2**32  # no seed that people train with


def test_errors_teach():
    with pytest.raises(DataError, match="Did you mean 'heldout'"):
        load_labelled("scenes:held-out")
    with pytest.raises(DataError, match="count"):
        load_labelled("scenes:test:many")
