"""One measurement of a run or of several seeds: its value, its interval, and which row is ahead of all others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance

from openslip.evaluation import Result, measure
from openslip.evaluation.metrics import t95


@dataclass(frozen=True)
class Score:
    """The value of a row: of one run, or the mean of several seeds.

    low, high: 95 % interval, for other test samples drawn in the same way; with several seeds, for other seeds as well.
    spread: the sample standard deviation over the seeds, None for one run. runs: how many runs were measured. counts:
    the numbers of samples that the runs were measured on, each number once.
    """

    value: float
    low: float
    high: float
    spread: float | None
    runs: int
    counts: tuple[int, ...]

    @property
    def certain(self) -> bool:
        """Whether value and interval are numbers."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))


def score(results: Sequence[Result]) -> Score:
    """Return the score of a row from its runs' results of one measurement. There is at least one result.

    The interval of a mean covers samples and seeds, as if these were independent. Half of the interval is the square
    root of a sum. The first part is the mean square of the runs' own half intervals: the runs share their samples, so
    more seeds do not help. The second part is the square of Student's half interval of the mean over seeds.
    """
    counts = tuple(dict.fromkeys(result.count for result in results))
    values = [result.value for result in results]
    if len(results) == 1:
        (result,) = results
        return Score(result.value, result.low, result.high, None, 1, counts)
    if not all(map(math.isfinite, values)):
        return Score(math.nan, math.nan, math.nan, math.nan, len(results), counts)
    value, spread = mean(values), stdev(values)
    seeds = t95(len(values) - 1) * spread / math.sqrt(len(values))
    below = math.hypot(_root_mean_square([result.value - result.low for result in results]), seeds)
    above = math.hypot(_root_mean_square([result.high - result.value for result in results]), seeds)
    if math.isnan(below + above):  # one of the runs has no known interval
        return Score(value, math.nan, math.nan, spread, len(results), counts)
    least, most = measure(results[0].key).bounds
    return Score(value, max(least, value - below), min(most, value + above), spread, len(results), counts)


def ahead(scores: Mapping[str, Score], *, lower: bool) -> str | None:
    """Return the row that is ahead of every other row; None if there is no such row, or nothing to compare.

    lower: whether lower is better. A row is ahead if the 95 % interval of its difference to each other row does not
    contain 0. That interval is computed from the two rows' intervals, as if the rows had different samples (Zou and
    Donner 2008, "Construction of confidence limits about effect measures", equation 3). The rows share their samples,
    so the interval is wider than necessary.
    """
    known = {label: score for label, score in scores.items() if score.certain}
    if len(known) < 2:
        return None
    sign = -1 if lower else 1
    first = max(known, key=lambda label: sign * known[label].value)
    top = known[first]
    for label, other in known.items():
        near = top.high - top.value if lower else top.value - top.low
        far = other.value - other.low if lower else other.high - other.value
        if label != first and sign * (top.value - other.value) <= math.hypot(near, far):
            return None
    return first


def welch(before: Sequence[float], after: Sequence[float]) -> float:
    """Return half the width of the interval of `mean(after) - mean(before)` (Welch 1947). Each side has two values or
    more; the sides are independent, and may have different variances."""
    one, other = (variance(values) / len(values) for values in (before, after))
    if not one + other > 0:
        return 0.0
    freedom = (one + other) ** 2 / (one**2 / (len(before) - 1) + other**2 / (len(after) - 1))
    return t95(freedom) * math.sqrt(one + other)


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))
