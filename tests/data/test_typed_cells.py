"""From cells to columns with types, against a slow and obvious twin."""

from __future__ import annotations

import datetime
import json
import math
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data import typed_cells
from openslip.data.typed_cells import Cells

NOON = datetime.datetime(2026, 11, 30, 12)
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
UTC = pa.timestamp("us", "UTC")


@pytest.fixture(autouse=True)
def _several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds are told step by step, and must not depend on where steps end."""
    monkeypatch.setattr(typed_cells, "STEP", 3)


def column(cells: list[Any], *, spelled: bool) -> pa.ChunkedArray:
    grown = Cells(["x"], spelled=spelled)
    for cell in cells:
        grown.add([cell])
    found = grown.table()["x"]
    found.validate(full=True)
    return found


@pytest.mark.parametrize(
    ("texts", "kind", "expected"),
    [
        (["1", "-20", "", " 3 ", "0"], pa.int64(), [1, -20, None, 3, 0]),
        (["1", "2.50", ".5", "-1e-3", "1.5E3"], pa.float64(), [1.0, 2.5, 0.5, -0.001, 1500.0]),
        (["true", "FALSE", "False", ""], pa.bool_(), [True, False, False, None]),
        (["2026-11-30", "2024-02-29"], pa.date32(), [NOON.date(), datetime.date(2024, 2, 29)]),
        (["2026-11-30 12:00", "2026-11-30T12:00:00.0"], pa.timestamp("us"), [NOON, NOON]),
        (["2026-11-30T12:00Z", "2026-11-30T14:00:00+0200"], UTC, [NOON.replace(tzinfo=datetime.UTC)] * 2),
        (["", " ", ""], pa.null(), [None] * 3),
        (["", "x", " y "], pa.string(), [None, "x", " y "]),
        (["00123", "7"], pa.string(), ["00123", "7"]),
        (["1.234,50", "2,5"], pa.string(), ["1.234,50", "2,5"]),
        (["1,234", "2"], pa.string(), ["1,234", "2"]),
        (["+4930", "5"], pa.string(), ["+4930", "5"]),
        (["3E5", "1"], pa.string(), ["3E5", "1"]),
        (["1", "2", "3", "n/a"], pa.string(), ["1", "2", "3", "n/a"]),
        (["1", "true"], pa.string(), ["1", "true"]),
        (["2026-11-30", "2026-11-30T12:00"], pa.string(), ["2026-11-30", "2026-11-30T12:00"]),
        (["2026-11-30T12:00", "2026-11-30T12:00Z"], pa.string(), ["2026-11-30T12:00", "2026-11-30T12:00Z"]),
        (["2026-02-29", "2026-02-28"], pa.string(), ["2026-02-29", "2026-02-28"]),
        (["0000-01-01"], pa.string(), ["0000-01-01"]),
        ([str(2**63 - 1), str(-(2**63))], pa.int64(), [2**63 - 1, -(2**63)]),
        ([str(2**63)], pa.string(), [str(2**63)]),
        ([str(2**53), "0.5"], pa.float64(), [2.0**53, 0.5]),
        ([str(2**53 + 1), "0.5"], pa.string(), [str(2**53 + 1), "0.5"]),
        (["1.0e999", "1"], pa.string(), ["1.0e999", "1"]),
        (["nan", "1"], pa.string(), ["nan", "1"]),
        (["٣", "1"], pa.string(), ["٣", "1"]),
        (["1\n2", "1"], pa.string(), ["1\n2", "1"]),
    ],
)
def test_what_texts_spell(texts: list[str], kind: pa.DataType, expected: list[Any]) -> None:
    found = column(texts, spelled=True)
    assert (found.type, found.to_pylist()) == (kind, expected)


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        ([1, None, 2], pa.int64(), [1, None, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None, False], pa.bool_(), [True, None, False]),
        ([True, 1], pa.string(), ["true", "1"]),
        (["1", "2"], pa.string(), ["1", "2"]),
        (["2026-11-30", "", None], pa.string(), ["2026-11-30", "", None]),
        ([1, "a", 3.0, 2.5, True], pa.string(), ["1", "a", "3", "2.5", "true"]),
        ([2**63, 1], pa.string(), [str(2**63), "1"]),
        ([2**53 + 1, 0.5], pa.string(), [str(2**53 + 1), "0.5"]),
        ([[1, "ä"], {"a": None}], pa.string(), ['[1, "ä"]', '{"a": null}']),
        ([[1], 2], pa.string(), ["[1]", "2"]),
        (["\ud800x"], pa.string(), ["?x"]),
        ([{b"a": 1}, b"\xff", (1, "\udfff")], pa.string(), ["{b'a': 1}", "ff", '[1, "?"]']),
        ([ENDLESS, [10**5000], "x"], pa.string(), [None, None, "x"]),
        ([10**5000, 1], pa.int64(), [None, 1]),
        ([float("inf"), 1], pa.float64(), [math.inf, 1.0]),
        ([NOON, None], pa.timestamp("us"), [NOON, None]),
        ([datetime.datetime(2026, 11, 30), datetime.date(2026, 12, 1)], pa.date32(), None),
        ([datetime.datetime(2026, 11, 30), NOON], pa.timestamp("us"), [datetime.datetime(2026, 11, 30), NOON]),
        ([datetime.time(12, 30), NOON], pa.string(), ["12:30:00", "2026-11-30T12:00:00"]),
        ([None, None], pa.null(), [None, None]),
    ],
)  # fmt: skip
def test_types_that_cells_have(cells: list[Any], kind: pa.DataType, expected: list[Any] | None) -> None:
    found = column(cells, spelled=False)
    assert found.type == kind
    assert expected is None or found.to_pylist() == expected


def test_objects_have_what_columns_they_have() -> None:
    cells = Cells()
    rows = [{"a": 1}, {}, {"b": "x"}, {"a": 2.5}, {"c": [1], "b": None}, {"a": None}, {"a": 3, "d": True}]
    for row in rows:
        cells.add(row)
    assert len(cells) == 7
    assert cells.table().to_pydict() == {
        "a": [1.0, None, None, 2.5, None, None, 3.0],
        "b": [None, None, "x", None, None, None, None],
        "c": [None, None, None, None, "[1]", None, None],
        "d": [None] * 6 + [True],
    }
    assert [cells.unequal(0, {"a": 1}), cells.unequal(0, {"a": 1, "d": 2}), cells.unequal(2, {"b": "y"})] == [
        "", "d", "b",
    ]  # fmt: skip
    assert (cells.unequal(6, {"a": 3, "d": False}), cells.unequal(6, {"d": True, "a": 3})) == ("d", "")


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"a": -1}, {"a": -2}, "a"),
        ({"a": 1}, {"a": True}, "a"),
        ({"a": "1"}, {"a": None, "b": 1}, "a"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a"),
        ({"a": 1}, {"a": 1.0}, ""),
        ({"a": [math.nan]}, {"a": [float("nan")], "b": None}, ""),
        ({"a": "\ud800", "b": None}, {"a": "\ud801"}, ""),
    ],
)
def test_rows_that_differ(one: dict[str, Any], other: dict[str, Any], differs: str) -> None:
    cells = Cells()
    cells.add(one)
    assert cells.unequal(0, other) == differs
    assert (cells.digest(one) != cells.digest(other)) == bool(differs)
    cells.table()
    assert cells.unequal(0, other) == differs


def test_halves_of_characters_in_names() -> None:
    cells = Cells()
    cells.add({"\ud800": 1, "?": 2})
    assert cells.table().to_pydict() == {"?": [1], "?_2": [2]}


def test_names_that_are_none_or_come_twice() -> None:
    cells = Cells(["", "size", "size", ""], spelled=True)
    assert cells.table().num_rows == 0
    cells.add(["", "1", "L", "2"])
    assert cells.unequal(0, ["", "1", "M", "2"]) == "size"
    assert cells.table().to_pydict() == {"size": [1], "size_2": ["L"], "column": [2]}
    empty = Cells([""], spelled=True)
    empty.add([""])
    assert (empty.table().num_columns, empty.table().num_rows) == (0, 1)


def spelled_slowly(texts: list[str]) -> list[Any]:
    """The obvious twin: what each text spells, by Python's own readers."""
    cells = [text.strip(" ") for text in texts]
    full = [cell for cell in cells if cell]

    def each(read: Any, form: str) -> list[Any] | None:
        if not all(re.fullmatch(form, cell) for cell in full):
            return None
        try:
            return [read(cell) if cell else None for cell in cells]
        except (ValueError, OverflowError):
            return None

    def whole(cell: str) -> int:
        if not -(2**63) <= int(cell) < 2**63:
            raise OverflowError
        return int(cell)

    def number(cell: str) -> float:
        if (re.fullmatch(WHOLE, cell) and abs(int(cell)) > 2**53) or math.isinf(float(cell)):
            raise OverflowError
        return float(cell)

    def time(cell: str) -> datetime.datetime:
        found = datetime.datetime.fromisoformat(cell)
        return found.astimezone(datetime.UTC) if found.tzinfo else found

    if not full:
        return [None] * len(texts)
    for read, form in (
        (whole, WHOLE),
        (number, rf"{WHOLE}|-?(0|[1-9]\d*)?\.\d+([eE][+-]?\d+)?|-?(0|[1-9]\d*)[eE][+-]\d+"),
        (lambda cell: cell.lower() == "true", "true|false|True|False|TRUE|FALSE"),
        (datetime.date.fromisoformat, r"\d{4}-\d\d-\d\d"),
        (time, r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"),
        (time, r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)"),
    ):
        if (found := each(read, form)) is not None:
            return found
    return [text if cell else None for text, cell in zip(texts, cells)]


WHOLE = "0|-?[1-9][0-9]*"
SPELLED = [
    st.integers(-(2**64), 2**64).map(str),
    st.integers(-99, 99).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-99, 99, width=16).map(repr),
    st.booleans().map(lambda value: json.dumps(value)),
    st.sampled_from(["True", "FALSE", "00123", "1e5", "1e+5", "-0", ".5", "5.", "1.5E3", "3E5", "x", "1 2"]),
    st.dates().map(str),
    st.datetimes().map(str),
    st.datetimes(min_value=datetime.datetime(1, 1, 3), max_value=datetime.datetime(9999, 12, 29))
    .map(lambda time: time.isoformat() + "+02:00"),
    st.from_regex(r"[0-9]{4}-[0-3][0-9]-[0-3][0-9](T[0-2][0-9]:[0-6][0-9]Z)?", fullmatch=True),
    st.text("0123456789.-+eE:TZ ", max_size=6),
    st.just(""),
    st.just("  "),
]  # fmt: skip


@given(
    st.lists(st.sampled_from(SPELLED), min_size=1, max_size=2)
    .flatmap(lambda some: st.lists(st.one_of(*some), min_size=1, max_size=8))
)  # fmt: skip
def test_any_texts_as_the_slow_twin_reads_them(texts: list[str]) -> None:
    found = column(texts, spelled=True).to_pylist()
    expected = spelled_slowly(texts)
    assert list(map(repr, found)) == list(map(repr, expected)) or found == expected
    assert list(map(type, found)) == list(map(type, expected))
