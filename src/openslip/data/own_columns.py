"""Own columns: what a source tells of its records beside image and captions, as Arrow tables, a row for each record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openslip.data.containers.row_groups import plain_type
from openslip.errors import encodable


def without_columns(rows: int) -> pa.Table:
    """Return a table of this many rows without columns: for `unify`, for records without own columns."""
    return pa.table({"": pa.nulls(rows)}).select([])


def told_apart(names: Iterable[str]) -> list[str]:
    """Return the names made distinct and not empty: `size`, `size_2`; `column`, `column_2` for empty names.

    A new name is never one of the given names: of `a`, `a`, `a_2` the second becomes `a_3`.
    """
    given = [name or "column" for name in names]
    taken, used, told = set(given), set[str](), []
    for name in given:
        called, number = name, 2
        while called in used or (called != name and called in taken):
            called, number = f"{name}_{number}", number + 1
        used.add(called)
        told.append(called)
    return told


def rows_of(table: pa.Table, indices: Sequence[int]) -> pa.Table:
    """Return rows of a table, in the order of `indices`; neighbouring rows are not copied."""
    if not len(indices):
        return table.slice(0, 0)
    first, last = min(indices), max(indices)
    part = table.slice(first, last - first + 1)  # `take` would also copy what is beyond these rows
    if list(indices) == list(range(first, last + 1)):
        return part
    return part.take(pa.array([index - first for index in indices], pa.int64()))


def in_parts(
    indices: Sequence[int],
    part_of: Callable[[int], tuple[int, int]],
    columns_of: Callable[[int, list[int]], pa.Table | None],
) -> pa.Table | None:
    """Return the columns of records in several parts, a row for each record, in the order of `indices`.

    part_of: returns the part of an index, and the index within the part. columns_of: returns the columns of records of
    one part, None if the part has none. Returns None if no part of these records has columns.
    """
    rows: dict[int, list[int]] = {}
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        part, own = part_of(index)
        rows.setdefault(part, []).append(own)
        places.setdefault(part, []).append(place)
    tables = [columns_of(part, own) for part, own in rows.items()]
    if all(table is None for table in tables):
        return None
    joined = unify(
        [without_columns(len(own)) if one is None else one for one, own in zip(tables, rows.values())]
    )
    order = [place for part in places.values() for place in part]  # where each row of `joined` belongs
    if order == list(range(len(order))):
        return joined
    return joined.take(pa.array(sorted(range(len(order)), key=order.__getitem__), pa.int64()))


def unify(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables, one table after the other, with all columns in the order of their first table.

    A column that a table lacks is null there. Where the types of a column differ, nulls take the other type, whole
    numbers become wider ones or fractions, times become finer, and all else becomes text, with nested values as JSON.
    Numbers that a wider type cannot hold exactly become text, too. In text, 3.0 is `3`.

    Whether a column becomes text depends on all tables, so unify all of them at once. For tables that do not fit into
    memory, use `common_schema` and `conform`. Names that occur twice in one table are made distinct (`told_apart`).
    """
    named = [table.rename_columns(told_apart(table.column_names)) for table in tables]
    schema = common_schema([table.schema for table in named], lambda number, name: named[number][name])
    if not len(schema):
        return without_columns(sum(table.num_rows for table in named))
    return pa.concat_tables([conform(table, schema) for table in named])


def common_schema(
    schemas: Sequence[pa.Schema], column_of: Callable[[int, str], pa.ChunkedArray]
) -> pa.Schema:
    """Return the columns of `unify(tables)` for tables with these schemas, in which no name occurs twice.

    column_of: returns a column by the table's number and the column's name. It is called for columns whose values the
    common type may not hold exactly.
    """
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            kinds[field.name] = _common(kinds.get(field.name, pa.null()), field.type)
    for number, schema in enumerate(schemas):
        for field in schema:
            kind = kinds[field.name]
            if field.type == kind or pa.types.is_null(field.type) or _is_text(kind):
                continue
            try:
                _decoded(column_of(number, field.name)).cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # beyond what the type can hold
                kinds[field.name] = pa.string()
    return pa.schema(list(kinds.items()))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns and types of a schema from `common_schema`; columns that it lacks are null.

    Raises pyarrow.ArrowInvalid if a column has values that the type cannot hold. No table that `common_schema` was
    asked about has such values.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            column = pa.nulls(table.num_rows, field.type)
        else:
            column = table[field.name]
            if column.type != field.type:
                column = (as_text if _is_text(field.type) else _decoded)(column).cast(field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that holds values of both."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    one, other = plain_type(one), plain_type(other)
    large = pa.types.is_large_string(one) or pa.types.is_large_string(other)
    if any(all(map(alike, (one, other))) for alike in (_is_number, pa.types.is_timestamp, pa.types.is_date)):
        try:
            fields = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
            return pa.unify_schemas(fields, promote_options="permissive").field(0).type
        except pa.ArrowTypeError:  # times with and without zone
            pass
    return pa.large_string() if large else pa.string()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _decoded(column: Any) -> Any:
    """Return a column with plain values, not in a dictionary, in runs or as an extension."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([_decoded(chunk) for chunk in column.chunks], plain_type(column.type))
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        elif isinstance(column, pa.RunEndEncodedArray):
            column = pc.call_function("run_end_decode", [column])
        else:
            return column


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column's values as text: numbers as they are spelled, dates in ISO 8601, nested values as JSON."""
    column = _decoded(column)
    kind = column.type
    if _is_text(kind):
        return column
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or _is_number(kind) or pa.types.is_date(kind):
        return column.cast(pa.string())
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array(map(as_text, column.chunks), pa.string())
    return pa.array(map(spelled, column.to_pylist()), pa.string())


def spelled(value: Any) -> str | None:
    """Return a value as text: numbers as they are spelled, 3.0 as `3`, dates in ISO 8601, nested values as JSON.

    Bytes become hexadecimal digits, half characters `?`. What no program reads, such as a list in itself, becomes None.
    """
    try:
        text = _spelled(value)
    except (RecursionError, ValueError):  # ValueError: also for whole numbers of thousands of digits
        return None
    return None if text is None else encodable(text)


def _spelled(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | dict | tuple):
        try:
            return json.dumps(value, ensure_ascii=False, default=_spelled)
        except TypeError:  # keys that are bytes
            return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
