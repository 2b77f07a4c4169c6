"""What was measured: in a sentence, as the table of results, and every number."""

from __future__ import annotations

from collections.abc import Sequence

from openslip.evaluation import lower_is_better
from openslip.report import words
from openslip.report.html import Html, div, join, span, tag
from openslip.report.parts import Colours, Rows, enumerate_, section, who, with_code
from openslip.report.rows import Row
from openslip.report.scores import Score
from openslip.report.table import Column, columns, interval, number
from openslip.report.words import measuring

_FEW = 3
"""Commands that are shown of one kind."""
_MOST_NAMES = 8
"""Names that a sentence may begin with."""
_NARROW = 10
"""Characters of a label that fit beside the numbers on a narrow page."""


def headline(rows: Rows, colours: Colours) -> Html:
    """Say what was compared and what is certain about it: only leads that `scores.ahead` finds."""
    names = [who(name, colours) for name in rows]
    runs = [run for row in rows.values() for run in row.runs]
    towers = {repr(run.config.model.image) + str(run.config.views.size) for run in runs}
    same = " with the same image tower" if len(rows) > 1 and len(towers) == 1 else ""
    begin = [
        enumerate_(names) if len(names) <= _MOST_NAMES else _how_many(rows),
        same,
        words.trained_on(runs, len(rows)),
        words.seeds(list(rows.values())),
        ". ",
    ]
    trouble = [f"{sentence} " for sentence in words.troubles(rows)]
    found = columns(list(rows.values()))
    if not found:
        return join([*begin, *trouble, "There are no final measurements."])
    if len(rows) == 1:
        said = [join([_measured(column), " ", _value(column, next(iter(rows)))]) for column in found[:3]]
        return join([*begin[:-1], ": ", enumerate_(said), ". ", *trouble])
    return join([*begin, *trouble, join(_leads(found, colours), " "), _of_one_seed(rows)])


def _how_many(rows: Rows) -> str:
    several = any(len(row.runs) > 1 for row in rows.values())
    return f"{len(rows)} {'configurations' if several else 'runs'}"


def _leads(found: Sequence[Column], colours: Colours) -> list[Html]:
    """Return who is ahead in what, a sentence each, and where no one is."""
    clear: dict[str, list[Column]] = {}
    for column in found:
        if sum(score.certain for score in column.scores.values()) > 1:
            clear.setdefault(column.best() or "", []).append(column)
    open_ = clear.pop("", [])
    said = [
        join([who(name, colours), " is clearly ahead in ", _measurements(where, found), "."])
        for name, where in clear.items()
    ]
    if open_:
        rest = "the others" if said and len(open_) > 2 else _measurements(open_, found)
        said.append(join(["In ", rest, " no one is clearly ahead."]))
    return said


def _of_one_seed(rows: Rows) -> str | None:
    """Return what a comparison of single runs is not."""
    alone = [name for name, row in rows.items() if len(row.runs) == 1]
    if not alone:
        return None
    which = (
        "of each" if len(alone) == len(rows) else f"of {' and '.join(alone)}" if len(alone) < 3 else "of some"
    )
    return f" There is one run {which}: another seed would give other numbers."


def results(rows: Rows, colours: Colours) -> Html:
    """The table: rows, measurements as columns, each number with its interval; all others behind a fold."""
    found = columns(list(rows.values()))
    if not found:
        runs = words.runs_of(rows)
        ways = list(dict.fromkeys(map(measuring, [run for run in runs if not run.complete] or runs)))
        shown = div("commands", *(tag("pre", way) for way in ways[:_FEW]))
        return section("Results", with_code(words.why_no_results(rows)), shown)
    heads = [tag("th", class_="corner", scope="col", aria_label="method", style="--order:0")]
    heads += [_column_head(column, i) for i, column in enumerate(found, start=1)]
    lines = [tag("tr", *heads)]
    for k, (name, row) in enumerate(rows.items(), start=1):
        cells = [tag("th", name, class_=colours[name], scope="row")]
        cells += [_cell(column, row, colours[name], 100 * i + k) for i, column in enumerate(found, start=1)]
        lines.append(tag("tr", *cells))
    table = tag(
        "table",
        tag("thead", lines[0]),
        tag("tbody", *lines[1:]),
        class_="results long" if max(map(len, rows)) > _NARROW else "results",
        style=f"--columns:{len(found)}",
    )
    everything = columns(list(rows.values()), everything=True)
    fold = tag(
        "details",
        tag("summary", f"All {len(everything)} measurements"),
        _all_numbers(everything, rows, colours),
        class_="numbers",
    )
    compared = [column for column in found if len(column.scores) > 1]
    scale = "Bars start at zero, each column has its own scale." if compared else "Bars run from 0 to 100 %."
    return section(
        "Results",
        f"{scale} The bracket is the 95 % interval.",
        div("scroll", table),
        tag("p", _meaning(rows, compared=bool(compared)), class_="note"),
        fold if len(everything) > len(found) else None,
    )


