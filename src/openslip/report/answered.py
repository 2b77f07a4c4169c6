"""The answers of a report's runs to every sample, class by class: hard classes, confused classes, and certainty.

The answers are kept beside the results, and read from there (see `openslip.evaluation.kept_outcomes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from openslip.evaluation import Result
from openslip.evaluation.kept_outcomes import recall
from openslip.evaluation.measured import newest, what_of
from openslip.evaluation.metrics import calibration_error, wilson
from openslip.evaluation.outcomes import Answers
from openslip.evaluation.results import FILE
from openslip.report.charts import Bar, Figure, Stroke
from openslip.report.description import seed_of
from openslip.report.rows import Colours, Rows
from openslip.report.table import describe

FEW = 10
"""How many of the best and of the worst classes are shown, and how many pairs of confused classes."""
MOST_OF_MATRIX = 12
"""The most classes for which all pairs are shown."""
MOST = 4
"""The most tasks that are shown class by class."""
_BINS = 10


@dataclass(frozen=True, eq=False)
class Said:
    """The answers of one run in a task: its row, its colour class, its seed in words, the result and the answers."""

    row: str
    colour: str
    seed: str
    result: Result
    answers: Answers

    @property
    def correct(self) -> np.ndarray:
        """Which samples are right, (N,) bool."""
        return self.answers.ranks == 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes' names; the second of two equal names becomes `crane (2)`."""
        seen: Counter[str] = Counter()
        told = []
        for name in self.answers.class_names:
            seen[name] += 1
            told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
        return tuple(told)


@dataclass(frozen=True)
class ClassBar:
    """The share of a class's samples that are right, with its 95 % interval (Wilson); each in [0, 1]."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The share in percent, without its unit."""
        return f"{100 * self.value:.0f}"

    @property
    def interval(self) -> str:
        """The interval in percent: `40–62`."""
        return f"{100 * self.low:.0f}–{100 * self.high:.0f}"


@dataclass(frozen=True)
class ClassLine:
    """A class, its number of samples, and for each row how many of the samples are right."""

    name: str
    count: int
    bars: Sequence[ClassBar]


@dataclass(frozen=True)
class Pair:
    """How often samples of one class are taken for another: for each row (count, share of the class's samples)."""

    truth: str
    answer: str
    counts: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Matrix:
    """One row's answers: for each class with samples, the shares of the samples that are taken for each class."""

    row: str
    colour: str
    answers: Sequence[str]
    lines: Sequence[tuple[str, Sequence[float]]]


@dataclass(frozen=True)
class Task:
    """A classification that at least one row has been measured in, class by class.

    said: one run of each row that has answers. hardest, easiest: the two ends, each with the hardest class first; few
    classes are all in `hardest`. all: every class with samples, in the order of the data. pairs: classes that are taken
    for another, most frequent first. matrices: only for few classes. reliability: a figure for each row whose answers
    have probabilities.
    """

    key: str
    title: str
    said: Sequence[Said]
    count: int
    hardest: Sequence[ClassLine]
    easiest: Sequence[ClassLine]
    all: Sequence[ClassLine]
    pairs: Sequence[Pair]
    matrices: Sequence[Matrix]
    reliability: Sequence[Figure]

    @property
    def empty(self) -> int:
        """How many classes have no sample."""
        return len(self.said[0].names) - len(self.all)


def tasks(rows: Rows, colours: Colours) -> tuple[list[Task], list[str]]:
    """Return the tasks whose answers are kept, in the order of the results, and what is wrong with files of answers.

    Of a row with several seeds, the first run that has answers is shown. A measurement on other data, or made in
    another way, is another task.
    """
    found: dict[tuple[str, ...], dict[str, Said]] = {}
    troubles: list[str] = []
    for label, row in rows.items():
        for run in row.runs:
            recalled, trouble = recall(list(run.results), run.folder / FILE)
            troubles += trouble
            for result in newest(recalled, run.last.get("step")):
                if result.answers is not None and len(result.answers.labels):
                    one = Said(label, colours[label], seed_of(row, run), result, result.answers)
                    found.setdefault(what_of(replace(result, metric="")), {}).setdefault(label, one)
    return [task(list(said.values())) for said in found.values()], troubles


def task(said: Sequence[Said]) -> Task:
    """Return a task from the answers of each row to the same samples."""
    first = said[0]
    names = first.names
    lines = class_lines(said)
    order = sorted(range(len(lines)), key=lambda i: _hardness(lines[i]))
    many = len(lines) > 2 * FEW + 5
    hardest = [lines[i] for i in (order[:FEW] if many else order)]
    easiest = [lines[i] for i in order[-FEW:]] if many else []
    protocol, dataset, _ = describe(first.result.key)
    return Task(
        key=first.result.key,
        title=f"{protocol} on {dataset}" if dataset else protocol,
        said=said,
        count=len(first.answers.labels),
        hardest=hardest,
        easiest=easiest,
        all=lines,
        pairs=confusions(said),
        matrices=[matrix(one) for one in said] if len(names) <= MOST_OF_MATRIX else [],
        reliability=[figure for one in said if (figure := reliability(one)) is not None],
    )


