"""Two models on the same samples: the difference of each number with its 95 % interval, and a verdict.

Both models saw the same samples, so the intervals come from the outcome of each sample. They are narrower than two
separate intervals suggest. An interval covers other samples drawn in the same way, and says nothing about another
training seed. If each side has several runs that differ in the seed alone, the difference is that of their means, and
its interval covers other seeds as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np

from openslip.evaluation import Result, lower_is_better, measure, plain
from openslip.evaluation.distinct import distinct
from openslip.evaluation.metrics import Z95, per_class, resampled, t95
from openslip.evaluation.outcomes import Outcomes
from openslip.evaluation.results import aligned
from openslip.evaluation.scores import score, welch

RESAMPLES = 2000
"""Resamples of the bootstrap, which is used for medians alone."""

_FEW = 3
"""Up to this many undecided numbers have a sentence each."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """The difference of one number between two models, or between the seeds of two models.

    value: after - before; low, high: its 95 % interval. unpaired: why the interval is that of two independent numbers,
    and so wider than necessary; "" if samples are paired. seeds: how many runs `before` and `after` are the means of.
    spreads: the standard deviations over these runs, None for one run. covers: what the interval covers beside other
    samples: `seeds`, or nothing.
    """

    before: Result
    after: Result
    value: float
    low: float
    high: float
    unpaired: str = ""
    seeds: tuple[int, int] = (1, 1)
    spreads: tuple[float | None, float | None] = (None, None)
    covers: Literal["", "seeds"] = ""

    @property
    def verdict(self) -> Verdict:
        """Better or worse if the interval does not contain 0 and the metric has a better direction; else undecided."""
        if not (self.low > 0 or self.high < 0) or not measure(self.after.metric).better:
            return "undecided"
        return "better" if (self.low > 0) != lower_is_better(self.after.metric) else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that files have beside the later model's result."""
        return {
            "before": self.before.value,
            "before_low": plain(self.before.low),
            "before_high": plain(self.before.high),
            "difference": self.value,
            "difference_low": plain(self.low),
            "difference_high": plain(self.high),
            "paired": not self.unpaired,
            "verdict": self.verdict,
        }


def compare(before: Sequence[Result], after: Sequence[Result]) -> list[Difference]:
    """Return the differences of two models' results, in the order of `after`. Results of one model alone are left out.

    Two results belong together if all fields of `Result.identity` are equal except checkpoint and content.
    """
    known = {_measured(result): result for result in before}
    return [difference(known[_measured(r)], r) for r in after if _measured(r) in known]


def difference(before: Result, after: Result) -> Difference:
    """Return the difference of one number of two models, paired by sample if both were measured on the same samples."""
    value = after.value - before.value
    sides, why = _paired([before], [after])
    if why:
        return Difference(before, after, value, *_independent(before, after), why)
    ((one,), (other,)) = sides
    return Difference(before, after, value, *interval(one, other))


def difference_of_seeds(
    before: Sequence[Result], after: Sequence[Result], *, by_seed: bool = False
) -> Difference:
    """Return the difference of the means of one number. The runs of each side differ in their seeds alone.

    Half of the interval is the square root of the sum of two squares, as if both sources of chance were independent.
    One square is for the samples: if both sides share them, each sample has its mean outcome over the runs; else the
    two numbers count as independent. The other is for the seeds: Welch's t, or with `by_seed` Student's t of the
    differences, where the runs of both sides belong together in their order. If a side is one run, the interval covers
    other samples alone.

    Raises ValueError for `by_seed` with sides of different lengths.
    """
    if len(before) == len(after) == 1:
        return difference(before[0], after[0])
    if by_seed and len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} runs cannot be paired")
    one, other = (_mean(side) for side in (before, after))
    value = other.value - one.value
    sides, why = _paired(before, after)
    low, high = _independent(_mean(before, seeds=False), _mean(after, seeds=False)) if why else _of(*sides)
    seeds, values = 0.0, [[result.value for result in side] for side in (before, after)]
    several = min(len(before), len(after)) > 1
    if several and by_seed:
        changes = [b - a for a, b in zip(*values)]
        seeds = t95(len(changes) - 1) * stdev(changes) / math.sqrt(len(changes))
    elif several:
        seeds = welch(*values)
    return Difference(
        one,
        other,
        value,
        value - math.hypot(value - low, seeds),
        value + math.hypot(high - value, seeds),
        why,
        (len(before), len(after)),
        tuple(stdev(side) if len(side) > 1 else None for side in values),  # type: ignore[arg-type]
        "seeds" if several else "",
    )


def _mean(results: Sequence[Result], *, seeds: bool = True) -> Result:
    """Return the mean of the runs of a side as a result. seeds: whether its interval also covers other seeds."""
    if len(results) == 1:
        return results[0]
    found = score(results)
    low, high = found.low, found.high
    if not seeds:
        below = math.sqrt(mean((result.value - result.low) ** 2 for result in results))
        above = math.sqrt(mean((result.high - result.value) ** 2 for result in results))
        low, high = found.value - below, found.value + above
    return replace(results[0], value=found.value, low=low, high=high, outcomes=None, answers=None)


