from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from openslip.evaluation.classification import Samples, classification, softmax
from openslip.evaluation.metrics import calibration_error, resampled, roc_auc_interval


def scores(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels], labels


def test_calibration_error_is_that_of_equal_bins() -> None:
    logits, labels = scores(4000, 3)
    probabilities = softmax(logits)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # scikit-learn's bins are the same; it leaves out the weights.
    share, mean = calibration_curve(right, sure, n_bins=15)
    counts = np.histogram(sure, bins=np.linspace(0, 1, 16))[0]
    expected = (np.abs(share - mean) * counts[counts > 0]).sum() / len(labels)
    assert calibration_error(sure, right) == pytest.approx(expected, abs=1e-9)


def test_certain_and_always_right_is_no_error() -> None:
    assert calibration_error(np.ones(5), np.ones(5)) == 0
    assert calibration_error(np.ones(5), np.zeros(5)) == 1


def test_answers_say_what_was_said_of_each_sample() -> None:
    logits, labels = scores(40, 7)
    samples = Samples(np.arange(40) * 2, tuple(bytes([i]) * 16 for i in range(40)), tuple("abcdefg"))
    results = classification("knn:x", logits, labels, probabilities=softmax(logits), samples=samples)
    assert [result.metric for result in results] == ["top1", "top5", "mean_per_class", "ece"]
    said = results[0].answers
    assert said is not None
    assert all(result.answers is None for result in results[1:])
    order = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(said.best, order[:, :5])
    np.testing.assert_array_equal(
        said.ranks, [list(row).index(label) + 1 for row, label in zip(order, labels)]
    )
    np.testing.assert_allclose(
        said.probabilities, np.take_along_axis(softmax(logits), order[:, :5], 1), rtol=1e-6
    )
    np.testing.assert_array_equal(said.rows, np.arange(40) * 2)


def test_samples_are_told_apart_where_their_pictures_are_known() -> None:
    digests = tuple(bytes([i]) * 16 for i in range(3))
    numbers = Samples(np.arange(3), digests, ("a", "b")).numbers("aba")
    assert numbers is not None
    assert len({*numbers.tolist()}) == 3
    moved = Samples(np.arange(3), digests[::-1], ("a", "b")).numbers("aba")
    assert moved is not None
    assert moved.tolist() == numbers.tolist()[::-1]
    for unknown in ((), (*digests[:2], b"")):
        assert Samples(np.arange(3), unknown, ("a", "b")).numbers("aba") is None


def test_every_number_is_its_outcomes_value_and_in_its_interval() -> None:
    logits, labels = scores(60, 6)
    for result in classification("knn:x", logits, labels, probabilities=softmax(logits)):
        assert result.outcomes is not None
        assert result.outcomes.value() == result.value
        assert result.low <= result.value <= result.high


def test_the_bootstrap_holds_the_mean_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        values = rng.normal(size=80)
        low, high = resampled(lambda rows, values=values: float(values[rows].mean()), 80)
        held += low <= 0 <= high
    assert 178 <= held <= 199  # binomial, outside with a chance below 1 in 1,000


def test_the_bootstrap_draws_whole_groups() -> None:
    values = np.repeat([0.0, 1.0], 50)
    alone = resampled(lambda rows: float(values[rows].mean()), 100)
    together = resampled(lambda rows: float(values[rows].mean()), 100, np.repeat([0, 1], 50))
    assert together == (0.0, 1.0)
    assert 0.3 < alone[0] < alone[1] < 0.7


def test_the_papers_metric_comes_first() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(60, 8)), rng.integers(0, 8, 60)
    for first in ("mean_per_class", "top5", "top1_top5"):
        found = {one.metric: one for one in classification("zeroshot:x", scores, labels, first=first)}
        assert next(iter(found)) == first
        assert {"top1", "top5", "mean_per_class"} <= set(found)
    both = found["top1_top5"]
    assert both.value == pytest.approx((found["top1"].value + found["top5"].value) / 2)
    assert both.low < both.value < both.high
    assert both.outcomes is not None
    assert both.outcomes.value() == both.value
    top1, top5 = found["top1"].outcomes, found["top5"].outcomes
    assert top1 is not None
    assert top5 is not None
    assert both.outcomes.values.tolist() == ((top1.values + top5.values.astype(float)) / 2).tolist()
    assert classification("x", scores, labels, first="nothing")[0].metric == "top1"


def test_roc_auc_of_two_classes_has_delongs_interval() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 80)
    scores = rng.normal(size=(80, 2)) + np.eye(2)[labels]
    auc, top1, *_ = classification("zeroshot:memes", scores, labels, first="roc_auc")
    assert (auc.metric, top1.metric) == ("roc_auc", "top1")
    assert auc.value == pytest.approx(roc_auc_score(labels, scores[:, 1] - scores[:, 0]))
    assert (auc.low, auc.high) == pytest.approx(roc_auc_interval(scores[:, 1] - scores[:, 0], labels))
    assert auc.outcomes is not None
    assert auc.outcomes.value() == auc.value
    # Of one class alone there is none, and the other numbers are there.
    assert classification("x", scores, np.zeros(80, int), first="roc_auc")[0].metric == "top1"


def test_samples_that_are_all_alike_do_not_pass_for_certain() -> None:
    scores = np.eye(7, dtype=np.float32)[[3, 4]]
    right, *_ = classification("t", scores, np.array([3, 4]), first="top1_top5")
    assert (right.metric, right.value, right.high) == ("top1_top5", 1, 1)
    assert right.low < 0.5
    half, *_ = classification("t", scores[:1] + scores[1:], np.array([4]), first="top1_top5")
    assert half.low < half.value == 0.5 < half.high


def test_probabilities_that_are_no_numbers_have_no_calibration() -> None:
    scores = np.full((3, 7), np.nan, np.float32)
    found = classification("t", scores, np.arange(3), probabilities=scores)
    by_name = {result.metric: result.value for result in found}
    assert by_name["top1"] == 0
    assert np.isnan(by_name["ece"])


def test_an_area_of_few_samples_does_not_pass_for_certain() -> None:
    low, high = roc_auc_interval(np.array([0, 0, 1, 1.0]), np.array([0, 0, 1, 1]))
    assert low < 0.5
    assert high == 1
    low, high = roc_auc_interval(np.arange(100.0), np.arange(100) == 99)
    assert low < 0.5
    assert high == 1
