from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, top_k_accuracy_score

from openslip.errors import EvaluationError
from openslip.evaluation import metrics
from openslip.evaluation.classification import classification


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk_accuracy_is_scikit_learns(k):
    rng = np.random.default_rng(k)
    scores, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    expected = top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert metrics.correct_topk(scores, labels, k).mean() == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=8), st.data())
def test_ties_count_against_the_model_in_any_order_of_the_classes(drawn, data):
    scores = np.array(drawn, float)
    labels = np.array([data.draw(st.integers(0, 5)) for _ in drawn])
    for k in (1, 5):
        # the slow twin: the label's place when every other class of the same score comes first
        places = [1 + sum(o >= row[y] for c, o in enumerate(row) if c != y) for row, y in zip(drawn, labels)]
        assert metrics.correct_topk(scores, labels, k).tolist() == [place <= k for place in places]
    order = data.draw(st.permutations(range(6)))
    moved = metrics.correct_topk(scores[:, order], np.argsort(order)[labels], 5)
    assert moved.tolist() == metrics.correct_topk(scores, labels, 5).tolist()


@pytest.mark.parametrize("score", [0.0, 0.7, np.nan, np.inf])
def test_a_model_for_which_all_is_alike_scores_nothing(score):
    results = classification("t", np.full((12, 6), score), np.arange(12) % 6)
    assert [(r.metric, r.value) for r in results] == [("top1", 0), ("top5", 0), ("mean_per_class", 0)]


def test_what_is_not_a_number_is_never_right():
    scores = np.array([[np.nan, 1.0, 0.0], [0.5, np.nan, 0.0], [0.5, 0.2, 0.0]])
    assert metrics.correct_topk(scores, np.array([0, 0, 0]), 1).tolist() == [False, False, True]


def test_mean_per_class_is_scikit_learns_and_ignores_absent_classes():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 5, 9], size=300, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    guess = np.where(rng.random(300) < 0.6, labels, 0)
    expected = balanced_accuracy_score(labels, guess)
    assert metrics.mean_per_class(guess == labels, labels) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
def test_roc_auc_is_scikit_learns_with_ties(samples):
    scores, labels = np.array([s for s, _ in samples], float), np.array([int(b) for _, b in samples])
    if len(set(labels.tolist())) < 2:
        with pytest.raises(EvaluationError, match="both"):
            metrics.roc_auc(scores, labels)
        return
    value = metrics.roc_auc(scores, labels)
    assert value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    low, high = metrics.roc_auc_interval(scores, labels)
    assert 0 <= low <= value <= high <= 1


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(count, data):
    hits = data.draw(st.integers(0, count))
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert metrics.wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_mean_per_class_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    truth, counts = np.array([0.95, 0.5, 0.2, 0.8]), np.array([200, 50, 20, 10])
    labels = np.repeat(np.arange(4), counts)
    covered = 0
    for _ in range(500):
        low, high = metrics.mean_per_class_interval(rng.random(len(labels)) < truth[labels], labels)
        covered += low <= truth.mean() <= high
    assert 0.92 <= covered / 500 <= 0.99
    all_right = metrics.mean_per_class_interval(np.ones(6, bool), np.repeat([0, 1], 3))
    assert all_right[0] < 0.9
    assert all_right[1] == 1.0


def test_auc_interval_covers_the_truth():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [60, 40])
    covered = 0
    for _ in range(400):
        low, high = metrics.roc_auc_interval(rng.normal(labels * 1.0), labels)
        covered += low <= 0.760250 <= high  # Φ(1/√2)
    assert 0.91 <= covered / 400 <= 0.99


def test_clustered_wilson_widens_with_the_clusters_and_not_otherwise():
    rng = np.random.default_rng(3)
    per_image = rng.random(200) < 0.4
    alike, groups = np.repeat(per_image, 5).astype(float), np.repeat(np.arange(200), 5)
    assert metrics.wilson_clustered(alike, groups) == pytest.approx(
        metrics.wilson(per_image.sum(), 200), abs=2e-3
    )
    single = metrics.wilson_clustered(per_image.astype(float), np.arange(200))
    assert single == pytest.approx(metrics.wilson(per_image.sum(), 200), abs=1e-9)
    none = metrics.wilson_clustered(np.zeros(10), np.repeat([0, 1], 5))
    assert none == pytest.approx(metrics.wilson(0, 2))


def test_median_interval_covers_the_median():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        low, high = metrics.median_interval(rng.exponential(size=51))
        covered += low <= np.log(2) <= high
    assert covered / 400 >= 0.93
    assert metrics.median_interval(np.array([3.0])) == (3.0, 3.0)


def test_classification_reports_counts_and_top5_only_for_many_classes():
    scores, labels = np.eye(6), np.arange(6)
    results = classification("knn:x", scores, labels, skipped=2)
    assert [(r.metric, r.value, r.count, r.skipped) for r in results] == [
        ("top1", 1.0, 6, 2),
        ("top5", 1.0, 6, 2),
        ("mean_per_class", 1.0, 6, 2),
    ]
    assert all(r.low <= r.value <= r.high for r in results)
    assert [r.metric for r in classification("knn:x", np.eye(3), np.arange(3))] == [
        "top1",
        "mean_per_class",
    ]
    with pytest.raises(EvaluationError, match="no sample"):
        classification("knn:x", np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize("count", range(1, 60))
def test_wilson_holds_the_share_itself(count: int) -> None:
    for successes in range(count + 1):
        low, high = metrics.wilson(successes, count)
        assert 0 <= low <= successes / count <= high <= 1


def test_the_interval_over_draws_and_samples_holds_the_number():
    rng = np.random.default_rng(0)
    held, expected = 0, 0.6
    for _ in range(300):
        samples, draws = rng.normal(0, 0.15, 200), rng.normal(0, 0.04, (5, 1))
        hits = rng.random((5, 200)) < np.clip(expected + samples + draws, 0, 1)
        low, high = metrics.crossed_interval(hits)
        held += low <= expected <= high
    assert 0.93 <= held / 300 <= 0.995


def test_the_interval_of_a_deviation_is_that_of_chi_square():
    values = np.array([0.51, 0.55, 0.58, 0.5, 0.61])
    least, most = stats.chi2.ppf([0.025, 0.975], 4)
    expected = values.std(ddof=1) * np.sqrt(4 / np.array([most, least]))
    assert metrics.deviation_interval(values) == pytest.approx(expected, rel=0.05)


def test_student_s_points() -> None:
    for freedom in [*range(1, 200), 1.1, 1.5, 2.5, 3.9, 9.99, 10.01, 1e6]:
        assert metrics.t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-3)
