"""The data behind results, sample by sample, for comparing two models and for showing examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from openslip.evaluation.metrics import calibration_error, mean_iou, mean_per_class, pixel_accuracy, roc_auc
from openslip.evaluation.ranking import Ranking

Statistic = Literal[
    "mean",
    "mean_value",
    "log_mean",
    "median",
    "mean_per_class",
    "roc_auc",
    "ece",
    "mean_iou",
    "pixel_accuracy",
    "mean_average_precision",
    "mean_roc_auc",
]
BEST = 5
"""The most classes that answers keep for a sample, likeliest first."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The values behind a number: N samples (or queries) one by one, in the order of the data.

    values: (N, …), the values of each sample. statistic: how the number follows from the values:
    - `mean`, `median` of values (N,), such as hits (0 or 1) and ranks;
    - `mean_value`: the mean of values (N,) of any size, which are not hits; `log_mean`: the logarithm of that mean;
    - `mean_per_class`: the mean over `classes` of the means of values (N,);
    - `roc_auc` of values (N,), the scores, with `classes` 0 and 1;
    - `ece` of values (N, 2): the likeliest class's probability, and whether that class is right;
    - `mean_iou`, `pixel_accuracy` of values (N, 2, C): each class's intersection and union in each picture, in pixels;
    - `mean_average_precision`, `mean_roc_auc` of values (N, C), the scores of C classes of which a sample may have
      several: the mean over the classes for which these samples give such a number.

    classes: (N,) the samples' classes; for several classes a sample (N, C): 1, 0, or -1 if not known. groups: (N,) the
    group of each sample, such as the image of a caption. samples: (N,) numbers that identify samples, whatever their
    order and wherever the data are (see `fingerprint.of_samples`); without them only the order identifies samples.
    """

    values: np.ndarray
    statistic: Statistic = "mean"
    classes: np.ndarray | None = None
    groups: np.ndarray | None = None
    samples: np.ndarray | None = None

    def rows(self, rows: np.ndarray) -> Outcomes:
        """Return the outcomes of some samples, in the order of their indices `rows`."""
        of = (None if one is None else one[rows] for one in (self.classes, self.groups, self.samples))
        return Outcomes(self.values[rows], self.statistic, *of)

    def value(self, rows: np.ndarray | slice = slice(None)) -> float:
        """Return the number for all samples, or for some. rows: indices of samples, with repetition."""
        values = self.values[rows]
        match self.statistic:
            case "mean" | "mean_value":
                return float(values.mean())
            case "log_mean":  # if few samples are drawn again and again, the mean may be below 0
                return math.log(mean) if (mean := float(values.mean())) > 0 else -math.inf
            case "median":
                return float(np.median(values))
            case "ece":
                return calibration_error(values[:, 0], values[:, 1])
            case "mean_iou":
                return mean_iou(values)
            case "pixel_accuracy":
                return pixel_accuracy(values)
            case "mean_average_precision" | "mean_roc_auc":
                weights = np.bincount(np.arange(len(self.values))[rows], minlength=len(self.values))
                of_classes = (
                    self._ranking.average_precision(weights)
                    if self.statistic == "mean_average_precision"
                    else self._ranking.roc_auc(weights)
                )
                return float(np.nanmean(of_classes)) if np.isfinite(of_classes).any() else float("nan")
        assert self.classes is not None  # by construction: both are numbers of samples in classes
        classes = self.classes[rows]
        if self.statistic == "mean_per_class":
            return mean_per_class(values, classes)
        # A resample may have drawn samples of one class alone.
        return roc_auc(values, classes) if classes.min() < classes.max() else math.nan

    @property
    def raised(self) -> bool:
        """Whether resamples, in which samples occur twice, raise the number."""
        return self.statistic == "mean_average_precision"

    @cached_property
    def _ranking(self) -> Ranking:
        assert self.classes is not None  # by construction
        return Ranking(self.values, self.classes)


@dataclass(frozen=True, eq=False)
class Answers:
    """A classifier's answers to N samples with C classes, K = min(C, 5).

    labels: (N,) the right classes. ranks: (N,) the right class's rank, from 1, with ties against it. best: (N, K) the
    likeliest classes. probabilities: (N, K) their probabilities, nan if the classifier has none. rows: (N,) the indices
    of the samples in the split. digests: N times 16 bytes, which identify the pictures. class_names: C names.
    """

    labels: np.ndarray
    ranks: np.ndarray
    best: np.ndarray
    probabilities: np.ndarray
    rows: np.ndarray
    digests: tuple[bytes, ...]
    class_names: tuple[str, ...]


def answers(
    scores: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None = None,
    *,
    rows: np.ndarray,
    digests: tuple[bytes, ...],
    class_names: tuple[str, ...],
) -> Answers:
    """Return a classifier's answers, given its scores (N, C), labels (N,) in [0, C), and probabilities (N, C) if it has
    any. Classes with equal scores keep their order."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :BEST]
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    likely = (
        np.full(best.shape, np.nan, np.float32)
        if probabilities is None
        else np.take_along_axis(probabilities, best, axis=1).astype(np.float32)
    )
    ranks = (~(scores < own)).sum(axis=1)
    return Answers(labels, ranks, best.astype(np.int32), likely, rows, digests, class_names)