def _meaning(rows: Rows, *, compared: bool) -> str:
    """Return what the intervals and the mark are, and are not."""
    sizes = {len(row.runs) > 1 for row in rows.values()}
    said = []
    if True in sizes:
        said.append(
            "Numbers are means over the seeds, ± their standard deviation. Intervals say where a mean would lie with "
            "other seeds and other test samples of the same kind."
        )
    if False in sizes:
        where = "Of a single run they" if said else "Intervals"
        said.append(
            f"{where} say where a number would lie with other test samples of the same kind; another training seed "
            "moves it too."
        )
    if compared:
        said.append(
            "“Ahead” is said where the 95 % interval of the difference to every other row does not hold 0; "
            "numbers that are not marked may still differ. Of twenty comparisons between equals, one may be marked by "
            "chance."
        )
    return " ".join(said)


def _column_head(column: Column, order: int) -> Html:
    count = f", n = {column.count:,}" if column.count is not None else ""
    lines = [tag("strong", column.protocol), span("", column.dataset), span("", column.metric + count)]
    return tag("th", *lines, scope="col", style=f"--order:{100 * order}")


def _cell(column: Column, row: Row, colour: str, order: int) -> Html:
    method = span("method", row.label)
    found = column.scores.get(row.label)
    if found is None:
        why = (
            "no text tower"
            if row.first.method == "SimCLR" and column.key.startswith(("zeroshot", "retrieval"))
            else "not measured"
        )
        return tag("td", method, span("none", why), class_=f"none {colour}", style=f"--order:{order}")
    ahead = column.best() == row.label
    value = div(
        "value",
        number(column.key, found.value),
        None if column.lower_is_better else tag("small", "%"),
        span("ahead", "ahead") if ahead else None,
    )
    count = ", n = " + _counts(found) if column.count is None else ""
    best = "best " if ahead else ""
    words_ = div(
        "interval",
        div("", interval(column.key, found) + count),
        div("", _seeds(column.key, found, len(row.runs))) if len(row.runs) > 1 else None,
    )
    return tag(
        "td", method, value, _bar(column, found), words_, class_=best + colour, style=f"--order:{order}"
    )


def _seeds(key: str, found: Score, runs: int) -> str:
    """Return `± 1.2, 3 seeds`."""
    of = f"{found.runs} of {runs} seeds" if found.runs < runs else f"{runs} seeds"
    return of if found.spread is None else f"± {number(key, found.spread)}, {of}"


def _counts(found: Score) -> str:
    return " or ".join(f"{count:,}" for count in found.counts)


def _bar(column: Column, found: Score) -> Html:
    """Return the value as a bar from zero, with a bracket over its interval; on its own, against 100 %."""
    shown = [score for score in column.scores.values() if score.certain]
    if not found.certain:
        return div("bar")
    alone = len(shown) == 1 and not column.lower_is_better
    top = 1.0 if alone else max(score.high for score in shown) or 1.0
    value, left, right = (100 * share / top for share in (found.value, found.low, found.high))
    return div(
        "bar",
        tag("i", style=f"width:{value:.2f}%"),
        tag("b", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
        aria_hidden="true",
    )


def _all_numbers(found: Sequence[Column], rows: Rows, colours: Colours) -> Html:
    head = tag(
        "tr",
        tag("th", "measurement", scope="col"),
        *(tag("th", name, class_=colours[name], scope="col") for name in rows),
        tag("th", "n", scope="col"),
    )
    lines = []
    for column in found:
        cells = [tag("td", _full(column, row)) for row in rows.values()]
        counts = " / ".join(dict.fromkeys(_counts(score) for score in column.scores.values()))
        what = ", ".join(filter(None, (column.protocol, column.dataset, column.metric)))
        lines.append(tag("tr", tag("th", what, scope="row"), *cells, tag("td", counts)))
    unit = "Percent, with 95 % intervals" + (
        "; ranks as they are." if any(lower_is_better(c.key) for c in found) else "."
    )
    table = tag("table", tag("thead", head), tag("tbody", *lines), class_="facts", style="margin:0 0 16px")
    return div("", tag("p", unit, class_="quiet"), div("scroll", table))


def _full(column: Column, row: Row) -> Html | str:
    """Return a number with all there is about it; bold where it is ahead."""
    found = column.scores.get(row.label)
    if found is None:
        return "–"
    value = number(column.key, found.value)
    seeds = f" {_seeds(column.key, found, len(row.runs))}" if len(row.runs) > 1 else ""
    shown = tag("b", value) if column.best() == row.label else value
    return join([shown, " ", span("interval", interval(column.key, found) + seeds)])


def _value(column: Column, name: str) -> Html:
    found = column.scores[name]
    unit = "" if column.lower_is_better else " %"
    return join(
        [
            tag("b", number(column.key, found.value) + unit),
            f" ({interval(column.key, found)}, n\u00a0=\u00a0{_counts(found)})",
        ]
    )


def _measurements(where: Sequence[Column], found: Sequence[Column]) -> Html:
    """Return measurements as they stand in a sentence; a protocol alone where all its columns are among them."""
    parts: dict[Html, None] = {}
    for column in where:
        whole = all(other in where for other in found if other.protocol == column.protocol)
        parts[_protocol(column) if whole else _measured(column)] = None
    return enumerate_(list(parts))


def _measured(column: Column) -> Html:
    """Return a measurement as it stands in a sentence: `zero-shot on scenes (top-1)`."""
    return join([_protocol(column), f" on {column.dataset}" if column.dataset else "", f" ({column.metric})"])


def _protocol(column: Column) -> Html:
    return join([column.protocol if column.protocol.startswith("k-") else column.protocol.lower()])
