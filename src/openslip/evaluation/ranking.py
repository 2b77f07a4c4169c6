"""How well scores rank samples for each of several labels: average precision and the area under the ROC curve.

On plain arrays. Samples may be weighted by whole numbers, which stand for as many equal ones: a resample of the
bootstrap is such weights, and sorting is done once for all of them.
"""

from __future__ import annotations

import numpy as np


class Ranking:
    """N samples in the order of their scores for each of C classes.

    scores: (N, C), higher is likelier. labels: (N, C): 1 for samples of a class, 0 for others, -1 where that is not
    known: those count for nothing in this class. What is not a number counts as the highest score of a wrong class.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        scores = np.nan_to_num(scores.astype(np.float64), nan=np.inf)
        self.order = np.argsort(-scores, axis=0, kind="stable")
        scores, labels = (np.take_along_axis(one, self.order, axis=0) for one in (scores, labels))
        self.positive, self.negative = labels == 1, labels == 0
        # Samples of equal scores are told apart by nothing: all of them count where the first or last of them does.
        new = np.ones(scores.shape, bool)
        new[1:] = scores[1:] != scores[:-1]
        rows = np.arange(len(scores))[:, None]
        self.first = np.maximum.accumulate(np.where(new, rows, 0), axis=0)
        last = np.roll(new, -1, axis=0)
        last[-1:] = True
        self.last = np.minimum.accumulate(np.where(last, rows, len(scores))[::-1], axis=0)[::-1]

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the average precision of each class (C,), in [0, 1]; nan for a class without a positive.

        The sum over thresholds of the precision, each times the recall gained there: the step-wise area that
        scikit-learn's `average_precision_score` has. weights: (N,) of the samples.
        """
        hits, misses = self._counts(weights)
        found, wrong = (
            np.take_along_axis(np.cumsum(one, axis=0), self.last, axis=0) for one in (hits, misses)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(hits > 0, found / (found + wrong), 0)
            return (hits * precision).sum(axis=0) / hits.sum(axis=0)

    def roc_auc(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the area under the ROC curve of each class (C,), in [0, 1]; nan without a positive or a negative.

        The chance that a positive scores above a negative, ties counting half. weights: (N,) of the samples.
        """
        hits, misses = self._counts(weights)
        above = np.cumsum(misses, axis=0)
        to_last = np.take_along_axis(above, self.last, axis=0)
        before_first = np.take_along_axis(above - misses, self.first, axis=0)
        total = misses.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            below = total - (to_last + before_first) / 2
            return (hits * below).sum(axis=0) / (hits.sum(axis=0) * total)

    def _counts(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights (N, C) of the positives and of the negatives, in the order of the scores."""
        ordered = np.ones(self.order.shape) if weights is None else weights.astype(np.float64)[self.order]
        return ordered * self.positive, ordered * self.negative
