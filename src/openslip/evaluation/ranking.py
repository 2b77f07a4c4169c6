"""How well scores rank samples for each of several labels: average precision and the area under the ROC curve.

On plain arrays. A sample may have a whole number as its weight, and then counts as so many equal samples. A resample of
the bootstrap is a set of such weights, so samples are sorted once for all resamples.
"""

from __future__ import annotations

import numpy as np


class Ranking:
    """N samples in the order of their scores for each of C classes.

    scores: (N, C), higher is likelier. labels: (N, C): 1 for samples of a class, 0 for others, -1 if that is not known;
    a sample with -1 does not count for the class. A nan counts against the model: as the lowest score for a sample of
    the class, and as the highest score for another sample.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        scores, labels = scores.T.astype(np.float64), labels.T
        scores = np.where(np.isnan(scores), np.where(labels == 1, -np.inf, np.inf), scores)
        self.order = np.argsort(-scores, axis=1, kind="stable")
        scores, labels = (np.take_along_axis(one, self.order, axis=1) for one in (scores, labels))
        self.positive, self.known = (labels == 1).astype(np.float64), (labels >= 0).astype(np.float64)
        # Samples of equal scores cannot be told apart: all of them count from the first, or through the last, of them.
        new = np.ones(scores.shape, bool)
        new[:, 1:] = scores[:, 1:] != scores[:, :-1]
        places = np.arange(scores.shape[1])
        first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
        end = np.where(np.roll(new, -1, axis=1), places + 1, len(places))
        end[:, -1:] = len(places)
        end = np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1]
        self.rows, self.columns = np.nonzero(labels == 1)
        self.before, self.through = first[self.rows, self.columns], end[self.rows, self.columns]

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the average precision of each class (C,), in [0, 1]; nan for a class without a positive.

        The average precision is the sum over thresholds of precision times gained recall: the step-wise area, as in
        scikit-learn's `average_precision_score`. weights: (N,) of the samples.
        """
        own, hits, seen = self._counted(weights)
        found, of = hits[self.rows, self.through], seen[self.rows, self.through]
        precision = np.divide(found, of, out=np.zeros_like(found), where=of > 0)
        return self._mean(own * precision, hits[:, -1])

    def roc_auc(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the area under the ROC curve of each class (C,), in [0, 1]; nan without a positive or a negative.

        The area is the chance that a positive scores above a negative; ties count half. weights: (N,) of the samples.
        """
        own, hits, seen = self._counted(weights)
        wrong = seen - hits
        above = (wrong[self.rows, self.through] + wrong[self.rows, self.before]) / 2
        return self._mean(own * (wrong[self.rows, -1] - above), hits[:, -1] * wrong[:, -1])

    def _counted(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the weight of each positive, and for each class (C, N + 1) how many positives, and how many samples
        with a known label, are among the first 0, 1, …, N."""
        ordered = np.ones(self.order.shape) if weights is None else weights.astype(np.float64)[self.order]
        hits, seen = (np.zeros((len(ordered), ordered.shape[1] + 1)) for _ in range(2))
        np.cumsum(ordered * self.positive, axis=1, out=hits[:, 1:])
        np.cumsum(ordered * self.known, axis=1, out=seen[:, 1:])
        return ordered[self.rows, self.columns], hits, seen

    def _mean(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the sum of the positives' values for each class, divided by `counts`; nan where `counts` is 0."""
        sums = np.bincount(self.rows, weights=values, minlength=len(counts))
        return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
