"""From cells of tables and objects to Arrow columns: by the types that cells have, or by what their texts spell."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openslip.data.own_columns import spelled, told_apart, without_columns
from openslip.errors import encodable

STEP = 4096
"""Rows that are made an Arrow array at a time."""
_DAY = r"\d{4}-\d{2}-\d{2}"
_TIME = rf"{_DAY}[T ]\d{{2}}:\d{{2}}(:\d{{2}}(\.\d{{1,6}})?)?"
_WHOLE = r"0|-?[1-9]\d{0,18}"
_FORMS = {
    "whole": _WHOLE,
    # Without a point, `3E5` is an article's number as likely as not; programs write 3e+05.
    "number": r"-?(0|[1-9]\d*)?\.\d+([eE][+-]?\d{1,3})?|-?(0|[1-9]\d*)[eE][+-]\d{1,3}",
    "yes": r"true|false|True|False|TRUE|FALSE",
    "day": _DAY,
    "time": _TIME,
    "moment": rf"{_TIME}(Z|[+-]\d{{2}}(:?\d{{2}})?)",
}
"""The form of a text that spells a value, by kind; no text fits two forms."""
_TYPES = {
    frozenset({"whole"}): pa.int64(),
    frozenset({"number"}): pa.float64(),
    frozenset({"whole", "number"}): pa.float64(),
    frozenset({"yes"}): pa.bool_(),
    frozenset({"day"}): pa.date32(),
    frozenset({"midnight"}): pa.date32(),
    frozenset({"day", "midnight"}): pa.date32(),
    frozenset({"time"}): pa.timestamp("us"),
    frozenset({"time", "midnight"}): pa.timestamp("us"),
    frozenset({"moment"}): pa.timestamp("us", "UTC"),
}
"""The type of a column by the kinds of its cells; for any other kinds it is text."""


class Cells:
    """A table that grows by rows, each a sequence of the cells of the columns `names`, or an object: name → cell.

    spelled: whether cells are texts, as in CSV. Then a column has the type that all of its texts spell: int64, float64,
    bool (`true`), date32 (`2026-11-30`), timestamp in microseconds (ISO 8601; UTC if all tell their zone), else text.
    Empty cells are null. Leading zeros (`00123`), whole numbers beyond 2^63, or beyond 2^53 beside fractions, and days
    that are in no calendar make a column text. If not spelled, a column has the type that all of its cells have. Times
    that are all at midnight become days. A column of several types becomes text, with nested values as JSON.
    """

    def __init__(self, names: Sequence[str] = (), *, spelled: bool = False) -> None:
        self._spelled, self._rows, self._count = spelled, [], 0
        self._names = list(names)
        self._columns = [_Column(spelled, 0) for _ in names]
        self._numbers = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return self._count + len(self._rows)

    def add(self, row: Sequence[Any] | Mapping[str, Any]) -> None:
        """Add a row: as many cells as there are columns, or an object."""
        self._rows.append(row)
        if len(self._rows) == STEP:
            self._flush()

    def unequal(self, row: int, other: Sequence[Any] | Mapping[str, Any]) -> str:
        """Return the name of a column in which row `row` and `other` differ, "" if there is none."""
        if row >= self._count:
            own = self._rows[row - self._count]
            cells = own if isinstance(own, Mapping) else dict(enumerate(own))
            one = {name: spelled(cell) for name, cell in cells.items()}
        else:
            texts = [column.text(row) for column in self._columns]
            one = dict(zip(self._names, texts) if isinstance(other, Mapping) else enumerate(texts))
        cells = other if isinstance(other, Mapping) else dict(enumerate(other))
        two = {name: spelled(cell) for name, cell in cells.items()}
        found = next((name for name in one | two if one.get(name) != two.get(name)), "")
        return self._names[found] if isinstance(found, int) else found

    @staticmethod
    def digest(row: Sequence[Any] | Mapping[str, Any]) -> int:
        """Return a hash of a row. Rows between which `unequal` finds no difference have the same hash."""
        if isinstance(row, Mapping):
            texts = ((name, spelled(cell)) for name, cell in row.items())
            return hash(frozenset((name, text) for name, text in texts if text is not None))
        return hash(tuple(map(spelled, row)))

    def table(self) -> pa.Table:
        """Return the rows so far, with distinct names (`own_columns.told_apart`), without nameless empty columns."""
        self._flush()
        named = [(n, column.typed()) for n, column in zip(self._names, self._columns)]
        named = [(name, column) for name, column in named if name or column.null_count < len(column)]
        if not named:
            return without_columns(len(self))
        return pa.table(
            [column for _, column in named], names=told_apart(encodable(name) for name, _ in named)
        )

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        if isinstance(rows[0], Mapping):
            for name in dict.fromkeys(name for row in rows for name in row):
                if name not in self._numbers:
                    self._numbers[name] = len(self._names)
                    self._names.append(name)
                    self._columns.append(_Column(self._spelled, self._count))
            for name, column in zip(self._names, self._columns):
                column.add([row.get(name) for row in rows])
        else:
            for number, column in enumerate(self._columns):
                column.add([row[number] for row in rows])
        self._count += len(rows)


class _Column:
    """The texts of a column's cells, and their kinds. missing: rows before the column's first cell."""

    def __init__(self, spelled: bool, missing: int) -> None:
        self._spelled, self._missing = spelled, missing
        self._texts: list[pa.Array] = []
        self._kinds: set[str] = set()

    def add(self, cells: Sequence[Any]) -> None:
        texts = pa.array(cells if self._spelled else map(spelled, cells), pa.string())
        self._texts.append(texts)
        if self._spelled:
            if "text" not in self._kinds:
                self._kinds |= _kinds(texts)
        else:
            self._kinds |= {_kind(cell) for cell in cells} - {""}

    def text(self, row: int) -> str | None:
        """Return the text of a row's cell."""
        row -= self._missing
        return self._texts[row // STEP][row % STEP].as_py() if row >= 0 else None

    def typed(self) -> pa.ChunkedArray:
        """Return the cells in the type that holds all."""
        texts = pa.chunked_array([pa.nulls(self._missing, pa.string()), *self._texts], pa.string())
        kind = _TYPES.get(frozenset(self._kinds), pa.string()) if self._kinds else pa.null()
        if not self._spelled:
            trimmed = texts
        else:
            trimmed = pc.utf8_trim_whitespace(texts)  # type: ignore[missing-attribute]
            empty = pc.equal(trimmed, "")  # type: ignore[missing-attribute]
            texts, trimmed = (_without(empty, column) for column in (texts, trimmed))
        if pa.types.is_null(kind):
            return pa.chunked_array([pa.nulls(len(texts))])
        if pa.types.is_string(kind):
            return texts
        try:
            return self._cast(trimmed, kind)
        except (pa.ArrowInvalid, ValueError, OverflowError):  # beyond the type, or in no calendar
            return texts

    def _cast(self, texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
        """Return texts as values. Raises where one has no such value."""
        if kind == pa.date32() and "midnight" in self._kinds:
            texts = pc.utf8_slice_codeunits(texts, 0, 10)  # type: ignore[missing-attribute]
        found = texts.cast(kind)
        if pa.types.is_floating(kind):
            if "whole" in self._kinds:
                # This raises if no float equals a whole number.
                texts.filter(_fits(texts, _WHOLE)).cast(pa.int64()).cast(kind)
            if self._spelled and pc.any(pc.is_inf(found)).as_py():  # type: ignore[missing-attribute]
                raise ValueError("there is no such number")
        elif pa.types.is_temporal(kind):
            pc.min_max(found).as_py()  # type: ignore[missing-attribute]  # years from 1 to 9999
        return found


def _kinds(texts: pa.Array) -> set[str]:
    """Return the kinds of the values that texts spell, but for empty ones."""
    left = pc.utf8_trim_whitespace(texts).drop_null().unique()  # type: ignore[missing-attribute]
    left = left.filter(pc.not_equal(left, ""))  # type: ignore[missing-attribute]
    found = set()
    for kind, form in _FORMS.items():
        if len(left):
            fits = _fits(left, form)
            if pc.any(fits).as_py():  # type: ignore[missing-attribute]
                found.add(kind)
                left = left.filter(pc.invert(fits))  # type: ignore[missing-attribute]
    return found | ({"text"} if len(left) else set())


def _fits(texts: Any, form: str) -> Any:
    return pc.match_substring_regex(texts, f"^(?:{form})$")  # type: ignore[missing-attribute]


def _without(empty: Any, column: Any) -> Any:
    return pc.if_else(empty, pa.scalar(None, pa.string()), column)  # type: ignore[missing-attribute]


def _kind(cell: Any) -> str:
    """Return the kind of a cell that has a type, "" of none."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes"
    if isinstance(cell, int | float):
        return "whole" if isinstance(cell, int) else "number"
    if isinstance(cell, datetime.datetime) and cell.tzinfo is None:
        return "time" if cell.time() != datetime.time() else "midnight"
    return "day" if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime) else "text"