def _paired(
    before: Sequence[Result], after: Sequence[Result]
) -> tuple[tuple[list[Outcomes], list[Outcomes]], str]:
    """Return the outcomes of both sides in the order of the last run, or the reason why they cannot be paired."""
    last = after[-1]
    sides: tuple[list[Outcomes], list[Outcomes]] = ([], [])
    for side, results in zip(sides, (before, after)):
        for result in results:
            if result.outcomes is None or last.outcomes is None:
                return sides, "the outcomes of single samples are not known"
            if not last.content or result.content != last.content:
                return sides, "the models were measured on different pictures, or could read different ones"
            known = last.outcomes.samples is not None and result.outcomes.samples is not None
            if not known and result.data != last.data:
                return sides, "it is not known which samples are the same"
            if (ordered := _in_order(last.outcomes, result.outcomes)) is None:
                return sides, "the samples of the two models are not the same"
            side.append(ordered)
    return sides, ""


def _of(before: Sequence[Outcomes], after: Sequence[Outcomes]) -> tuple[float, float]:
    """Return the interval, for other samples, of the difference of the means over the runs of each side."""
    first = after[-1]
    if first.statistic in ("mean", "mean_per_class"):
        one, other = (
            replace(first, values=np.mean([run.values for run in side], axis=0)) for side in (before, after)
        )
        return interval(one, other)
    return resampled(
        lambda rows: mean(run.value(rows) for run in after) - mean(run.value(rows) for run in before),
        len(first.values),
        first.groups,
        centred=first.raised,
    )


def interval(before: Outcomes, after: Outcomes) -> tuple[float, float]:
    """Return the interval of the difference of one number between two models on the same samples."""
    shares = all(side.values.min() >= 0 and side.values.max() <= 1 for side in (before, after))
    match after.statistic:
        case "mean" if shares:
            return proportion_interval(before.values, after.values, after.groups)
        case "median":
            return median_interval(before.values, after.values, after.groups)
        case "mean_per_class" if shares and after.classes is not None:
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
    """Return the interval of `after.mean() - before.mean()`, for two models on the same samples.

    before, after: (N,) hits, or shares of hits in [0, 1]. Bonett and Price 2012, "Adjusted Wald confidence interval for
    a difference of binomial proportions based on paired data": one gained and one lost sample are added, so the
    interval holds for few samples, and if nothing changed. If samples belong to groups, N is divided by the design
    effect of the differences, as in `wilson_clustered`. Shares change by less than 1; their interval uses the mean
    square of the changes.
    """
    change = after.astype(np.float64) - before
    effect = 1.0 if groups is None else _design_effect(change, groups)
    count = len(change) / effect + 2
    middle, square = float(change.sum()) / effect / count, (float(change @ change) / effect + 2) / count
    half = Z95 * math.sqrt(max(0.0, square - middle**2) / count)
    return _around(float(change.mean()), middle - half, middle + half)


def mean_per_class_interval(
    before: np.ndarray, after: np.ndarray, classes: np.ndarray
) -> tuple[float, float]:
    """Return the interval of the difference of two models' means over classes. All arguments are (N,).

    The variance is that of samples drawn anew within each class. To compute it, half a gained and half a lost sample
    are added to each class. So a class with few samples, none of which changed, does not count as certain.
    """
    change = after.astype(np.float64) - before
    (changes, counts), (squares, _) = (per_class(moved, classes) for moved in (change, change**2))
    middle, square = changes / (counts + 1), (squares + 1) / (counts + 1)
    half = Z95 * math.sqrt(float(((square - middle**2) / counts).sum())) / len(counts)
    value = float((changes / counts).mean())
    return _around(value, value - half, value + half)


