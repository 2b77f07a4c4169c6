"""Results side by side: the titles and the texts of measurements, the best row, and a plain-text table."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from openslip.evaluation import Result, lower_is_better, measure
from openslip.evaluation.distinct import distinct
from openslip.evaluation.measured import newest, what_of
from openslip.evaluation.scores import Score, ahead, score
from openslip.report.rows import Row, rows
from openslip.report.runs import Run

TITLES = {
    "zeroshot": "Zero-shot",
    "linear": "Linear probe",
    "knn": "k-NN",
    "finetune": "Finetuned",
    "retrieval": "Retrieval",
    "fewshot": "Few-shot",
    "geometry": "Geometry",
    "pairs": "Pair choice",
    "segmentation": "Linear segmentation",
    "zeroshot-segmentation": "Zero-shot segmentation",
    "mieb": "MIEB",
}
"""The titles of protocols in pages and tables."""
_SEVERAL = re.compile(
    r"top1@\d+shot|(text|image)_recall@10|alignment|image_uniformity|image_effective_rank|modality_gap"
)
"""Metrics that stand for a task that has them. The first metric stands for any other task."""


@dataclass(frozen=True)
class Column:
    """One measurement of every row that has it: protocol, dataset and metric in words, scores by the row's label.

    key: `task/metric`.
    """

    key: str
    protocol: str
    dataset: str
    metric: str
    scores: Mapping[str, Score]

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.key)

    @property
    def count(self) -> int | None:
        """The number of samples measured, if it is the same for all runs."""
        counts = {count for score in self.scores.values() for count in score.counts}
        return counts.pop() if len(counts) == 1 else None

    def best(self) -> str | None:
        """Return the row that is ahead of every other; None if there is none, or if no value counts as better."""
        return ahead(self.scores, lower=self.lower_is_better) if measure(self.key).better else None


def columns(rows: Sequence[Row], *, everything: bool = False) -> list[Column]:
    """Return the measurements of `rows` in the order they were made; by default those that stand for their task.

    A measurement on other data, with other prompts or other settings is another column, even under the same name; the
    column's name then tells the difference. Data of known content are the same wherever they lie. For a run that was
    measured at several checkpoints, the column has the newest; each older one has a column of its own.
    """
    found: dict[tuple[str, ...], dict[str, list[Result]]] = {}
    samples: dict[tuple[str, ...], Result] = {}
    for row in rows:
        for run in row.runs:
            for result in newest(run.results, run.last.get("step")):
                what = what_of(result)
                found.setdefault(what, {}).setdefault(row.label, []).append(result)
                samples.setdefault(what, result)
    names = dict(zip(samples, _named_apart(list(samples.values()))))
    chosen = set(headline(result.key for result in samples.values()))
    return [
        Column(result.key, *names[what], {label: score(results) for label, results in found[what].items()})
        for what, result in samples.items()
        if everything or result.key in chosen
    ]


def _named_apart(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Return protocol, dataset and metric of each result in words, no two alike."""
    names = distinct(results)
    described = [describe(result.key, name) for result, name in zip(results, names)]
    alike = Counter(described)
    return [
        words if alike[words] == 1 else (words[0], name.partition(":")[2], words[2])
        for words, name in zip(described, names)
    ]


def headline(keys: Iterable[str]) -> list[str]:
    """Return those of the `task/metric` names that stand for their task."""
    keys = list(keys)
    chosen = {key for key in keys if _SEVERAL.fullmatch(key.rpartition("/")[2])}
    covered = {key.rpartition("/")[0] for key in chosen}
    for key in keys:
        if (task := key.rpartition("/")[0]) not in covered:
            covered.add(task)
            chosen.add(key)
    return [key for key in keys if key in chosen]