def class_lines(said: Sequence[Said]) -> list[ClassLine]:
    """Return every class that has samples, in the order of the first row's classes."""
    each = []
    for one in said:
        labels, count = one.answers.labels, len(one.names)
        samples = np.bincount(labels, minlength=count)
        hits = np.bincount(labels, weights=one.correct, minlength=count)
        each.append({name: (float(hits[i]), int(samples[i])) for i, name in enumerate(one.names)})
    lines = []
    for name in each[0]:
        found = [of.get(name, (0.0, 0)) for of in each]
        if all(samples for _, samples in found):
            bars = [ClassBar(hits / samples, *wilson(hits, samples)) for hits, samples in found]
            lines.append(ClassLine(name, found[0][1], bars))
    return lines


def _hardness(line: ClassLine) -> tuple[float, float, str]:
    """Return the key that is least for the hardest class: the middle of the interval, so few samples prove little."""
    middle = sum(bar.low + bar.high for bar in line.bars)
    return middle, sum(bar.value for bar in line.bars), line.name


def confusions(said: Sequence[Said], most: int = FEW) -> list[Pair]:
    """Return pairs of confused classes, the most frequent first, by the row that confuses them most often."""
    each: list[dict[tuple[str, str], int]] = []
    for one in said:
        wrong = ~one.correct
        labels, answers = one.answers.labels[wrong], _mistakes(one)[wrong]
        codes, counts = np.unique(labels.astype(np.int64) * len(one.names) + answers, return_counts=True)
        each.append(
            {
                (one.names[code // len(one.names)], one.names[code % len(one.names)]): count
                for code, count in zip(codes.tolist(), counts.tolist())
            }
        )
    sizes = {line.name: line.count for line in class_lines(said[:1])}
    pairs = dict.fromkeys(pair for of in each for pair in of)
    ordered = sorted(pairs, key=lambda pair: (-max(of.get(pair, 0) for of in each), pair))[:most]
    return [
        Pair(
            truth,
            answer,
            [
                (of.get((truth, answer), 0), of.get((truth, answer), 0) / max(1, sizes.get(truth, 0)))
                for of in each
            ],
        )
        for truth, answer in ordered
    ]


def _mistakes(one: Said) -> np.ndarray:
    """Return the likeliest class of each sample, (N,). A tie with the right class is wrong, and gives another class."""
    best = one.answers.best.astype(np.int64)
    if best.shape[1] < 2:
        return best[:, 0]
    tied = ~one.correct & (best[:, 0] == one.answers.labels)
    return np.where(tied, best[:, 1], best[:, 0])


def matrix(one: Said) -> Matrix:
    """Return what the samples of each class are taken for, in shares of the class."""
    count = len(one.names)
    codes = one.answers.labels.astype(np.int64) * count + _mistakes(one)
    table = np.bincount(codes, minlength=count * count).reshape(count, count)
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    lines = [(one.names[i], shares[i].tolist()) for i in range(count) if table[i].sum()]
    return Matrix(one.row, one.colour, one.names, lines)


def reliability(one: Said) -> Figure | None:
    """Return how often answers are right, by ten steps of their probability; None if they have no probabilities."""
    sure = one.answers.probabilities[:, 0].astype(np.float64)
    if not np.isfinite(sure).all():
        return None
    right = one.correct.astype(np.float64)
    place = np.clip(np.ceil(sure * _BINS) - 1, 0, _BINS - 1).astype(np.int64)
    counts = np.bincount(place, minlength=_BINS)
    shares = np.bincount(place, weights=right, minlength=_BINS) / np.maximum(1, counts)
    error = calibration_error(sure, right)
    width = 100 / _BINS
    said = "; ".join(
        f"of {counts[k]:,} answer{'s that are' if counts[k] != 1 else ' that is'} {10 * k} to {10 * k + 10} % sure, "
        f"{100 * shares[k]:.0f} % are right"
        for k in range(_BINS)
        if counts[k]
    )
    return Figure(
        f"{one.row}{one.seed}",
        f"share of right answers, by how sure they are; calibration error {100 * error:.1f}",
        f"{one.row}: {said}",
        grid=[(100 - tick, f"{tick}%") for tick in (0, 50, 100)],
        ticks=[(tick, f"{tick}%") for tick in (0, 50, 100)],
        strokes=[Stroke("M0.00 100.00L100.00 0.00", "level", "as sure as right")],
        bars=[
            Bar((k + 0.08) * width, 100 - 100 * shares[k], 0.84 * width, 100 * shares[k])
            for k in range(_BINS)
            if shares[k]
        ],
        colour=one.colour,
    )
