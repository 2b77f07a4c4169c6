"""Find the records of an index for which a condition on their columns holds, with DuckDB."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from openslip.errors import ConfigError, did_you_mean, encodable

if TYPE_CHECKING:
    import pyarrow as pa

    from openslip.search.index import Index

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "contains", "in", "is null", "is not null"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
SECONDS = 30.0
"""The longest time for a condition. On a million records most take less than one second."""
LONGEST = 10_000
"""The most characters of a condition in SQL."""
MEMORY = "1GB"

_NUMBERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\s?\d+\)")
"""DuckDB's types of numbers."""


@dataclass(frozen=True)
class Filter:
    """A condition on one column, from programs and the page; none of it is read as SQL.

    value: a number, text, truth value or date; a list of these for `in`; nothing for `is null` and `is not null`. A
    text is read as the type of the column, "2024-05-01" as a date, for example. `contains` looks for a text in a text
    or in the texts of a list, and ignores case.

    For a record without a value (NULL), only `is null` holds.
    """

    column: str
    operator: Operator
    value: Any = None


def rows_where(index: Index, where: str = "", filters: Sequence[Filter] = ()) -> np.ndarray | None:
    """Return the rows for which a condition holds, increasing int64; None if there is no condition.

    where: a condition in SQL, `price < 50 and colour = 'red'`, as DuckDB reads it. filters: conditions that must hold,
    too. The SQL sees the records alone: it can read no other file and write none, load no extension, reach no network
    and change no setting, and it takes SECONDS at most. It must be one expression: closing a bracket that is not its
    own, or beginning another statement, is an error.

    This protects against mistakes, and against SQL from elsewhere that would read other data. SQL may still take much
    memory for a text that it builds, `repeat('x', 3000000000)`. So a server takes `filters` from its clients, and no
    SQL.

    Raises ConfigError for a condition that cannot be read, is no condition, takes too long or too much memory; for a
    column that is not there; and without DuckDB.
    """
    if not where.strip() and not filters:
        return None
    if len(where) > LONGEST:
        raise ConfigError(
            f"A condition has at most {LONGEST:,} characters",
            got=f"{where[:80]} … ({len(where):,} characters)",
        )
    if "\0" in where or where != encodable(where):
        raise ConfigError("The condition has characters that are not valid in a text", got=where)
    duckdb = _duckdb()
    try:
        needed = None if where.strip() else {one.column: None for one in filters}
        with _records(duckdb, index, needed) as (records, names, number), _in_time(records[0]):
            relation = records[1]
            conditions = [_expression(duckdb, index, relation, one, names) for one in filters]
            if where.strip():
                written = duckdb.SQLExpression(where)
                _check_condition(relation.project(written).types, where)
                conditions.append(written)
            for condition in conditions:
                relation = relation.filter(condition)
            found = relation.project(duckdb.ColumnExpression(number)).fetchnumpy()[number]
    except duckdb.InterruptException:
        raise ConfigError(
            f"The condition takes longer than {SECONDS:g} seconds",
            got=where or str(list(filters)),
            fix="Compare columns with values; leave tables and ranges out",
        ) from None
    except (duckdb.Error, OverflowError, UnicodeError, ValueError) as error:
        raise ConfigError(
            "The condition cannot be used",
            got=where or str(list(filters)),
            cause=str(error).partition("\n")[0][:300],
            fix=f"Columns: {', '.join(index.columns)}. Write texts in single quotes, as in --where \"colour = 'red'\". "
            "Write a name with spaces, or a name that is an SQL keyword, in double quotes: '\"unit price\" < 50'",
        ) from None
    return np.sort(np.asarray(found, dtype=np.int64))


