"""Two models on the same samples: the difference of each number with its 95 % interval, and what it amounts to.

Both models saw the same samples, so the intervals come from what became of each sample: they are narrower than two
intervals side by side would have it. Like those of single numbers, they answer where the difference would lie for other
samples drawn in the same way, and say nothing about another training run's seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from openslip.evaluation import Result, lower_is_better, measure
from openslip.evaluation.distinct import distinct
from openslip.evaluation.metrics import Z95, per_class, resampled
from openslip.evaluation.outcomes import Outcomes

RESAMPLES = 2000
"""Of a bootstrap, which is used for medians alone."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """One number of two models. value: after - before; low, high: its 95 % interval.

    unpaired: why the interval is that of two independent numbers, wider than it need be; "" where samples are paired.
    """

    before: Result
    after: Result
    value: float
    low: float
    high: float
    unpaired: str = ""

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the interval does not hold 0, else undecided."""
        if not (self.low > 0 or self.high < 0) or not measure(self.after.metric).better:
            return "undecided"
        return "better" if (self.low > 0) != lower_is_better(self.after.metric) else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return what stands beside the later model's result in files."""
        return {
            "before": self.before.value,
            "before_low": self.before.low,
            "before_high": self.before.high,
            "difference": self.value,
            "difference_low": self.low,
            "difference_high": self.high,
            "paired": not self.unpaired,
            "verdict": self.verdict,
        }


def compare(before: Sequence[Result], after: Sequence[Result]) -> list[Difference]:
    """Return the differences of two models' results, in the order of `after`; those of one model alone are left out.

    Results belong together where all that `Result.identity` names is equal, but for checkpoint and content.
    """
    known = {_measured(result): result for result in before}
    return [difference(known[_measured(r)], r) for r in after if _measured(r) in known]


def difference(before: Result, after: Result) -> Difference:
    """Return the difference of one number of two models, paired by sample where both were measured on the same."""
    value = after.value - before.value
    one, other = before.outcomes, after.outcomes
    if one is None or other is None:
        why = "what became of single samples is not known"
    elif not after.content or before.content != after.content:
        why = "the models were measured on other pictures, or other ones could be read"
    elif not _alike(one, other):
        why = "the samples of the two models are not the same"
    else:
        return Difference(before, after, value, *interval(one, other))
    return Difference(before, after, value, *_independent(before, after), why)


def interval(before: Outcomes, after: Outcomes) -> tuple[float, float]:
    """Return the interval of the difference of a number, of two models on the same samples."""
    match after.statistic:
        case "mean":
            return proportion_interval(before.values, after.values, after.groups)
        case "median":
            return median_interval(before.values, after.values, after.groups)
        case "mean_per_class" if after.classes is not None:
            return mean_per_class_interval(before.values, after.values, after.classes)
    return resampled(
        lambda rows: after.value(rows) - before.value(rows),
        len(after.values),
        after.groups,
        centred=after.raised,
    )


