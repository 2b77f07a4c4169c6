from __future__ import annotations

import gc
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from openslip.data.sources.image_files import Strings
from openslip.data.storage import shared_array
from openslip.data.storage.shared_array import SharedArray


def total(held: SharedArray, strings: Strings) -> tuple[int, str, int]:
    """In another process: what arrived, and how much memory of its own it took."""
    return int(held.array.sum()), strings[-1], held.array.nbytes


@pytest.mark.parametrize("memory", [True, False])
def test_other_processes_see_it(monkeypatch, tmp_path, memory) -> None:
    monkeypatch.setattr(shared_array, "SMALL", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    held, strings = SharedArray(np.arange(1000).reshape(10, 100)), Strings(f"text {i} é" for i in range(200))
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        for _ in range(2):
            assert pool.apply(total, (held, strings)) == (499500, "text 199 é", 8000)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(held))))  # handed on by who got it
    assert np.array_equal(again.array, np.arange(1000).reshape(10, 100))
    assert len(list(tmp_path.glob("openslip-*"))) == (0 if memory else 3)
    del held, strings
    gc.collect()
    assert list(tmp_path.glob("openslip-*")) == []


def test_it_is_one_memory(monkeypatch) -> None:
    monkeypatch.setattr(shared_array, "SMALL", 100)
    held = SharedArray(np.arange(1000))
    place = pickle.dumps(held)
    assert len(place) < 300
    assert pickle.dumps(held) == place
    assert not pickle.loads(place).array.flags.owndata
    assert not held.array.flags.owndata  # nor has this process two


def test_small_arrays_are_copied() -> None:
    held = pickle.loads(pickle.dumps(SharedArray(np.arange(5))))
    assert held.array.tolist() == [0, 1, 2, 3, 4]
    assert len(held) == 5


@pytest.mark.parametrize("texts", [[], ["", "a", "\ud800 ☃"], ["x" * 300, "y"]])
def test_strings_stay_what_they_are(monkeypatch, texts) -> None:
    monkeypatch.setattr(shared_array, "SMALL", 100)
    strings = Strings(texts)
    copy = pickle.loads(pickle.dumps(strings))
    assert list(copy) == list(strings) == texts
    with pytest.raises(TypeError, match="cannot grow"):
        strings.append("z")
    with pytest.raises(TypeError, match="cannot grow"):
        copy.append("z")
