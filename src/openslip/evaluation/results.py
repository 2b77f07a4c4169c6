"""Results in files, as JSON or CSV, kept beside those of other measurements; and results as a table."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any

from openslip.errors import EvaluationError
from openslip.evaluation import COLUMNS, Result, kept_outcomes, measure
from openslip.evaluation.distinct import distinct
from openslip.files import open_regular, read_json, write_bytes, write_json

FILE = "results.json"
"""The file in which a run, or a trained classifier, keeps its results."""
COLUMNS_SHOWN = ("task", "metric", "value", "95 % interval", "samples")
"""The columns of a table of results: a short name of the task, and `cells`."""


def save(
    results: Sequence[Result], path: str | Path, beside: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write the results, whole or not at all.

    A name that ends in `.csv` gets a CSV with a column for each field; any other name gets a JSON list of
    {"task": …, "metric": …, "value": …, …}. beside: further fields of each result, which `read` ignores.

    Raises EvaluationError if the file cannot be written.
    """
    path, rows = Path(path), [result.to_dict() for result in results]
    for row, fields in zip(rows, beside or ()):
        row |= fields
    try:
        if is_csv(path):
            text = io.StringIO(newline="")
            table = csv.DictWriter(
                text, list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
            )
            table.writeheader()
            table.writerows(rows)
            write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
        else:
            write_json(path, rows)
    except OSError as error:
        raise EvaluationError(
            f"The results cannot be written to {path}",
            cause=error.strerror or str(error),
            fix="Give a path in a folder that exists, on a disk with free space.",
        ) from None


def read(path: str | Path) -> list[Result]:
    """Read the JSON that `save` wrote; return [] if there is no such file. Raises EvaluationError for other files."""
    try:
        return [_result(entry) for entry in read_json(path)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise EvaluationError(
            "The file does not hold results",
            got=str(path),
            cause=f"{type(error).__name__}: {error}",
            fix="Results are read from JSON: name a run, or a file that `slip evaluate --out FILE.json` wrote"
            if is_csv(Path(path))
            else "Name another file. If this one is damaged, remove it, and `slip evaluate` measures again",
        ) from None


def keep(results: Sequence[Result], path: str | Path, *, outcomes: bool = True) -> None:
    """Add results to those in a file. A new result replaces a result of equal identity; all others stay.

    outcomes: also keep the outcomes (see `openslip.evaluation.kept_outcomes`), for comparisons with other models. Other
    processes may add results at the same time. Raises EvaluationError as `read`, `save` and `kept_outcomes.keep` do.
    """
    with _alone(Path(path).parent):
        measured = {result.identity for result in results}
        every = [r for r in read(path) if r.identity not in measured] + list(results)
        save(every, path)
        if outcomes:
            kept_outcomes.prune(every, path)
            kept_outcomes.keep(results, path)


def is_csv(path: Path) -> bool:
    """Whether a file of this name is written as CSV."""
    return path.suffix.lower() == ".csv"


def holds_results(path: Path) -> bool:
    """Whether new results may replace a file: it is empty, or `save` wrote it."""
    try:
        with open_regular(path) as file:
            begin = file.read(4096)
        if is_csv(path):
            return not begin.strip() or begin.startswith(b"task,metric,value,")
        return not begin.strip() or bool(read(path)) or begin.strip() == b"[]"
    except (OSError, ValueError, EvaluationError):
        return False


class Results(list[Result]):
    """Results as a call in Python returns them: a list that shows itself as a table, also in a notebook."""

    def __repr__(self) -> str:
        return table(self) if self else "no results"

    def _repr_html_(self) -> str:
        rows = [[escape(cell) for cell in row] for row in _rows(self)]
        lines = [f"<td>{'</td><td>'.join(row)}</td>" for row in rows[1:]]
        return (
            f"<table><thead><tr><th>{'</th><th>'.join(rows[0])}</th></tr></thead>"
            f"<tbody><tr>{'</tr><tr>'.join(lines)}</tr></tbody></table>"
        )


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned plain text: percent (ranks stay as they are), 95 % interval, samples.

    Tasks have short names. If several measurements share a name, the names say more (see `distinct`).
    """
    return "\n".join(aligned(_rows(results))) + "\n"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0, 1), *, headings: int = 1) -> list[str]:
    """Return the lines of a table: its headings, a rule, its other rows. left: columns of text, aligned left; the other
    columns are numbers, aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(headings, "  ".join("─" * width for width in widths))
    return lines


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return a table's titles and rows."""
    return [COLUMNS_SHOWN, *((name, *cells(result)) for name, result in zip(distinct(results), results))]


def cells(result: Result) -> tuple[str, str, str, str]:
    """Return a result's metric, value, interval and number of samples, as tables show them."""
    of = measure(result.metric)
    if math.isnan(result.low):
        value, interval = of.with_unit(result.value), "–"
    elif of.unit == "rank":
        value, interval = f"{result.value:.1f}", f"{result.low:.0f} – {result.high:.0f}"
    else:
        value, interval = of.with_unit(result.value), f"{of.text(result.low)} – {of.text(result.high)}"
    skipped = f" ({result.skipped:,} skipped)" if result.skipped else ""
    return result.metric, value, interval, f"{result.count:,}{skipped}" if result.count else "–"


def _result(entry: dict[str, Any]) -> Result:
    """Return the result of a file's entry. Raises LookupError, TypeError or ValueError if it is not a result."""
    numbers = (math.nan if entry[name] is None else float(entry[name]) for name in ("value", "low", "high"))
    value, low, high = numbers  # JSON has no nan
    count, skipped = int(entry["count"]), int(entry.get("skipped", 0))
    if count < 0 or skipped < 0:
        raise ValueError(f"{entry['metric']} of {count} samples")
    # Earlier versions did not write these fields.
    facts: dict[str, Any] = {name: str(entry.get(name, "")) for name in COLUMNS[7:]}
    return Result(str(entry["task"]), str(entry["metric"]), value, count, low, high, skipped, **facts)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder, if folders can be locked, so that only this process changes its results."""
    descriptor = None
    with suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
