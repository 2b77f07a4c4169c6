"""The rows of a report: which runs are one row, because only their seeds differ, and the labels of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openslip.evaluation.measured import common, differing, name_of
from openslip.report.runs import Run

LONGEST = 32
"""The most characters of a label, if the part that tells it from others fits."""
_ENDS = " -_/"


@dataclass(frozen=True)
class Row:
    """A run, or several that differ in their seeds alone; they have been trained alike and equally long."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        return [run.config.training.seed for run in self.runs]


Rows = Mapping[str, Row]
"""Rows by label."""
Colours = Mapping[str, str]
"""Colour classes of the page's style by label."""


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the rows in the order of their first runs.

    Runs are one row if their configurations differ only in the seed, the name and options that weights do not depend
    on, if their data are the same as far as known, and if they are equally far. A seed that comes twice, as in a copy
    of a run, is no second measurement: the second run is another row.
    """
    groups: list[list[Run]] = []
    for run in runs:
        fitting = (
            group
            for group in groups
            if _alike(group[0], run) and run.config.training.seed not in _seeds(group)
        )
        group = next(fitting, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [Row(label, tuple(group)) for label, group in zip(_labels(groups), groups)]


def _seeds(group: Sequence[Run]) -> list[int]:
    return [run.config.training.seed for run in group]


def _alike(one: Run, other: Run) -> bool:
    return one.last.get("position") == other.last.get("position") and not differing(
        (one.config, one.data), (other.config, other.data)
    )


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return a distinct name for each row: its method if methods differ, else its folder, else a numbered name."""
    folders = shortened_apart([name_of([run.name for run in group]) for group in groups])
    for names in ([group[0].method for group in groups], folders):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(folders, start=1)]


def shortened_apart(names: Sequence[str]) -> list[str]:
    """Return names, some of them too long, without their common beginning and end: `…lr0.001…`.

    If a name is still too long, its middle is left out, provided that the names stay different.
    """
    if max(map(len, names), default=0) <= LONGEST:
        return [*names]
    short = [*names]
    if len(set(names)) > 1:
        head = _whole_words(common(short))
        tails = [name[len(head) :][::-1] for name in short]
        tail = _whole_words(common(tails))
        middles = [name[len(head) : len(name) - len(tail)] for name in short]
        if all(middles):
            short = ["…" * bool(head) + middle + "…" * bool(tail) for middle in middles]
    half = LONGEST // 2
    cut = [name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}" for name in short]
    return cut if len(set(cut)) == len(set(names)) else short


def _whole_words(text: str) -> str:
    """Return the beginning of a text up to its last separator, so that no number is cut in two."""
    return text[: max((text.rfind(end) for end in _ENDS), default=-1) + 1]