@contextmanager
def _records(
    duckdb: Any, index: Index, needed: Iterable[str] | None
) -> Iterator[tuple[tuple[Any, Any], dict[str, str], str]]:
    """Open the records; yield the database with the relation, the columns' names there, and that of the row number.

    needed: the columns of the conditions, None if only their SQL tells. These columns are read from the file that the
    index has open. `slip embed` may have replaced that file since, and a server continues with the old one.

    DuckDB ignores the case of names: of `price` and `Price`, the second gets another name.
    """
    path = str((index.folder / "records.parquet").resolve())
    quoted = path.replace("'", "''")
    settings = {
        "threads": 2,
        "memory_limit": MEMORY,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(":memory:", config=settings) as database:
        database.execute(f"SET allowed_paths = ['{quoted}']")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        if needed is None:
            # A path with signs of a pattern still names one file, because no other file is allowed.
            relation, columns = database.read_parquet(path), list(index.columns)
        else:
            columns = [name for name in needed if name in index.columns]
            relation = database.from_arrow(_columns(index, columns))
        names = dict(zip(columns, relation.columns))
        number = "row"
        while number in {name.lower() for name in relation.columns}:
            number += "_"
        relation = relation.project(f"*, row_number() OVER () - 1 AS {number}")
        yield (database, relation), names, number


def _columns(index: Index, names: Sequence[str]) -> pa.Table:
    """Return columns of all records and a column of nulls, because a table without columns has no rows."""
    import pyarrow as pa

    values = [index.column(name) for name in names]
    return pa.table([*values, pa.nulls(len(index))], [*names, ""])


@contextmanager
def _in_time(database: Any) -> Iterator[None]:
    """Interrupt the database after SECONDS."""
    timer = threading.Timer(SECONDS, database.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_condition(types: Sequence[Any], where: str) -> None:
    if [str(one) for one in types] != ["BOOLEAN"]:
        raise ConfigError(
            "The condition is neither true nor false",
            got=where,
            cause=f"It is a value ({', '.join(map(str, types))})",
            fix="Compare it with another value, as in `price < 50`",
        )


def _expression(duckdb: Any, index: Index, relation: Any, one: Filter, names: dict[str, str]) -> Any:
    """Return a filter as an expression of DuckDB."""
    if one.column not in index.columns:
        raise ConfigError(
            "The records have no such column", got=one.column, fix=did_you_mean(one.column, index.columns)
        )
    if one.operator not in OPERATORS:
        raise ConfigError(
            "There is no such comparison", got=one.operator, fix=f"Known: {', '.join(OPERATORS)}"
        )
    column = duckdb.SQLExpression('"' + names[one.column].replace('"', '""') + '"')
    kind = str(relation.types[relation.columns.index(names[one.column])])
    if one.operator == "is null":
        return column.isnull()
    if one.operator == "is not null":
        return column.isnotnull()
    if one.operator == "in":
        if not isinstance(one.value, list | tuple):
            raise _wrong_value(one, kind)
        values = [_constant(duckdb, one, value, kind) for value in one.value]
        return column.isin(*values) if values else duckdb.SQLExpression("false")
    if one.operator == "contains":
        if not isinstance(one.value, str) or one.value != encodable(one.value):
            raise _wrong_value(one, kind)
        text = duckdb.FunctionExpression("lower", column.cast("VARCHAR"))
        return duckdb.FunctionExpression("contains", text, duckdb.ConstantExpression(one.value.lower()))
    value = _constant(duckdb, one, one.value, kind)
    match one.operator:
        case "=":
            return column == value
        case "!=":
            return column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case _:
            return column >= value


def _constant(duckdb: Any, one: Filter, value: Any, kind: str) -> Any:
    """Return a value to compare a column of some type with. Raises ConfigError for one that cannot be compared."""
    if value is None or not isinstance(value, str | int | float | datetime.date):
        raise _wrong_value(one, kind)
    if isinstance(value, str) and value != encodable(value):
        raise _wrong_value(one, kind)
    if _NUMBERS.fullmatch(kind):
        if isinstance(value, str):
            try:
                value = float(value) if not value.strip().lstrip("+-").isdecimal() else int(value)
            except ValueError:
                raise _wrong_value(one, kind) from None
        if isinstance(value, datetime.date):
            raise _wrong_value(one, kind)
        return duckdb.ConstantExpression(value)
    if kind == "VARCHAR":
        return duckdb.ConstantExpression(str(value))
    return duckdb.ConstantExpression(value).cast(kind)


def _wrong_value(one: Filter, kind: str) -> ConfigError:
    fix = {
        "in": f"Give a list of values of the column's type, {kind}",
        "contains": "Give a text",
    }.get(one.operator, f"Give a value of the column's type, {kind}; for records without one use 'is null'")
    return ConfigError(
        f"The column {one.column} cannot be compared in this way",
        got=f"{one.operator} {one.value!r:.100}",
        fix=fix,
    )


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("Conditions on columns need DuckDB", fix="pip install 'openslip[search]'") from None
    return duckdb
