"""Which records of an index a condition on their columns holds for, by DuckDB."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from openslip.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from openslip.search.index import Index

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "contains", "in", "is null", "is not null"]
OPERATORS: tuple[Operator, ...] = (
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "contains",
    "in",
    "is null",
    "is not null",
)


@dataclass(frozen=True)
class Filter:
    """A condition on one column, as programs and the page give it; none of it is read as SQL.

    value: a number, text, truth value; of `in` a list of these, of `is null` and `is not null` nothing. `contains`
    looks for a text in a text, whatever the case.
    """

    column: str
    operator: Operator
    value: Any = None


def rows_where(index: Index, where: str = "", filters: Sequence[Filter] = ()) -> np.ndarray | None:
    """Return the rows that a condition holds for, increasing int64; None where there is no condition.

    where: a condition in SQL, `price < 50 and colour = 'red'`, as DuckDB reads it. filters: conditions that must hold,
    too. What the condition says is computed on the records alone: it can read no file and write none.

    Raises ConfigError for a condition that cannot be read, a column that is not there, and without DuckDB.
    """
    if not where.strip() and not filters:
        return None
    duckdb = _duckdb()
    parts, values = ([f"({where}\n)"] if where.strip() else []), list[Any]()
    for one in filters:
        text, value = _sql(index, one)
        parts.append(text)
        values += value
    path = str((index.folder / "records.parquet").resolve())
    with duckdb.connect(":memory:", config={"threads": 2}) as database:
        if where.strip():
            quoted = path.replace("'", "''")
            database.execute(f"SET allowed_paths = ['{quoted}']")
            number, records = "file_row_number", f"read_parquet('{quoted}', file_row_number = true)"
        else:
            # By the file that the index has open, which `slip embed` may have replaced in the meantime.
            number, records = _beside(index.columns), "records"
            database.register(records, _columns(index, {one.column for one in filters}, number))
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        query = f"SELECT {number} FROM {records} WHERE {' AND '.join(parts)}"
        try:
            found = database.execute(query + " ORDER BY 1", values).fetchnumpy()[number]
        except duckdb.Error as error:
            raise ConfigError(
                "The condition cannot be read",
                got=where or str(filters),
                cause=str(error).partition("\n")[0],
                fix=f"Columns: {', '.join(index.columns)}. Write texts in single quotes: --where \"colour = 'red'\"",
            ) from None
    return np.asarray(found, dtype=np.int64)


def _beside(columns: Collection[str]) -> str:
    """Return the name of a column that is not among these."""
    return "row" + "_" * max((len(name) for name in columns), default=0)


def _columns(index: Index, names: Collection[str], number: str) -> pa.Table:
    """Return these columns of all records, with their rows in a column called `number`."""
    import pyarrow as pa

    return pa.table({name: index.column(name) for name in names} | {number: pa.array(np.arange(len(index)))})


def _sql(index: Index, one: Filter) -> tuple[str, list[Any]]:
    if one.column not in index.columns:
        raise ConfigError(
            "The records have no such column", got=one.column, fix=did_you_mean(one.column, index.columns)
        )
    if one.operator not in OPERATORS:
        raise ConfigError(
            "There is no such comparison", got=one.operator, fix=f"Known: {', '.join(OPERATORS)}"
        )
    name = '"' + one.column.replace('"', '""') + '"'
    if one.operator in ("is null", "is not null"):
        return f"{name} {one.operator}", []
    if one.operator == "contains":
        return f"contains(lower(CAST({name} AS VARCHAR)), lower(?))", [str(one.value)]
    if one.operator == "in":
        return f"{name} IN ({', '.join('?' * len(one.value))})", list(one.value)
    return f"{name} {one.operator} ?", [one.value]


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("Conditions on columns need DuckDB", fix="pip install 'openslip[search]'") from None
    return duckdb