def describe(key: str, name: str = "") -> tuple[str, str, str]:
    """Return protocol, dataset and metric of a `protocol:dataset/metric` name, as people read them.

    name: the name of the task by `distinct`, if it says more: `knn:here/birds [k=5]`.
    """
    task, _, metric = key.rpartition("/")
    protocol, _, dataset = (name or task).partition(":")
    dataset, _, marks = dataset.partition(" [")
    if name.partition(" [")[0] in ("", task):  # else the end of the path tells it from others
        dataset = dataset.replace("\\", "/").rstrip("/").rpartition("/")[2]
    dataset = dataset.replace(":heldout", ", held out").removesuffix(".tar")
    dataset += f", {marks.removesuffix(']')}" if marks else ""
    return TITLES.get(protocol, protocol or metric), dataset, measure(metric).title


def number(key: str, value: float) -> str:
    """Return a value without its unit: a share in percent, a rank or another number as it is."""
    if not math.isfinite(value):
        return "–"
    of = measure(key)
    return f"{value:.0f}" if of.unit == "rank" else of.text(value)


def interval(key: str, score: Score) -> str:
    """Return the 95 % interval of a score as `low–high`."""
    if math.isnan(score.low):
        return "no interval"
    return f"{number(key, score.low)}–{number(key, score.high)}"


def comparison(runs: Sequence[Run], *, everything: bool = False, width: int | None = None) -> str:
    """Return the runs' results as aligned plain text, rows of the report as rows, measurements as columns.

    Each cell is the value in percent with its 95 % interval; for several seeds, the mean and the spread. `*` marks the
    row that is ahead of all others (see `openslip.evaluation.scores`). Columns that do not fit into `width` characters
    (default: the terminal's) follow in a block below.
    """
    table = rows(runs)
    found = columns(table, everything=everything)
    if not found:
        return "No results yet."
    width = width or _terminal_width()
    names = [f"{row.label}, {len(row.runs)} seeds" if len(row.runs) > 1 else row.label for row in table]
    first = ["", "", "", *names, "n"]
    blocks: list[list[list[str]]] = [[first]]
    for column in found:
        cells = _text_column(column, table)
        if len(blocks[-1]) > 1 and _width([*blocks[-1], cells]) > width:
            blocks.append([first])
        blocks[-1].append(cells)
    return "\n\n".join([*map(_align, blocks), textwrap.fill(_note(table, found), width)])


def _note(table: Sequence[Row], found: Sequence[Column]) -> str:
    """Return what the numbers and marks of the plain-text table mean, as far as they are there."""
    numbers = (
        "Percent" if all(measure(column.key).unit == "share" for column in found) else "Percent, or as it is"
    )
    said = f"{numbers}, with 95 % intervals over the n test samples."
    if any(score.spread is not None for column in found for score in column.scores.values()):
        said = (
            f"{numbers}: means over the seeds ± their standard deviation, with 95 % intervals over seeds and the n "
            "test samples."
        )
    if len(table) > 1:
        said += " * ahead of all others: the intervals of the differences do not contain 0."
        if any(len(row.runs) == 1 for row in table):
            said += " With one seed, the mark is about the run: another seed moves the numbers, too."
    return said


def _text_column(column: Column, table: Sequence[Row]) -> list[str]:
    best, cells = column.best(), []
    for row in table:
        found = column.scores.get(row.label)
        if found is None:
            cells.append("–")
            continue
        mark = "*" if row.label == best else " "
        spread = ""
        if found.spread is not None and math.isfinite(found.spread):
            spread = f" ± {number(column.key, found.spread)}"
        of = f" of {found.runs}" if found.runs < len(row.runs) else ""
        cells.append(f"{number(column.key, found.value)}{spread}{of}{mark} ({interval(column.key, found)})")
    counts = [
        " or ".join(f"{count:,}" for count in column.scores[row.label].counts)
        for row in table
        if row.label in column.scores
    ]
    return [
        column.protocol,
        column.dataset,
        column.metric,
        *cells,
        counts[0] if column.count else " / ".join(counts),
    ]


def _width(cells: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in cells) + 2 * (len(cells) - 1)


def _align(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in cells]
    rows = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in zip(*cells)]
    rows.insert(3, "─" * _width(cells))
    return "\n".join(rows)


def _terminal_width() -> int:
    try:
        return max(60, os.get_terminal_size().columns)
    except OSError:
        return 100
