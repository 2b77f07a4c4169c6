"""Tables of own columns: joined whatever their types, and cut."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.own_columns import (
    common_schema,
    conform,
    in_parts,
    rows_of,
    told_apart,
    unify,
    without_columns,
)

DAY = datetime.date(2026, 11, 30)
NOON = datetime.datetime(2026, 11, 30, 12, 0, 1)
ZONED = NOON.replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("parts", "kind", "expected"),
    [
        (([1], [2]), pa.int64(), [1, 2]),
        (([None], [2], [None]), pa.int64(), [None, 2, None]),
        (([None], [None]), pa.null(), [None, None]),
        (([1], [2.5]), pa.float64(), [1.0, 2.5]),
        (([1], ["a"], [2.5]), pa.string(), ["1", "a", "2.5"]),
        (([None], [7], ["n/a"], [3.0, None]), pa.string(), [None, "7", "n/a", "3", None]),
        (([2**53 + 1], [0.5]), pa.string(), [str(2**53 + 1), "0.5"]),
        (([True], [1]), pa.string(), ["true", "1"]),
        (([DAY], [NOON]), pa.string(), ["2026-11-30", "2026-11-30T12:00:01"]),
        (([NOON], [ZONED]), pa.string(), ["2026-11-30T12:00:01", "2026-11-30T12:00:01+00:00"]),
        (([[1, 2]], ["a"]), pa.string(), ["[1, 2]", "a"]),
        (([{"ä": DAY}], [[1]]), pa.string(), ['{"ä": "2026-11-30"}', "[1]"]),
        (([[1]], [["a"]]), pa.string(), ["[1]", '["a"]']),
        (([b"\xff"], ["a"]), pa.string(), ["ff", "a"]),
    ],
)
def test_types_that_differ(parts: tuple[list[Any], ...], kind: pa.DataType, expected: list[Any]) -> None:
    joined = unify([pa.table({"x": part}) for part in parts])
    assert (joined["x"].type, joined["x"].to_pylist()) == (kind, expected)
    joined.validate(full=True)


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        ((pa.int8(), pa.uint16()), pa.int32()),
        ((pa.int64(), pa.uint64()), pa.int64()),
        ((pa.float32(), pa.int64()), pa.float64()),
        ((pa.timestamp("s"), pa.timestamp("us")), pa.timestamp("us")),
        ((pa.string(), pa.large_string()), pa.large_string()),
        ((pa.large_string(), pa.int8()), pa.large_string()),
        ((pa.dictionary(pa.int8(), pa.string()), pa.string()), pa.string()),
        ((pa.dictionary(pa.int8(), pa.string()),) * 2, pa.dictionary(pa.int8(), pa.string())),
        ((pa.decimal128(5, 2), pa.int8()), pa.decimal128(5, 2)),
        ((pa.struct({"a": pa.int8()}),) * 2, pa.struct({"a": pa.int8()})),
    ],
)
def test_types_of_one_family(kinds: tuple[pa.DataType, ...], kind: pa.DataType) -> None:
    joined = unify([pa.table({"x": pa.nulls(2, one)}) for one in kinds])
    assert (joined["x"].type, joined["x"].to_pylist()) == (kind, [None] * 4)


def test_values_of_one_family() -> None:
    coded = pa.array(["a", "b", "a"]).dictionary_encode()
    assert unify([pa.table({"x": coded}), pa.table({"x": [5]})])["x"].to_pylist() == ["a", "b", "a", "5"]
    cents = unify([pa.table({"x": [Decimal("1.50")]}), pa.table({"x": [2.25]})])
    assert cents["x"].to_pylist() == [1.5, 2.25]
    large = unify([pa.table({"x": pa.array([2**64 - 1], pa.uint64())}), pa.table({"x": [-1]})])
    assert large["x"].to_pylist() == [str(2**64 - 1), "-1"]
    far = pa.table({"x": pa.array([datetime.datetime(9999, 1, 1)], pa.timestamp("s"))})
    near = pa.table({"x": pa.array([NOON], pa.timestamp("ns"))})
    assert unify([far, near])["x"].to_pylist()[0] == "9999-01-01T00:00:00"


def test_columns_of_all_in_the_order_of_their_first() -> None:
    joined = unify([pa.table({"a": [1], "b": ["x"]}), without_columns(2), pa.table({"c": [True], "a": [2]})])
    assert joined.to_pydict() == {
        "a": [1, None, None, 2],
        "b": ["x", None, None, None],
        "c": [None, None, None, True],
    }
    assert unify([without_columns(2), without_columns(3)]).num_rows == 5
    assert unify([]).num_rows == 0


def test_names_are_told_apart() -> None:
    assert told_apart(["a", "", "a", "a_2", "a", ""]) == ["a", "column", "a_3", "a_2", "a_4", "column_2"]
    twice = pa.table([[1], [2]], names=["a", "a"])
    assert unify([twice, twice]).to_pydict() == {"a": [1, 1], "a_2": [2, 2]}


@given(st.lists(st.sampled_from(["", "a", "a_2", "a_3", "column"]), max_size=8))
def test_no_two_names_are_equal(names: list[str]) -> None:
    told = told_apart(names)
    assert len(set(told)) == len(names)
    assert all(new == old or new.startswith(f"{old or 'column'}") for new, old in zip(told, names))
    assert [new for new, old in zip(told, names) if old and names.count(old) == 1] == [
        old for old in names if old and names.count(old) == 1
    ] or "" in names


Value = None | bool | int | float | str | list[int]
SMALL = st.floats(-100, 100, width=16).map(lambda x: x + 0.0)
VALUES: list[st.SearchStrategy[Any]] = [
    *(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-9, 9),
        SMALL,
        st.text(max_size=3),
    ),
    st.lists(st.integers(0, 9), max_size=2),
]
PARTS = st.lists(
    st.sampled_from(VALUES).flatmap(lambda one: st.lists(st.none() | one, max_size=3)), min_size=1, max_size=4
)


def joined_slowly(parts: list[list[Value]]) -> list[Value]:
    """The obvious twin: look at all values, one by one."""
    values = [value for part in parts for value in part]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    exact = all(abs(value) <= 2**53 for value in values if isinstance(value, int))
    if kinds == {int, float} and exact:
        return [None if value is None else float(value) for value in values]  # type: ignore[arg-type]

    def spelled(value: Value) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float):
            return pa.array([value]).cast(pa.string())[0].as_py()
        return json.dumps(value)

    return list(map(spelled, values))


@given(PARTS)
def test_any_parts_as_the_slow_twin_joins_them(parts: list[list[Value]]) -> None:
    joined = unify([pa.table({"x": pa.array(part)}) for part in parts])
    assert joined["x"].to_pylist() == joined_slowly(parts)


@given(PARTS)
def test_tables_that_are_read_one_by_one(parts: list[list[Value]]) -> None:
    tables = [pa.table({"x": pa.array(part), "y": [number] * len(part)}) for number, part in enumerate(parts)]
    asked = []

    def column(number: int, name: str) -> pa.ChunkedArray:
        asked.append(name)
        return tables[number][name]

    schema = common_schema([table.schema for table in tables], column)
    assert pa.concat_tables([conform(table, schema) for table in tables]).equals(unify(tables))
    assert "y" not in asked


@given(st.lists(st.integers(0, 19), max_size=12))
def test_rows_in_any_order(indices: list[int]) -> None:
    chunks = [pa.table({"x": list(range(first, first + 5)), "y": ["t"] * 5}) for first in range(0, 20, 5)]
    table = pa.concat_tables(chunks)
    assert rows_of(table, indices)["x"].to_pylist() == indices
    assert rows_of(table, sorted(set(indices)))["x"].to_pylist() == sorted(set(indices))


@given(st.lists(st.integers(0, 29), min_size=1, max_size=12))
def test_records_of_several_parts(indices: list[int]) -> None:
    def columns(part: int, own: list[int]) -> pa.Table | None:
        return None if part == 1 else pa.table({"x": [10 * part + i for i in own]})

    table = in_parts(indices, lambda index: divmod(index, 10), columns)
    if all(index // 10 == 1 for index in indices):
        assert table is None
    else:
        assert table is not None
        assert table["x"].to_pylist() == [None if i // 10 == 1 else i for i in indices]
