"""The measurements: in a sentence, as the table of results, and every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openslip.evaluation import measure
from openslip.evaluation.scores import Score
from openslip.report import description
from openslip.report.rows import Colours, Row, Rows
from openslip.report.table import Column, columns, interval, number

_FEW = 3
"""Commands that are shown of one kind."""
_MOST_NAMES = 8
"""Names that a sentence may begin with."""


@dataclass(frozen=True)
class Span:
    """Words of a sentence that are set apart: a row's label in its colour, or, without a colour, a number."""

    text: str
    colour: str = ""


Sentence = list[str | Span]
"""Plain texts and spans, to be shown one after the other."""


@dataclass(frozen=True)
class Bar:
    """A value as a bar from zero, with a bracket over its interval; in percent of the column's scale."""

    value: float
    left: float
    width: float


@dataclass(frozen=True)
class Cell:
    """The result of a row in a column, as the page shows it.

    missing: why there is no result; the other fields are empty then. seeds: the spread over the seeds of a row that has
    several. count: the samples, if the rows of the column differ in them. bar: None if the value has no bar.
    """

    missing: str = ""
    value: str = ""
    unit: str = ""
    interval: str = ""
    seeds: str = ""
    count: str = ""
    ahead: bool = False
    bar: Bar | None = None


@dataclass(frozen=True)
class Table:
    """Measurements as columns, and for each row its label, its colour and a cell for each column.

    compared: whether several rows have the same measurement. meaning: what the intervals and the mark do and do not
    say.
    """

    columns: Sequence[Column]
    lines: Sequence[tuple[str, str, Sequence[Cell]]]
    compared: bool
    meaning: str

    @property
    def counts(self) -> list[str]:
        """The numbers of samples of each column, each once."""
        return [
            " / ".join(dict.fromkeys(_counts(score) for score in column.scores.values()))
            for column in self.columns
        ]

    @property
    def scale(self) -> str:
        """Where the bars begin and end."""
        if self.compared:
            return "Bars start at zero, each column has its own scale."
        return (
            "Bars run from 0 to 100 %." if any(cell.bar for *_, cells in self.lines for cell in cells) else ""
        )

    @property
    def all_shares(self) -> bool:
        """Whether every column has shares, which are shown in percent."""
        return all(measure(column.key).unit == "share" for column in self.columns)


def table(rows: Rows, colours: Colours, *, everything: bool = False) -> Table:
    """Return the results of all rows: the measurements that stand for their task, or all of them."""
    found = columns(list(rows.values()), everything=everything)
    lines = [(name, colours[name], [_cell(column, row) for column in found]) for name, row in rows.items()]
    compared = any(len(column.scores) > 1 for column in found)
    return Table(found, lines, compared, _meaning(rows, compared=compared))


def ways_to_measure(rows: Rows) -> list[str]:
    """Return commands that measure the runs, if they have no results."""
    runs = description.runs_of(rows)
    unfinished = [run for run in runs if not run.complete]
    return list(dict.fromkeys(map(description.measuring, unfinished or runs)))[:_FEW]


def headline(rows: Rows, colours: Colours) -> Sentence:
    """Return the sentence on what was compared, and on what is certain: only leads that `scores.ahead` finds."""
    runs = description.runs_of(rows)
    towers = {repr(run.config.model.image) + str(run.config.views.size) for run in runs}
    begin: Sentence = [
        *(
            _listed([[_who(name, colours)] for name in rows])
            if len(rows) <= _MOST_NAMES
            else [_how_many(rows)]
        ),
        " with the same image tower" if len(rows) > 1 and len(towers) == 1 else "",
        description.trained_on(runs, len(rows)),
        description.seeds(list(rows.values())),
    ]
    trouble = [f"{sentence} " for sentence in description.troubles(rows)]
    found = columns(list(rows.values()))
    if not found:
        return [*begin, ". ", *trouble, "There are no final measurements."]
    if len(rows) == 1:
        (name,) = rows
        values = _listed([[_measured(column), " ", *_value(column, name)] for column in found[:3]])
        return [*begin, ": ", *values, ". ", *trouble]
    return [*begin, ". ", *trouble, *_leads(found, colours), _of_one_seed(rows)]


def _who(name: str, colours: Colours) -> Span:
    return Span(name, colours[name])


def _listed(parts: Sequence[Sentence]) -> Sentence:
    """Return `a, b and c`."""
    said: Sentence = []
    for k, part in enumerate(parts):
        between = "" if k == 0 else " and " if k == len(parts) - 1 else ", "
        said += [between, *part]
    return said


def _how_many(rows: Rows) -> str:
    several = any(len(row.runs) > 1 for row in rows.values())
    return f"{len(rows)} {'configurations' if several else 'runs'}"


