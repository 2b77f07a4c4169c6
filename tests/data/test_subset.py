from __future__ import annotations

import pickle

import pytest

from check_fakes import Odds
from openslip.data.subset import Subset
from openslip.errors import DataError
from openslip.scenes import Scenes


def test_the_others_in_their_order() -> None:
    left = pickle.loads(pickle.dumps(Subset(Odds(6), [4, 1, 4])))
    assert [left[k].key for k in range(len(left))] == ["key/0", "key/2", "key/3", "key/5"]
    assert (left.name, left.block, left.label(0)) == ("odds", 1, None)
    assert left[-1].key == "key/5"
    with pytest.raises(IndexError):
        left[4]


def test_the_fingerprint_says_which_are_left_out() -> None:
    assert Subset(Odds(6), [4, 1]).fingerprint == Subset(Odds(6), [1, 4, 1]).fingerprint
    assert len({Subset(Odds(60), [k]).fingerprint for k in range(60)}) == 60


def test_labels_go_along() -> None:
    scenes = Scenes("test", 5, size=8)
    left = Subset(scenes, [0, 2])
    assert [left.label(k) for k in range(3)] == [scenes.label(k) for k in (1, 3, 4)]
    assert left.class_names == scenes.class_names


def test_wrong_lists() -> None:
    with pytest.raises(DataError, match="no record 6 "):
        Subset(Odds(6), [2, 6])
    with pytest.raises(DataError, match="no record -1 "):
        Subset(Odds(6), [-1])
    with pytest.raises(DataError, match="is left"):
        Subset(Odds(2), [0, 1])
