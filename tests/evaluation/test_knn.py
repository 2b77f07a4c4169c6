from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from evaluation_fakes import ColorEncoder, color_folder
from openslip.errors import ConfigError
from openslip.evaluation import knn


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    labels, query_labels = rng.integers(0, 4, 300), rng.integers(0, 4, 100)
    values = (centres[labels] + rng.normal(size=(300, 8))).astype(np.float32)
    queries = (centres[query_labels] + rng.normal(size=(100, 8))).astype(np.float32)
    return values, labels, queries


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_plain_votes_are_scikit_learns(problem, k):
    values, labels, queries = problem
    oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(values, labels)
    votes = knn.vote(values, labels, queries, 4, k=k, temperature=0)
    assert votes / k == pytest.approx(oracle.predict_proba(queries))
    assert np.array_equal(votes.argmax(axis=1), oracle.predict(queries))


def test_weighted_votes_equal_their_slow_twin_in_any_chunk(problem, monkeypatch):
    values, labels, queries = problem
    expected = np.zeros((100, 4))
    for q, query in enumerate(unit(queries)):
        cosine = unit(values) @ query
        for n in np.argsort(-cosine)[:20]:
            expected[q, labels[n]] += np.exp((cosine[n] - cosine.max()) / 0.07)
    assert knn.vote(values, labels, queries, 4) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(knn, "SIMILARITIES", 700)
    assert knn.vote(values, labels, queries, 4) == pytest.approx(expected, rel=1e-4)


def test_k_above_the_number_of_images_takes_all(problem):
    values, labels, queries = problem
    votes = knn.vote(values[:7], labels[:7], queries, 4, k=20, temperature=0)
    assert (votes == np.bincount(labels[:7], minlength=4)).all()


def test_a_sharp_vote_of_far_neighbours_is_a_vote():
    """All at a cosine near 0: exp((cosine - 1) / temperature) would be 0 for everybody."""
    values, queries = np.eye(8, dtype=np.float32), np.full((1, 8), 0.1, dtype=np.float32)
    queries[0, 3] = 0.2
    votes = knn.vote(values, np.arange(8), queries, 8, temperature=0.005)
    assert votes.argmax() == 3
    assert (votes[0, [0, 1, 2, 4]] > 0).all()


def test_who_gets_no_vote_is_not_among_the_best_five(tmp_path):
    """Seven classes, of which the test split has two that no training picture is of: they are not found by order."""
    root = color_folder(tmp_path / "odd", {"red": 4, "green": 4, "blue": 4, "gold": 4})
    for split, names in (("train", ("zebra",)), ("test", ("apple", "zero"))):
        for name in names:
            shutil.copytree(root / split / "red", root / split / name)
    results = {r.metric: r for r in knn.Knn(str(root), k=3).evaluate(ColorEncoder())}
    assert results["top5"].value == pytest.approx(16 / 24)
    assert results["mean_per_class"].value <= 4 / 6


def test_settings_that_make_no_sense_are_refused(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 2, "green": 2}))
    wrong: dict[str, Any]
    for wrong in ({"k": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(ConfigError, match="at least 1"):
            knn.Knn(spec, **wrong).check()


def test_finds_the_colours(tmp_path):
    spec = str(color_folder(tmp_path / "colors", {"red": 5, "green": 6, "blue": 7}))
    results = knn.Knn(spec, k=3).evaluate(ColorEncoder(("ssl_1", "ssl_2")))
    assert [(r.key, r.value, r.count) for r in results] == [
        ("knn:colors/top1", 1.0, 18),
        ("knn:colors/mean_per_class", 1.0, 18),
    ]