def median_interval(
    before: np.ndarray, after: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the interval of the difference of two medians. before, after: (N,) values on the same samples.

    The percentile bootstrap over samples, or over whole groups. The seed is fixed, so equal values give equal
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


def table(differences: Sequence[Difference], titles: tuple[str, str] = ("before", "after")) -> str:
    """Return the differences as aligned plain text, in percent and percentage points; ranks stay as they are.

    titles: the names of the two models. A mean over seeds is followed by ± its spread.
    """
    rows = [("task", "metric", *titles, "difference", "95 % interval", "samples", "verdict")]
    for name, one in zip(distinct([one.after for one in differences]), differences):
        of = measure(one.after.metric)
        signed = [of.text(number, sign=True) for number in (one.value, one.low, one.high)]
        rows.append(
            (
                name,
                one.after.metric,
                _with_spread(one.before, one.spreads[0]),
                _with_spread(one.after, one.spreads[1]),
                signed[0],
                f"{signed[1]} – {signed[2]}{' *' if one.unpaired else ''}" if one.low == one.low else "–",
                f"{one.after.count:,}" if one.after.count else "–",
                one.verdict,
            )
        )
    lines = aligned(rows, left=(0, 1, len(rows[0]) - 1))
    if whys := dict.fromkeys(one.unpaired for one in differences if one.unpaired and one.low == one.low):
        lines.append(f"* wider than necessary, because samples are not paired: {'; '.join(whys)}.")
    return "\n".join(lines) + "\n"


def sentences(differences: Sequence[Difference], before: str, after: str) -> list[str]:
    """Return a sentence for each difference: who is ahead, and by how much. Undecided differences may share a sentence.

    before, after: the names of the models.
    """
    said, undecided = [], []
    for name, one in zip(distinct([one.after for one in differences]), differences):
        of = measure(one.after.metric)
        unit = {"share": " points", "rank": " ranks", "number": ""}[of.unit]
        where = f"{name} ({one.after.metric})"
        if one.verdict == "undecided":
            low, high = (of.text(number, sign=True) for number in (one.low, one.high))
            between = "no interval" if math.isnan(one.low) else f"{low} to {high}"
            undecided.append(f"{where}, {of.text(one.value, sign=True)}{unit} ({between})")
            continue
        leader, other = (after, before) if one.verdict == "better" else (before, after)
        least, value, most = (of.text(number) for number in sorted(map(abs, (one.low, one.value, one.high))))
        said.append(f"{leader} is ahead of {other} by {value}{unit} ({least} to {most}) on {where}.")
    if undecided and len(undecided) <= _FEW:
        said += [f"Undecided on {told}." for told in undecided]
    elif undecided:
        said.append(f"Undecided in {len(undecided)} of {len(differences)} numbers.")
    return said


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


def _with_spread(result: Result, spread: float | None) -> str:
    return measure(result.metric).with_unit(result.value, spread)


def _number(result: Result) -> str:
    return measure(result.metric).with_unit(result.value)


def _measured(result: Result) -> tuple[str, ...]:
    return (
        result.task,
        result.metric,
        result.data,
        result.split,
        result.prompts,
        result.settings,
    )


def _in_order(known: Outcomes, other: Outcomes) -> Outcomes | None:
    """Return the outcomes of another run in the order of `known`, or None if they belong to other samples.

    If both name their samples, samples are matched by name, whatever the order of the data; else by their order.
    Classes and groups may have other numbers, for example if the classes have another order.
    """
    if known.statistic != other.statistic or known.values.shape != other.values.shape:
        return None
    if known.samples is not None and other.samples is not None:
        mine, theirs = (np.argsort(side.samples, kind="stable") for side in (known, other))  # type: ignore[arg-type]
        if not np.array_equal(known.samples[mine], other.samples[theirs]):
            return None
        rows = np.empty_like(theirs)
        rows[mine] = theirs
        other = other.rows(rows)
    for one, of in ((known.classes, other.classes), (known.groups, other.groups)):
        if (one is None) != (of is None) or (one is not None and of is not None and not _same_parts(one, of)):
            return None
    if known.statistic == "roc_auc" and not np.array_equal(known.classes, other.classes):  # type: ignore[arg-type]
        return None
    return other


def _same_parts(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays (N,) divide N samples into the same parts, whatever the parts are called. For several labels a
    sample, (N, C): whether both have the same classes, in any order."""
    if np.array_equal(one, other):
        return True
    if one.ndim == 2 or other.ndim == 2:
        columns = ([column.tobytes() for column in labels.astype(np.int8).T] for labels in (one, other))
        return one.shape == other.shape and sorted(next(columns)) == sorted(next(columns))
    pairs = np.unique(np.stack([one, other], axis=1), axis=0)
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


def _independent(before: Result, after: Result) -> tuple[float, float]:
    """Return the interval of the difference of two independent numbers, from their intervals.

    Zou and Donner 2008, "Construction of confidence limits about effect measures", equation 3.
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return value - below, value + above


def _design_effect(change: np.ndarray, groups: np.ndarray) -> float:
    """Return the design effect (Kish 1965): the variance of whole groups over that of single samples, at least 1."""
    centred = change - change.mean()
    excess = np.bincount(np.unique(groups, return_inverse=True)[1].ravel(), weights=centred)
    alone = float(centred @ centred)
    return max(1.0, float(excess @ excess) / alone) if alone > 0 else len(change) / len(excess)


def _median(ordered: np.ndarray, times: np.ndarray) -> float:
    """Return the median of ordered values, each repeated `times` times."""
    ends = np.cumsum(times)
    middle = [(ends[-1] - 1) // 2, ends[-1] // 2]
    return float(ordered[np.searchsorted(ends, middle, side="right")].mean())


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """Return the interval of a difference of shares, cut to [-1, 1] and widened to contain the difference itself."""
    return max(-1.0, min(value, low)), min(1.0, max(value, high))
