"""Which records of an index a condition on their columns holds for, by DuckDB."""

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
"""How long a condition may take. Of a million records most take less than one second."""
LONGEST = 10_000
"""Characters of a condition in SQL."""
MEMORY = "1GB"

_NUMBERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\s?\d+\)")
"""DuckDB's types of numbers."""


@dataclass(frozen=True)
class Filter:
    """A condition on one column, as programs and the page give it; none of it is read as SQL.

    value: a number, text, truth value, date; of `in` a list of these, of `is null` and `is not null` nothing. A text is
    read as what the column holds, "2024-05-01" as a date, say. `contains` looks for a text in a text, whatever the
    case, and in the texts of a list.

    Of a record without a value (NULL) no condition holds but `is null`.
    """

    column: str
    operator: Operator
    value: Any = None


def rows_where(index: Index, where: str = "", filters: Sequence[Filter] = ()) -> np.ndarray | None:
    """Return the rows that a condition holds for, increasing int64; None where there is no condition.

    where: a condition in SQL, `price < 50 and colour = 'red'`, as DuckDB reads it. filters: conditions that must hold,
    too. What the condition says is computed on the records alone: it can read no other file and write none, load no
    extension, reach no network and change no setting, and it takes SECONDS at most. It is one expression: what would
    close a bracket that is not its own, or begin another statement, is an error.

    That is enough against mistakes and against what a condition from elsewhere could read. A text that a condition
    builds may take memory, `repeat('x', 3000000000)`. So a server takes `filters` of its clients, and no SQL.

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
        raise ConfigError("The condition has characters that no text has", got=where)
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
            fix=f"Columns: {', '.join(index.columns)}. Write texts in single quotes, --where \"colour = 'red'\", and "
            "a name with spaces, or one that is a word of SQL, in double quotes: '\"unit price\" < 50'",
        ) from None
    return np.sort(np.asarray(found, dtype=np.int64))


@contextmanager
def _records(
    duckdb: Any, index: Index, needed: Iterable[str] | None
) -> Iterator[tuple[tuple[Any, Any], dict[str, str], str]]:
    """Open the records; give the database with the relation, the columns' names there, and that of the row's number.

    needed: the columns that conditions are about; None where only their SQL says so. What is needed is read from the
    file that the index has open, which `slip embed` may have replaced since: a server goes on with what it has.

    DuckDB's names have no case: of `price` and `Price` the second is called otherwise.
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
            # A name with signs of a pattern is one file's nevertheless, for no other is allowed.
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
    """Return columns of all records, and one beside them, for a table of no columns has no rows."""
    import pyarrow as pa

    values = [index.column(name) for name in names]
    return pa.table([*values, pa.nulls(len(index))], [*names, ""])


@contextmanager
def _in_time(database: Any) -> Iterator[None]:
    """Interrupt what the database does after SECONDS."""
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
            "The condition says neither yes nor no",
            got=where,
            cause=f"It is a value ({', '.join(map(str, types))})",
            fix="Compare it with something: `price < 50`",
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
        "in": "Give a list of values",
        "contains": "Give a text",
    }.get(one.operator, f"Give a value as the column has them, {kind}; for records without one use 'is null'")
    return ConfigError(
        f"The column {one.column} cannot be compared so", got=f"{one.operator} {one.value!r:.100}", fix=fix
    )


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("Conditions on columns need DuckDB", fix="pip install 'openslip[search]'") from None
    return duckdb