def _leads(found: Sequence[Column], colours: Colours) -> Sentence:
    """Return a sentence for each row that is ahead, and one for the measurements in which no row is."""
    clear: dict[str, list[Column]] = {}
    for column in found:
        if sum(score.certain for score in column.scores.values()) > 1:
            clear.setdefault(column.best() or "", []).append(column)
    open_ = clear.pop("", [])
    said: Sentence = []
    for name, where in clear.items():
        said += [
            " " if said else "",
            _who(name, colours),
            f" is clearly ahead in {_measurements(where, found)}.",
        ]
    if open_:
        rest = "the others" if said and len(open_) > 2 else _measurements(open_, found)
        said.append(f"{' ' if said else ''}In {rest} no one is clearly ahead.")
    return said


def _of_one_seed(rows: Rows) -> str:
    """Return the limit of a comparison of single runs, "" if there is none."""
    alone = [name for name, row in rows.items() if len(row.runs) == 1]
    if not alone:
        return ""
    which = (
        "of each" if len(alone) == len(rows) else f"of {' and '.join(alone)}" if len(alone) < 3 else "of some"
    )
    return f" There is one run {which}: another seed would give other numbers."


def _meaning(rows: Rows, *, compared: bool) -> str:
    """Return what the intervals and the mark do and do not say."""
    sizes = {len(row.runs) > 1 for row in rows.values()}
    said = []
    if True in sizes:
        said.append(
            "Numbers are means over the seeds, ± their standard deviation. Intervals say where a mean would lie with "
            "other seeds and other test samples of the same kind."
        )
    if False in sizes:
        where = "For a single run they" if said else "Intervals"
        said.append(
            f"{where} say where a number would lie with other test samples of the same kind; another training seed "
            "moves it too."
        )
    if compared:
        said.append(
            "“Ahead” marks a row if the 95 % interval of its difference to every other row does not contain 0. "
            "Numbers without the mark may still differ. Of twenty comparisons between equals, one may be marked by "
            "chance."
        )
    return " ".join(said)


def _cell(column: Column, row: Row) -> Cell:
    found = column.scores.get(row.label)
    if found is None:
        needs_text = column.key.startswith(("zeroshot", "retrieval", "pairs"))
        return Cell("no text tower" if needs_text and not row.first.loss.text_tower else "not measured")
    return Cell(
        value=number(column.key, found.value),
        unit=measure(column.key).mark if math.isfinite(found.value) else "",
        interval=interval(column.key, found),
        seeds=_seeds(column.key, found, len(row.runs)) if len(row.runs) > 1 else "",
        count=_counts(found) if column.count is None else "",
        ahead=column.best() == row.label,
        bar=_bar(column, found) if found.certain else None,
    )


def _seeds(key: str, found: Score, runs: int) -> str:
    """Return `± 1.2, 3 seeds`."""
    of = f"{found.runs} of {runs} seeds" if found.runs < runs else f"{runs} seeds"
    if found.spread is None or math.isnan(found.spread):
        return of
    return f"± {number(key, found.spread)}, {of}"


def _counts(found: Score) -> str:
    return " or ".join(f"{count:,}" for count in found.counts)


def _bar(column: Column, found: Score) -> Bar | None:
    """Return a bar from zero. Each column has its own scale; a share with no other beside it is drawn against 100 %.

    Numbers that are neither shares nor ranks have no bar, and neither has a rank with no other beside it.
    """
    shown = [score for score in column.scores.values() if score.certain]
    alone, unit = len(shown) == 1, measure(column.key).unit
    if unit == "number" or (alone and unit == "rank"):
        return None
    top = 1.0 if alone else max(score.high for score in shown) or 1.0
    value, left, right = (100 * share / top for share in (found.value, found.low, found.high))
    return Bar(value, left, right - left)


def _value(column: Column, name: str) -> Sentence:
    found = column.scores[name]
    unit = " %" if measure(column.key).mark else ""
    return [
        Span(number(column.key, found.value) + unit),
        f" ({interval(column.key, found)}, n\u00a0=\u00a0{_counts(found)})",
    ]


def _measurements(where: Sequence[Column], found: Sequence[Column]) -> str:
    """Return measurements in words for a sentence; only the protocol if all its columns are among them."""
    parts: dict[str, None] = {}
    for column in where:
        whole = all(other in where for other in found if other.protocol == column.protocol)
        parts[_protocol(column) if whole else _measured(column)] = None
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _measured(column: Column) -> str:
    """Return a measurement in words for a sentence: `zero-shot on scenes (top-1)`."""
    return f"{_protocol(column)}{f' on {column.dataset}' if column.dataset else ''} ({column.metric})"


def _protocol(column: Column) -> str:
    return column.protocol if column.protocol.startswith("k-") else column.protocol.lower()
