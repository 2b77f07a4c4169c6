"""Results side by side: what the measurements are called, how they read, which one is best, and a plain-text table."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slip.evaluation import Result, lower_is_better
from slip.report.runs import Run, labels

_PROTOCOLS = {
    "zeroshot": "Zero-shot",
    "linear": "Linear probe",
    "knn": "k-NN",
    "finetune": "Finetuned",
    "retrieval": "Retrieval",
}
_METRICS = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "roc_auc": "ROC AUC"}
_DIRECTIONS = {"text_": "picture → text ", "image_": "text → picture "}
_HEADLINE = ("top1", "roc_auc", "text_recall@10", "image_recall@10")
"""Metrics that stand for their task where there are several; of a task that has none of them, all do."""


@dataclass(frozen=True)
class Column:
    """One measurement of every run that has it: protocol, dataset and metric in words, results by the run's label."""

    key: str
    protocol: str
    dataset: str
    metric: str
    results: Mapping[str, Result]

    @property
    def lower_is_better(self) -> bool:
        return lower_is_better(self.key)

    @property
    def count(self) -> int | None:
        """Samples measured, where that is the same number for all runs."""
        counts = {result.count for result in self.results.values()}
        return counts.pop() if len(counts) == 1 else None

    def ranking(self) -> list[str]:
        """Return the runs' labels, best value first."""
        known = [name for name, result in self.results.items() if math.isfinite(result.value)]
        return sorted(known, key=lambda name: self.results[name].value, reverse=not self.lower_is_better)

    def best(self) -> str | None:
        """Return the run whose interval lies clear of every other's, None where there is none or nothing to compare."""
        first, *others = self.ranking() or [""]
        if not others:
            return None
        top, rest = self.results[first], [self.results[name] for name in others]
        if self.lower_is_better:
            clear = all(top.high < other.low for other in rest)
        else:
            clear = all(top.low > other.high for other in rest)
        return first if clear else None


def columns(runs: Sequence[Run], *, everything: bool = False) -> list[Column]:
    """Return the measurements of `runs` in the order they were made; by default those that stand for their task."""
    found: dict[str, dict[str, Result]] = {}
    for label, run in zip(labels(runs), runs):
        for result in run.results:
            found.setdefault(result.key, {})[label] = result
    keys = list(found) if everything else headline(found)
    return [Column(key, *describe(key), found[key]) for key in keys]


def headline(keys: Iterable[str]) -> list[str]:
    """Return those of the `task/metric` names that stand for their task."""
    keys = list(keys)
    chosen = {key for key in keys if key.rpartition("/")[2] in _HEADLINE}
    covered = {key.rpartition("/")[0] for key in chosen}
    return [key for key in keys if key in chosen or key.rpartition("/")[0] not in covered]


def describe(key: str) -> tuple[str, str, str]:
    """Return protocol, dataset and metric of a `protocol:dataset/metric` name, as people read them."""
    task, _, metric = key.rpartition("/")
    protocol, _, dataset = task.partition(":")
    name = dataset.replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = name.replace(":heldout", ", held out").removesuffix(".tar")
    words = _METRICS.get(metric)
    if words is None:
        prefix = next((prefix for prefix in _DIRECTIONS if metric.startswith(prefix)), "")
        words = (_DIRECTIONS.get(prefix, "") + metric.removeprefix(prefix)).replace("_", " ")
    return _PROTOCOLS.get(protocol, protocol or metric), name, words


def number(key: str, value: float) -> str:
    """Return a value without its unit: a share in percent, a rank as it is."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if lower_is_better(key) else f"{100 * value:.1f}"


def interval(key: str, result: Result) -> str:
    """Return the 95 % interval of a result as `low–high`."""
    return f"{number(key, result.low)}–{number(key, result.high)}"


def comparison(runs: Sequence[Run], *, everything: bool = False, width: int | None = None) -> str:
    """Return the runs' results as aligned plain text, runs as rows, measurements as columns.

    Each cell is the value in percent with its 95 % interval; `*` marks a best one whose interval lies clear of all
    others. Columns that do not fit into `width` characters (default: the terminal's) follow in a block below.
    """
    found = columns(runs, everything=everything)
    if not found:
        return "No results yet."
    width = width or _terminal_width()
    first = ["", "", "", *labels(runs), "n"]
    blocks: list[list[list[str]]] = [[first]]
    for column in found:
        cells = _text_column(column, labels(runs))
        if len(blocks[-1]) > 1 and _width([*blocks[-1], cells]) > width:
            blocks.append([first])
        blocks[-1].append(cells)
    note = "Percent, with 95 % intervals over the n test samples. * best, its interval clear of all others."
    return "\n\n".join([*map(_align, blocks), note])


def _text_column(column: Column, names: Sequence[str]) -> list[str]:
    best, cells = column.best(), []
    for name in names:
        result = column.results.get(name)
        mark = "*" if name == best else " "
        cells.append(
            f"{number(column.key, result.value)}{mark} ({interval(column.key, result)})" if result else "–"
        )
    counts = [column.results[name].count for name in names if name in column.results]
    count = f"{counts[0]:,}" if column.count is not None else " / ".join(f"{c:,}" for c in counts)
    return [column.protocol, column.dataset, column.metric, *cells, count]


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
