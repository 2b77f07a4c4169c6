"""Accuracies and their 95 % intervals, on plain arrays.

An interval says where the number would be for other samples drawn in the same way. It says nothing about another
training run's seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from openslip.errors import EvaluationError

Z95 = 1.959963984540054
"""The standard normal's 97.5 % point."""
RESAMPLES = 1000
"""Resamples of the bootstrap, for numbers whose interval has no formula."""


def correct_topk(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return for each of N samples whether its label is among the k classes with the highest scores.

    scores: (N, C); labels: (N,) in [0, C). Ties count against the model: of equally scored classes the wrong ones come
    first. So a class without a vote is never among the k < C best. A model to which all pictures are alike scores 0,
    whatever the order of the classes. A nan counts as a score above all others.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    return (~(scores < own)).sum(axis=1) <= k  # the own class is among them


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the present classes of the share of correct samples, in [0, 1]."""
    hits, counts = per_class(correct, labels)
    return float((hits / counts).mean())


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the chance that a positive scores above a negative, in [0, 1]; ties count half.

    scores: (N,) for the positive class; labels: (N,) of 0 and 1, both present. Mann-Whitney's statistic. A nan counts
    against the model: as the lowest score for a positive, as the highest for a negative.
    """
    above_negatives, _ = _placements(scores, labels)
    return float(above_negatives.mean())


def wilson(successes: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Return the interval of a proportion (Wilson 1927), which also holds for few samples and near 0 and 1."""
    if count <= 0:
        return 0.0, 1.0
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # By rounding, an interval that ends at the share itself (0 or 1) may just miss it.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def wilson_clustered(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return Wilson's interval of `hits.mean()` for samples in groups, such as the captions of one image.

    The number of samples is divided by the design effect, if it is above 1 (Kish 1965): the variance when whole groups
    are drawn, over the variance when samples are drawn one by one.
    """
    share, count = float(hits.mean()), len(hits)
    excess = np.bincount(np.unique(groups, return_inverse=True)[1].ravel(), weights=hits - share)
    alone = count * share * (1 - share)
    effect = max(1.0, float(excess @ excess) / alone) if alone > 0 else count / len(excess)
    return wilson(share * count / effect, count / effect)


def mean_per_class_interval(correct: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the interval of `mean_per_class`: a mean of independent proportions, one a class, taken as normal.

    The variance is that of samples drawn anew within each class. To compute it, one success and one failure are added
    to each class. So a class with few samples, all right or all wrong, does not count as certain.
    """
    hits, counts = per_class(correct, labels)
    smooth = (hits + 1) / (counts + 2)
    half = Z95 * math.sqrt(float((smooth * (1 - smooth) / counts).sum())) / len(counts)
    value = float((hits / counts).mean())
    return max(0.0, value - half), min(1.0, value + half)


def roc_auc_interval(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the interval of `roc_auc` (DeLong, DeLong and Clarke-Pearson 1988).

    If the samples do not show the variance (one sample of a class, or no variation), the interval is Wilson's with the
    number of samples of the rarer class. The variance is at most that of such a proportion (Birnbaum and Klose 1957).
    """
    both = _placements(scores, labels)
    value, fewest = float(both[0].mean()), min(map(len, both))
    variance = sum(float(v.var(ddof=1)) / len(v) for v in both) if fewest > 1 else 0.0
    if not variance > 0:
        return wilson(value * fewest, fewest)
    half = Z95 * math.sqrt(variance)
    return max(0.0, value - half), min(1.0, value + half)


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the interval of the median between two order statistics, without any assumption on the distribution."""
    ordered, count = np.sort(values), len(values)
    reach = Z95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return float(ordered[low]), float(ordered[high])


def mean_interval(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the interval of `values.mean()`, taken as normal, for N numbers of any size. groups: (N,) the group of
    each sample; each group is one draw."""
    error = values - values.mean(dtype=np.float64)
    if groups is not None:
        error = np.bincount(np.unique(groups, return_inverse=True)[1].ravel(), weights=error)
    half = Z95 * math.sqrt(float(error @ error) * len(error) / max(1, len(error) - 1)) / len(values)
    return float(values.mean(dtype=np.float64)) - half, float(values.mean(dtype=np.float64)) + half


def crossed_interval(hits: np.ndarray) -> tuple[float, float]:
    """Return the interval of `hits.mean()` for other samples and other draws.

    hits: (D, N), whether the classifier of draw d is right about sample n; D, N at least 2. The variance is that of a
    mean over crossed draws and samples (Searle et al. 1992, the two-way random model). It is the variance of the
    samples' means over N, plus that of the draws' means over D, less the part of single hits that both contain. The
    part of the draws uses Student's quantile, because draws are few.
    """
    draws, count = hits.shape
    of_samples, of_draws = hits.mean(axis=0), hits.mean(axis=1)
    value = float(of_samples.mean())
    rest = hits - of_samples - of_draws[:, None] + value
    single = float(np.square(rest).sum()) / ((draws - 1) * (count - 1)) / (draws * count)
    # Few samples, all right or all wrong, do not count as certain: this is about the width of Wilson's interval.
    samples = max(float(of_samples.var(ddof=1)) / count, 1 / count**2)
    between = max(0.0, float(of_draws.var(ddof=1)) / draws - single)
    half = math.sqrt(Z95**2 * samples + t95(draws - 1) ** 2 * between)
    return max(0.0, value - half), min(1.0, value + half)


def deviation_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the interval of the standard deviation of N numbers, taken as normal, by the quantiles of chi-square
    (Wilson and Hilferty 1931)."""
    free, deviation = len(values) - 1, float(values.std(ddof=1))
    step = Z95 * math.sqrt(2 / (9 * free))
    least, most = (free * max(0.05, 1 - 2 / (9 * free) + sign * step) ** 3 for sign in (-1, 1))
    return deviation * math.sqrt(free / most), deviation * math.sqrt(free / least)


@lru_cache(maxsize=1024)
def t95(freedom: float) -> float:
    """Return Student's 97.5 % point to 3 digits, for degrees of freedom from 1 on.

    Up to 10 degrees, the density is summed over the angle: with t = sqrt(f) tan(a) the density is cos(a)^(f - 1). Above
    10 degrees, Cornish and Fisher's series is used.
    """
    if freedom <= 10:
        angle = np.linspace(0, math.pi / 2, 20_001)
        density = np.maximum(np.cos(angle), 0.0) ** (freedom - 1)
        below = np.cumsum(density[1:] + density[:-1])
        return math.sqrt(freedom) * math.tan(float(np.interp(0.95, below / below[-1], angle[1:])))
    z = Z95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: how far confidence is from the share of right answers, in [0, 1].

    confidence: (N,) the likeliest class's probability; correct: (N,) whether that class is right. The error is the mean
    of |mean confidence - share correct| over `bins` of equal width, weighted by their samples (Guo et al. 2017,
    equation 3). It is nan if a probability is nan.
    """
    if np.isnan(confidence).any():
        return math.nan
    bin_of = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(np.int64)
    gap = np.bincount(bin_of, weights=correct - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def mean_iou(areas: np.ndarray) -> float:
    """Return the mean over classes of intersection over union, in [0, 1].

    areas: (N, 2, C), each class's intersection and union in each of N pictures. They are first summed over pictures, as
    in VOC's segmentation (Everingham et al. 2015). Classes without a pixel are left out.
    """
    both, either = areas.sum(axis=0)
    return float((both[either > 0] / either[either > 0]).mean()) if either.any() else math.nan


def pixel_accuracy(areas: np.ndarray) -> float:
    """Return the share of pixels whose class is right, in [0, 1]. areas: as `mean_iou` takes them.

    A right pixel is in one intersection and one union, a wrong one in two unions, so there are (intersections +
    unions) / 2 pixels.
    """
    both, either = areas.sum(axis=(0, 2))
    return float(2 * both / (both + either)) if either else math.nan


def resampled(
    statistic: Callable[[np.ndarray], float],
    count: int,
    groups: np.ndarray | None = None,
    *,
    centred: bool = False,
) -> tuple[float, float]:
    """Return the interval of a statistic of `count` samples by the percentile bootstrap (Efron 1979).

    statistic: takes indices of samples, with repetition. groups: (count,) the group of each sample; whole groups are
    drawn. centred: shift the resamples so that their mean is the statistic. This suits statistics that resamples raise,
    such as average precision: a sample that is drawn twice is found twice. The seed is fixed, so equal samples give
    equal intervals. The interval contains the statistic of the samples themselves.
    """
    group = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    rng = np.random.Generator(np.random.Philox(0))
    found = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(0, len(members), len(members))
        found[i] = statistic(drawn if groups is None else np.concatenate([members[one] for one in drawn]))
    value, found = statistic(np.arange(count)), found[np.isfinite(found)]
    if not len(found):
        return value, value
    shift = value - float(found.mean()) if centred else 0.0
    low, high = np.quantile(found, 0.025, method="lower"), np.quantile(found, 0.975, method="higher")
    return min(value, float(low) + shift), max(value, float(high) + shift)


def per_class(correct: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits and the number of samples of each class that is present."""
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=correct, minlength=len(counts))
    return hits[counts > 0], counts[counts > 0]


def _placements(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each positive the share of negatives below it, and for each negative the share of positives above."""
    scores = np.where(np.isnan(scores), np.where(labels == 1, -np.inf, np.inf), scores)
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if len(positives) == 0 or len(negatives) == 0 or len(positives) + len(negatives) != len(labels):
        raise EvaluationError(
            "ROC AUC takes labels 0 and 1, with samples of both",
            got=sorted(set(np.unique(labels).tolist()))[:5],
        )

    def below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        left, right = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
        return (left + right) / (2 * len(others))

    return below(positives, negatives), 1 - below(negatives, positives)
