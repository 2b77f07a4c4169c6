from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openslip.errors import ConfigError
from openslip.evaluation.fingerprint import of_picture
from openslip.search import duplicates
from openslip.search.duplicates import find_duplicates, near, write_list
from openslip.tools.check.listing import read_list
from searched import some_vectors, write_index


def slow_near(vectors: np.ndarray, threshold: float) -> tuple[list[int], list[float]]:
    """`near` as its docstring says it."""
    firsts, scores, kept = [], [], list[int]()
    for row, vector in enumerate(vectors.astype(np.float64)):
        products = {k: np.float32((vectors[k].astype(np.float64) * vector).sum()) for k in kept}
        found = next((k for k in kept if products[k] >= threshold), row)
        firsts.append(found)
        scores.append(products.get(found, np.float32(1)))
        if found == row:
            kept.append(row)
    return firsts, scores


def clustered(count: int, spread: float, seed: int, dim: int = 8) -> np.ndarray:
    """Return vectors of length 1 around a few centres, some of them equal."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((7, dim))[rng.integers(0, 7, count)] + spread * rng.standard_normal(
        (count, dim)
    )
    found[rng.integers(0, count, count // 5)] = found[0]
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@given(
    st.integers(0, 70),
    st.sampled_from([0.05, 0.2, 1.0]),
    st.sampled_from([0.5, 0.9, 0.97, 1.0]),
    st.integers(0, 1000),
    st.sampled_from([(1, 1), (3, 5), (16, 4), (1024, 8192)]),
)
def test_copies_are_those_of_the_first_kept_however_the_work_is_cut(
    count, spread, threshold, seed, blocks
) -> None:
    vectors = clustered(count, spread, seed) if count else np.empty((0, 8), np.float16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", blocks[0])
        patch.setattr(duplicates, "ACROSS", blocks[1])
        patch.setattr(duplicates, "_PAIRS", 3)
        firsts, scores = near(vectors, threshold)
    expected, expected_scores = slow_near(vectors, threshold)
    assert firsts.tolist() == expected
    np.testing.assert_array_equal(scores, np.array(expected_scores, np.float32))


def test_a_threshold_between_two_roundings_is_decided_in_float64(monkeypatch) -> None:
    """Thresholds that are similarities of the set: float32 products, in whatever order, fall on both sides."""
    vectors = clustered(60, 0.3, 1, 64)
    for a, b in [(3, 9), (0, 50), (20, 21), (7, 44)]:
        threshold = float(np.float32((vectors[a].astype(np.float64) * vectors[b]).sum()))
        expected = slow_near(vectors, threshold)[0]
        for block in (1, 7, 64):
            monkeypatch.setattr(duplicates, "BLOCK", block)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert near(vectors, threshold)[0].tolist() == expected


def test_a_chain_is_no_group() -> None:
    """Each is alike to the one before, and the last to the first not at all."""
    angles = np.deg2rad(np.arange(0, 60, 6))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    firsts, _ = near(vectors, np.cos(np.deg2rad(10)))
    assert firsts.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]


def digests(*numbers: int) -> list[str]:
    return [of_picture(bytes([number])).hex() for number in numbers]


@pytest.fixture
def found(tmp_path: Path) -> duplicates.Duplicates:
    """Eight pictures: 0, 2, 3 have the same bytes, 1 and 4 look like 0, 5 like nothing, 6 and 7 have the same bytes."""
    vectors = some_vectors(8, seed=5)
    vectors[[1, 2, 3, 4]] = vectors[0]
    vectors[7] = vectors[6]
    vectors[1, 0] += np.float16(0.02)
    captions = [["A  dress"], ["a dress"], ["a dress"], ["a red dress"], ["a shirt"], [], [], []]
    index = write_index(
        tmp_path / "index",
        vectors,
        captions=captions,
        digest=digests(1, 2, 1, 1, 3, 4, 5, 5),
        record=range(10, 18),
    )
    return find_duplicates(index)


def test_exact_copies_are_told_from_near_ones_and_other_captions_from_equal(found) -> None:
    assert found.twins.tolist() == [0, 1, 0, 0, 4, 5, 6, 6]
    assert found.lookalikes.tolist() == [0, 0, 0, 0, 0, 5, 6, 6]
    assert found.whats == [
        "",
        "near copy",
        "exact copy",
        "same picture, other captions",
        "near copy, other captions",
        "",
        "",
        "exact copy",
    ]
    assert [rows.tolist() for rows in found.groups] == [[0, 1, 2, 3, 4], [6, 7]]
    assert list(found.counts().values()) == [2, 1, 1, 1]


def test_the_list_is_one_that_convert_reads(found, tmp_path: Path) -> None:
    path = tmp_path / "dup.jsonl"
    assert write_list(path, found) == 5
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1] == {"index": 12, "key": "k2", "what": ["exact copy"], "of": 10}
    assert lines[0] == {
        "index": 11,
        "key": "k1",
        "what": ["near copy"],
        "of": 10,
        "similarity": round(float(found.similarity[1]), 4),
    }
    assert sorted(read_list(path)) == [12, 17]
    assert sorted(read_list(path, near=True)) == [11, 12, 17]


def test_no_pictures_no_copies(tmp_path: Path) -> None:
    found = find_duplicates(write_index(tmp_path / "index", some_vectors(3)))
    assert found.groups == []
    assert list(found.entries()) == []
    assert found.whats == ["", "", ""]


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_is_a_similarity(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        find_duplicates(write_index(tmp_path / "index", some_vectors(3)), threshold)
