"""Average precision and ROC AUC of several labels a picture are scikit-learn's, and weights stand for samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from openslip.evaluation.metrics import roc_auc
from openslip.evaluation.outcomes import Outcomes
from openslip.evaluation.ranking import Ranking


@st.composite
def ranked(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    count, classes, kinds = (
        draw(st.integers(2, 30)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([2, 5, 10**6])),
    )
    scores = rng.integers(0, kinds, (count, classes)) / kinds  # few kinds make many ties
    return scores, (rng.random((count, classes)) < draw(st.sampled_from([0.1, 0.5]))).astype(np.int8), rng


@given(ranked())
def test_each_class_is_scikit_learns(drawn):
    scores, labels, _ = drawn
    precision, area = Ranking(scores, labels).average_precision(), Ranking(scores, labels).roc_auc()
    for c in range(labels.shape[1]):
        if not labels[:, c].any():
            assert np.isnan(precision[c])
        else:
            assert precision[c] == pytest.approx(average_precision_score(labels[:, c], scores[:, c]))
        if labels[:, c].all() or not labels[:, c].any():
            assert np.isnan(area[c])
        else:
            assert area[c] == pytest.approx(roc_auc_score(labels[:, c], scores[:, c]))


@given(ranked())
def test_weights_are_so_many_samples(drawn):
    scores, labels, rng = drawn
    rows = rng.integers(0, len(scores), len(scores))
    weights = np.bincount(rows, minlength=len(scores))
    for of in (Ranking.average_precision, Ranking.roc_auc):
        weighted, repeated = of(Ranking(scores, labels), weights), of(Ranking(scores[rows], labels[rows]))
        assert np.allclose(weighted, repeated, equal_nan=True)


@given(ranked())
def test_what_is_not_known_counts_for_nothing(drawn):
    scores, labels, rng = drawn
    unknown = rng.random(labels.shape) < 0.3
    found = Ranking(scores, np.where(unknown, -1, labels))
    for c in range(labels.shape[1]):
        known = ~unknown[:, c]
        alone = Ranking(scores[known, c : c + 1], labels[known, c : c + 1])
        assert found.average_precision()[c] == pytest.approx(alone.average_precision()[0], nan_ok=True)
        assert found.roc_auc()[c] == pytest.approx(alone.roc_auc()[0], nan_ok=True)


def test_what_is_not_a_number_counts_against_the_model():
    labels = np.array([[1], [0], [0]], np.int8)
    found = Ranking(np.array([[0.5], [np.nan], [0.1]]), labels)
    assert found.average_precision()[0] == pytest.approx(0.5)
    assert found.roc_auc()[0] == pytest.approx(0.5)
    scores, labels = np.array([[np.nan], [0.0], [1.0]]), np.array([[1], [0], [0]])
    assert Ranking(scores, labels).average_precision().tolist() == [pytest.approx(1 / 3)]
    assert Ranking(scores, labels).roc_auc().tolist() == [0]
    assert Ranking(scores, 1 - labels).roc_auc().tolist() == [0]
    assert roc_auc(scores[:, 0], labels[:, 0]) == roc_auc(scores[:, 0], 1 - labels[:, 0]) == 0


def test_outcomes_leave_out_classes_without_the_number():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((40, 3)), (rng.random((40, 3)) < 0.4).astype(np.int8)
    labels[:, 1] = 0
    macro = average_precision_score(labels[:, [0, 2]], scores[:, [0, 2]], average="macro")
    outcomes = Outcomes(scores, "mean_average_precision", labels)
    assert outcomes.value() == pytest.approx(macro)
    area = Outcomes(scores, "mean_roc_auc", labels).value()
    assert area == pytest.approx(roc_auc_score(labels[:, [0, 2]], scores[:, [0, 2]], average="macro"))
    rows = rng.integers(0, 40, 40)
    again = Outcomes(scores[rows], "mean_average_precision", labels[rows])
    assert outcomes.value(rows) == pytest.approx(again.value())
    assert np.isnan(outcomes.value(np.flatnonzero(labels.sum(axis=1) == 0)))
