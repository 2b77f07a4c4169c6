"""What was measured: in a sentence, as the table of results, and every number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slip.evaluation import Result, lower_is_better
from slip.report import words
from slip.report.html import Html, div, join, span, tag
from slip.report.parts import Colours, Runs, enumerate_, section, who
from slip.report.runs import Run
from slip.report.table import Column, columns, interval, number

_BEST = (
    "“Best” is said only where the interval lies clear of all others; "
    "numbers with overlapping intervals may still differ."
)


def headline(runs: Runs, colours: Colours) -> Html:
    """Say what was compared and what is certain about it: only leads whose intervals lie clear of all others'."""
    names = [who(name, colours) for name in runs]
    towers = {repr(run.config.model.image) + str(run.config.views.size) for run in runs.values()}
    same = " with the same image tower" if len(runs) > 1 and len(towers) == 1 else ""
    trained = words.trained_on(list(runs.values()))
    found = columns(list(runs.values()))
    if not found:
        return join([enumerate_(names), same, trained, ". Final measurements are not in yet."])
    if len(runs) == 1:
        said = [join([_measured(column), " ", _value(column, next(iter(runs)))]) for column in found[:3]]
        return join([enumerate_(names), trained, ": ", enumerate_(said), "."])
    clear: dict[str, list[Column]] = {}
    for column in found:
        clear.setdefault(column.best() or "", []).append(column)
    open_ = clear.pop("", [])
    said = [
        join([who(name, colours), " is clearly best in ", _measurements(where, found), "."])
        for name, where in clear.items()
    ]
    if open_:
        rest = "the others" if said and len(open_) > 2 else _measurements(open_, found)
        said.append(join(["In ", rest, " no one is clearly ahead: the intervals overlap."]))
    return join([enumerate_(names), same, trained, ". ", join(said, " ")])


def results(runs: Runs, colours: Colours) -> Html:
    """The table: runs as rows, measurements as columns, each number with its interval; all others behind a fold."""
    found = columns(list(runs.values()))
    if not found:
        return section(
            "Results",
            "No results yet: they appear when the run is finished or measured with `slip evaluate`.",
        )
    heads = [tag("th", class_="corner", scope="col", aria_label="method", style="--order:0")]
    heads += [_column_head(column, i) for i, column in enumerate(found, start=1)]
    rows = [tag("tr", *heads)]
    for k, name in enumerate(runs, start=1):
        cells = [tag("th", name, class_=colours[name], scope="row")]
        cells += [
            _cell(column, name, runs[name], colours[name], 100 * i + k)
            for i, column in enumerate(found, start=1)
        ]
        rows.append(tag("tr", *cells))
    table = tag(
        "table",
        tag("thead", rows[0]),
        tag("tbody", *rows[1:]),
        class_="results",
        style=f"--columns:{len(found)}",
    )
    everything = columns(list(runs.values()), everything=True)
    fold = tag(
        "details",
        tag("summary", f"All {len(everything)} measurements"),
        _all_numbers(everything, runs, colours),
    )
    return section(
        "Results",
        (
            "Bars start at zero, each column has its own scale."
            if len(runs) > 1
            else "Bars run from 0 to 100 %."
        )
        + " The bracket is the 95 % interval.",
        div("scroll", table),
        tag(
            "p",
            "Intervals say where a number would lie with other test samples of the same kind; another training ",
            "seed moves it too. ",
            _BEST if len(runs) > 1 else None,
            class_="note",
        ),
        fold if len(everything) > len(found) else None,
    )


def _column_head(column: Column, order: int) -> Html:
    count = f", n = {column.count:,}" if column.count is not None else ""
    lines = [tag("strong", column.protocol), span("", column.dataset), span("", column.metric + count)]
    return tag("th", *lines, scope="col", style=f"--order:{100 * order}")


def _cell(column: Column, name: str, run: Run, colour: str, order: int) -> Html:
    method = span("method", name)
    result = column.results.get(name)
    if result is None:
        why = (
            "no text tower"
            if run.method == "SimCLR" and column.key.startswith(("zeroshot", "retrieval"))
            else "not measured"
        )
        return tag("td", method, span("none", why), class_=f"none {colour}", style=f"--order:{order}")
    value = div(
        "value", number(column.key, result.value), None if column.lower_is_better else tag("small", "%")
    )
    count = f", n = {result.count:,}" if column.count is None else ""
    best = "best " if column.best() == name else ""
    words_ = div("interval", interval(column.key, result) + count)
    return tag(
        "td", method, value, _bar(column, result), words_, class_=best + colour, style=f"--order:{order}"
    )


def _bar(column: Column, result: Result) -> Html:
    """Return the value as a bar from zero, with a bracket over its interval; on its own, against 100 %."""
    shown = [r for r in column.results.values() if all(map(math.isfinite, (r.value, r.low, r.high)))]
    if result not in shown:
        return div("bar")
    alone = len(shown) == 1 and not column.lower_is_better
    top = 1.0 if alone else max(r.high for r in shown) or 1.0
    value, left, right = (100 * share / top for share in (result.value, result.low, result.high))
    return div(
        "bar",
        tag("i", style=f"width:{value:.2f}%"),
        tag("b", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
        aria_hidden="true",
    )


def _all_numbers(found: Sequence[Column], runs: Runs, colours: Colours) -> Html:
    head = tag(
        "tr",
        tag("th", "measurement"),
        *(tag("th", name, class_=colours[name], scope="col") for name in runs),
        tag("th", "n"),
    )
    rows = []
    for column in found:
        cells = []
        for name in runs:
            result = column.results.get(name)
            value = (
                join(
                    [
                        tag("b", number(column.key, result.value)),
                        " ",
                        span("interval", interval(column.key, result)),
                    ]
                )
                if result
                else "–"
            )
            cells.append(tag("td", value))
        counts = " / ".join(f"{c:,}" for c in dict.fromkeys(r.count for r in column.results.values()))
        what = ", ".join(filter(None, (column.protocol, column.dataset, column.metric)))
        rows.append(tag("tr", tag("th", what, scope="row"), *cells, tag("td", counts)))
    unit = "Percent, with 95 % intervals" + (
        "; ranks as they are." if any(lower_is_better(c.key) for c in found) else "."
    )
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="facts", style="margin:0 0 16px")
    return div("", tag("p", unit, class_="quiet"), div("scroll", table))


def _value(column: Column, name: str) -> Html:
    result = column.results[name]
    unit = "" if column.lower_is_better else " %"
    return join(
        [
            tag("b", number(column.key, result.value) + unit),
            f" ({interval(column.key, result)}, n\u00a0=\u00a0{result.count:,})",
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
