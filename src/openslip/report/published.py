"""The report's own rows beside the SLIP paper's, if protocol and data agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openslip.evaluation import Result
from openslip.evaluation.published import PUBLISHED, agrees
from openslip.report.answered import Said, Task
from openslip.report.table import TITLES


@dataclass(frozen=True)
class Beside:
    """The report's own rows and the paper's. protocols: those in which an own row agrees with the paper. own: (label,
    colour class, seed in words, top-1 with its interval or "–" by protocol); paper: (tower, method, data, epochs, top-1
    or "–")."""

    protocols: Sequence[str]
    own: Sequence[tuple[str, str, str, Sequence[str]]]
    paper: Sequence[tuple[str, str, str, str, Sequence[str]]]


def beside(tasks: Sequence[Task]) -> Beside | None:
    """Return the rows that were measured as in the paper, with the paper's rows; None if there are none."""
    found: dict[str, dict[str, Said]] = {}
    for task in tasks:
        for one in task.said:
            if protocol := agrees(one.result, one.answers):
                found.setdefault(protocol, {}).setdefault(one.row, one)
    protocols = [protocol for protocol in TITLES if protocol in found]
    if not protocols:
        return None
    rows = {one.row: one for each in found.values() for one in each.values()}
    own = [
        (
            label,
            one.colour,
            one.seed,
            [_text(found[p][label].result) if label in found[p] else "–" for p in protocols],
        )
        for label, one in rows.items()
    ]
    paper = [
        (row.tower, row.method, row.data, f"{row.epochs}", [_number(getattr(row, p)) for p in protocols])
        for row in PUBLISHED
        if any(getattr(row, p) is not None for p in protocols)
    ]
    return Beside([TITLES[protocol] for protocol in protocols], own, paper)


def _text(result: Result) -> str:
    return f"{100 * result.value:.1f} ({100 * result.low:.1f}–{100 * result.high:.1f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