def proportion_interval(
    before: np.ndarray, after: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the interval of `after.mean() - before.mean()`, of hits (N,) of two models on the same samples.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data": one gained and one lost sample are added, so that it holds for few samples, and where nothing changed. Where
    samples of one group go together, N is divided by the design effect of the differences, as `wilson_clustered` does.
    """
    change = after.astype(np.float64) - before
    effect = 1.0 if groups is None else _design_effect(change, groups)
    gained, lost = float((change > 0).sum()) / effect, float((change < 0).sum()) / effect
    count = len(change) / effect + 2
    up, down = (gained + 1) / count, (lost + 1) / count
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / count)
    return _around(float(change.mean()), up - down - half, up - down + half)


def mean_per_class_interval(
    before: np.ndarray, after: np.ndarray, classes: np.ndarray
) -> tuple[float, float]:
    """Return the interval of the difference of two models' means over classes, of hits and classes (N,).

    The variance is that of samples drawn anew within each class. Half a gained and half a lost sample are added to a
    class for it, so that classes with few samples that stayed as they were do not pass for certain.
    """
    change = after.astype(np.float64) - before
    (gained, counts), (lost, _) = (per_class(sign * change > 0, classes) for sign in (1, -1))
    up, down = (gained + 0.5) / (counts + 1), (lost + 0.5) / (counts + 1)
    half = Z95 * math.sqrt(float(((up + down - (up - down) ** 2) / counts).sum())) / len(counts)
    value = float(((gained - lost) / counts).mean())
    return _around(value, value - half, value + half)


def median_interval(
    before: np.ndarray, after: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the interval of the difference of two medians, of values (N,) of two models for the same samples.

    The percentile bootstrap over samples, or whole groups of them, with a seed of its own: equal values give equal
    intervals.
    """
    group = np.arange(len(after)) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    rng = np.random.Generator(np.random.Philox(0))
    number, found = int(group.max()) + 1, np.empty(RESAMPLES)
    sides = [(np.sort(values), group[np.argsort(values, kind="stable")]) for values in (after, before)]
    for i in range(RESAMPLES):
        times = np.bincount(rng.integers(0, number, number), minlength=number)
        medians = [_median(values, times[of]) for values, of in sides]
        found[i] = medians[0] - medians[1]
    low, high = np.quantile(found, 0.025, method="lower"), np.quantile(found, 0.975, method="higher")
    value = float(np.median(after) - np.median(before))
    return min(value, float(low)), max(value, float(high))


def table(differences: Sequence[Difference]) -> str:
    """Return the differences as aligned plain text: percent and percentage points (ranks as they are)."""
    rows = [("task", "metric", "before", "after", "difference", "95 % interval", "samples", "verdict")]
    for name, one in zip(distinct([one.after for one in differences]), differences):
        of = measure(one.after.metric)
        signed = [of.text(number, sign=True) for number in (one.value, one.low, one.high)]
        rows.append(
            (
                name,
                one.after.metric,
                _number(one.before),
                _number(one.after),
                signed[0],
                f"{signed[1]} – {signed[2]}{' *' if one.unpaired else ''}",
                f"{one.after.count:,}",
                one.verdict,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, 1, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    if whys := dict.fromkeys(one.unpaired for one in differences if one.unpaired):
        lines.append(f"* wider than it need be, as samples are not paired: {'; '.join(whys)}.")
    return "\n".join(lines) + "\n"


def verdict(own: Sequence[Difference], general: Sequence[Difference] = ()) -> str:
    """Return in a sentence or two on how many tasks the later model is better and worse, each by its first metric."""
    if not general:
        return f"{_counted(own, 'task')}." if own else ""
    sentences = [
        _counted(some, f"{kind} task") for kind, some in (("own", own), ("general", general)) if some
    ]
    return "".join(f"{sentence}. " for sentence in sentences).rstrip()


def headlines(differences: Sequence[Difference]) -> list[Difference]:
    """Return the first difference of each task, the one that counts for it: top1, text_recall@1."""
    first: dict[str, Difference] = {}
    for name, one in zip(distinct([one.after for one in differences]), differences):
        first.setdefault(name, one)
    return list(first.values())


def _counted(differences: Sequence[Difference], noun: str) -> str:
    main = headlines(differences)
    names = distinct([one.after for one in main])
    parts, of = [], f"{len(main)} {noun}{'' if len(main) == 1 else 's'}"
    for word in ("better", "worse", "undecided"):
        found = [(name, one) for name, one in zip(names, main) if one.verdict == word]
        if not found:
            continue
        told = "" if word == "undecided" else f" ({', '.join(_told(name, one) for name, one in found)})"
        parts.append(f"{word} on {len(found)}{'' if parts else f' of {of}'}{told}")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _told(name: str, one: Difference) -> str:
    return f"{name} {one.after.metric} {_number(one.before)} → {_number(one.after)}"


def _number(result: Result) -> str:
    of = measure(result.metric)
    return of.text(result.value) + of.mark


def _measured(result: Result) -> tuple[str, ...]:
    return (
        result.task,
        result.metric,
        result.data,
        result.split,
        result.prompts,
        result.settings,
    )


def _alike(one: Outcomes, other: Outcomes) -> bool:
    if one.statistic != other.statistic or one.values.shape != other.values.shape:
        return False
    pairs = ((one.classes, other.classes), (one.groups, other.groups))
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)


def _independent(before: Result, after: Result) -> tuple[float, float]:
    """Return the interval of a difference by those of two numbers that have nothing to do with each other.

    Zou and Donner 2008, "Construction of confidence limits about effect measures", equation 3.
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return value - below, value + above


def _design_effect(change: np.ndarray, groups: np.ndarray) -> float:
    """Return how much whole groups vary more than samples drawn one by one (Kish 1965), at least 1."""
    centred = change - change.mean()
    excess = np.bincount(np.unique(groups, return_inverse=True)[1].ravel(), weights=centred)
    alone = float(centred @ centred)
    return max(1.0, float(excess @ excess) / alone) if alone > 0 else len(change) / len(excess)


def _median(ordered: np.ndarray, times: np.ndarray) -> float:
    """Return the median of ordered values, each as many times as is said."""
    ends = np.cumsum(times)
    middle = [(ends[-1] - 1) // 2, ends[-1] // 2]
    return float(ordered[np.searchsorted(ends, middle, side="right")].mean())


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """Return an interval of a difference of shares, within -1 and 1, which holds the difference itself."""
    return max(-1.0, min(value, low)), min(1.0, max(value, high))
