"""Exact search finds what sorting all scores finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.search import exact


def slow(
    queries: np.ndarray, vectors: np.ndarray, count: int, among: np.ndarray | None = None
) -> exact.Found:
    """Every score in float64, rounded once; all rows sorted."""
    numbers = np.arange(len(vectors)) if among is None else among
    rows, scores = [], []
    for query in queries:
        found = [np.float32(sum(float(a) * float(b) for a, b in zip(query, vectors[n]))) for n in numbers]
        order = sorted(range(len(numbers)), key=lambda i: (-found[i], numbers[i]))[:count]
        rows.append([numbers[i] for i in order])
        scores.append([found[i] for i in order])
    return exact.Found(np.array(rows, np.int64), np.array(scores, np.float32))


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    values = rng.standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 60),
    count=st.integers(1, 70),
    seed=st.integers(0, 1000),
    copies=st.integers(0, 30),
    block=st.integers(1, 25),
    data=st.data(),
)
def test_it_is_what_sorting_all_scores_gives(rows, count, seed, copies, block, data) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, rows, 8).astype(np.float16)
    vectors[rng.integers(0, rows, copies)] = vectors[0]  # the same picture again and again, in other blocks
    queries = unit(rng, 3, 8)
    chosen = data.draw(st.none() | st.lists(st.integers(0, rows - 1), unique=True, min_size=1).map(sorted))
    among = None if chosen is None else np.array(chosen, np.int64)
    before, exact.BLOCK = exact.BLOCK, block
    try:
        found = exact.nearest(queries, vectors, count, among)
    finally:
        exact.BLOCK = before
    right = slow(queries, vectors, count, among)
    np.testing.assert_allclose(found.scores, right.scores, atol=1e-7)
    # Sums in another order may round a score the other way: rows may change places where scores are that near.
    for ours, theirs, scores in zip(found.rows, right.rows, right.scores):
        moved = ours != theirs
        assert all(np.min(np.abs(np.delete(scores, i) - scores[i])) < 2e-7 for i in np.flatnonzero(moved))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equal_vectors_come_in_their_order_wherever_they_lie(tmp_path: Path, dtype) -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng, 3 * exact.BLOCK + 5, 24).astype(dtype)
    places = [1, exact.BLOCK - 1, exact.BLOCK, 2 * exact.BLOCK + 7, 3 * exact.BLOCK + 4]
    vectors[places] = vectors[places[0]]
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    query = vectors[places[0]].astype(np.float32)[None]
    found = exact.nearest(query, mapped, 5)
    assert found.rows.tolist() == [places]
    assert len(set(found.scores[0].tolist())) == 1
    assert exact.nearest(query, mapped, 3).rows.tolist() == [
        places[:3]
    ]  # the lowest rows, where not all have room


def test_no_rows_and_no_queries() -> None:
    vectors = np.zeros((0, 4), np.float16)
    assert exact.nearest(np.zeros((2, 4), np.float32), vectors, 3).rows.shape == (2, 0)
    assert exact.nearest(np.zeros((0, 4), np.float32), np.zeros((5, 4), np.float16), 3).rows.shape == (0, 3)
    nobody = np.empty(0, np.int64)
    assert exact.nearest(
        np.zeros((1, 4), np.float32), np.zeros((5, 4), np.float16), 3, nobody
    ).rows.shape == (1, 0)
