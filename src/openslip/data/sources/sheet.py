"""A table of any format as it is read: the names of the columns, and the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from openslip.data.limits import COLUMNS
from openslip.data.sources.lines import read_lines
from openslip.errors import DataError

HEAD = 100
"""Rows that are looked at before the columns are chosen."""


_PRETTY = {
    "{": "The objects span several lines. Write each object on one line: jq -c . {} > NEW.jsonl",
    "[": "The file is one list. Write each object on one line: jq -c '.[]' {} > NEW.jsonl",
}
"""The first line of a JSON file that is not JSON lines → what can help."""


@dataclass
class Sheet:
    """`columns`: names in order, "" for none; a name may occur twice. `rows`: each has at least as many cells.

    remarks: sentences for people on the table. cause: why the columns' names may be wrong.
    as_text: converts a cell to text, where cells have types.
    """

    columns: list[str]
    rows: Iterator[Sequence[Any]]
    remarks: list[str] = field(default_factory=list)
    cause: str = ""
    as_text: Callable[[Any], Any] = lambda cell: cell

    def head(self) -> list[Sequence[Any]]:
        """Return the first rows, which stay in `rows`."""
        first = list(islice(self.rows, HEAD))
        self.rows = chain(first, self.rows)
        return first

    def numbers_of(self, name: str) -> list[int]:
        """Return the numbers of the columns with this name."""
        return [number for number, column in enumerate(self.columns) if column == name]


def check_columns(path: Path, count: int) -> None:
    """Raise DataError when a table has more columns than any real table."""
    if count > COLUMNS:
        raise DataError(
            "The table has too many columns",
            got=f"{path}, {count:,} columns",
            cause=f"More than {COLUMNS:,} may be an attack, or the first line or the objects' keys are data",
            fix="Keep the columns of the image and the captions",
        )


def read_json_lines(path: Path, *, every: bool = False) -> Sheet:
    """Return the objects of a JSON-lines file; columns are the keys of the first objects, or with `every` of all.

    Raises DataError, now or as rows are taken, for a line that is not a JSON object.
    """
    rows = _objects(path)
    if every:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        check_columns(path, len(columns))
        return Sheet(columns, ([row.get(name) for name in columns] for row in _objects(path)))
    first = list(islice(rows, HEAD))
    columns = list(dict.fromkeys(key for row in first for key in row))
    check_columns(path, len(columns))
    return Sheet(columns, ([row.get(name) for name in columns] for row in chain(first, rows)))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once if number <= HEAD else None)
        except _Twice as error:
            raise DataError(
                f"Line {number} of {path} has the key {error} twice in one object",
                got=line[:200],
                fix='Write several values as a list: ["one", "two"]',
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Line {number} of {path} is not valid JSON",
                got=line[:200],
                cause=str(error),
                fix=_PRETTY[start].format(path)
                if (start := line.strip()) in _PRETTY
                else "Write one JSON object per line; if the file was cut off on the way, fetch it again",
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"Line {number} of {path} is not a JSON object", got=line[:200])
        yield row


class _Twice(Exception):
    """A key occurs twice in an object: the JSON module would silently take the last value."""


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(repr(key))
        found[key] = value
    return found
