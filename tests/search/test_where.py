from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.errors import ConfigError
from openslip.search import where
from openslip.search.index import Index
from openslip.search.where import Filter, rows_where
from searched import some_vectors, write_index

duckdb = pytest.importorskip("duckdb")

DAY = datetime.date(2024, 5, 1)
COLUMNS = {
    "price": [10.0, 20.0, 30.0, None, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0],
    "Price": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    "colour": ["red", "Red", "blue", None, "it's", 'a "b"', "%", "", "5", "grün"],
    "sold": [DAY + datetime.timedelta(row) for row in range(10)],
    "moment": [datetime.datetime(2024, 5, 1, row) for row in range(10)],
    "new": [True, False] * 5,
    "tags": [["a", "b"], ["b"], [], None, ["A c"], ["x"], ["x"], ["x"], ["x"], ["x"]],
    "shop": [{"town": "Ulm" if row < 3 else "Köln", "size": row} for row in range(10)],
    'od"d ñame': list(range(10)),
    "order": list(range(10)),
    "file_row_number": [0] * 10,
    "row": [7] * 10,
    "many": pa.array(range(10), pa.uint8()),
    "cents": pa.array([row * 100 for row in range(10)], pa.decimal128(9, 2)),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Ten records, in two row groups, in a folder whose name has signs of SQL and of patterns."""
    folder = tmp_path_factory.mktemp("where") / "it's [a] *?"
    return write_index(folder, some_vectors(10), COLUMNS, **{"class": ["cat", "dog"] * 5})


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("price < 50", [0, 1, 2]),
        ("price < 50 and colour = 'red'", [0]),
        ("price IS NULL", [3]),
        ("not (price < 50)", [4, 5, 6, 7, 8, 9]),
        ("Price_1 < 3", [7, 8, 9]),
        ("colour = 'it''s'", [4]),
        ("colour ILIKE 'r%'", [0, 1]),
        ("sold >= DATE '2024-05-09'", [8, 9]),
        ("sold < '2024-05-02'", [0]),
        ("hour(moment) = 4", [4]),
        ("new", [0, 2, 4, 6, 8]),
        ("list_contains(tags, 'b')", [0, 1]),
        ("list_contains(captions, 'picture 8')", [8]),
        ("len(tags) = 0", [2]),
        ("shop.town = 'Ulm' and shop.size > 0", [1, 2]),
        ('"od""d ñame" = 3', [3]),
        ('"order" > 8', [9]),
        ("class = 'dog' and many > 6", [7, 9]),
        ("cents = 300", [3]),
        ("price < 20 -- cheap", [0]),
        ("price < 20 /* cheap */ or true", list(range(10))),
        ("false", []),
        ("price > (select 80 + 5)", [8, 9]),
        ("  \n price <\n 20 ", [0]),
    ],
)
def test_conditions_in_sql(index: Index, condition: str, rows: list[int]) -> None:
    found = rows_where(index, condition)
    assert found is not None
    assert found.dtype == np.int64
    assert found.tolist() == rows


def rows_of(index: Index, condition: str = "", filters: Sequence[Filter] = ()) -> list[int]:
    found = rows_where(index, condition, filters)
    assert found is not None
    return found.tolist()


def test_no_condition_is_none(index: Index) -> None:
    assert rows_where(index) is None
    assert rows_where(index, "  ") is None


@pytest.mark.parametrize(
    "condition",
    [
        "price < 50) OR (1=1",
        "1=1) -- ",
        "price < 50; SELECT 1",
        "price < 50; COPY (SELECT 1) TO '{folder}/x.csv'",
        "COPY (SELECT 1) TO '{folder}/x.csv'",
        "price IN (SELECT 1 FROM read_csv('{folder}/secret.csv'))",
        "colour IN (SELECT content FROM read_text('{folder}/secret.csv'))",
        "colour IN (SELECT * FROM '{folder}/secret.csv')",
        "colour IN (SELECT file FROM glob('{folder}/*'))",
        "colour IN (SELECT key FROM read_parquet('{folder}/*.parquet'))",
        "colour IN (SELECT * FROM read_csv('https://127.0.0.1:1/a.csv'))",
        "colour IN (SELECT * FROM local)",
        "SET threads = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH '{folder}/x.db'",
        "PRAGMA version",
        "price < 50 UNION SELECT 1",
        "price",
        "colour",
        "price < 50, price < 60",
        "*",
        "count(*) > 3",
        "prise < 50",
        "price <",
        "price < 'red'",
        "price < ?",
        "price < $1",
        "order < 5",
        "(" * 2_000 + "true" + ")" * 2_000 + " and nothing",
        "NOT " * 2_000 + "true",
        "+".join(["1"] * 4_000) + " > price",
        "colour = '" + "x" * 1_000_000 + "'",
        "colour = '\0'",
        "colour = '\udce9'",
        "len(range(10000000000)) > price",
        "no_such_function(price)",
    ],
)
def test_a_condition_reaches_nothing_but_the_records(index: Index, tmp_path: Path, condition: str) -> None:
    local = pa.table({"a": [1]})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match="condition") as raised:
        rows_where(index, condition.replace("{folder}", str(tmp_path)))
    assert len(str(raised.value)) < 2_000
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert len(local) == 1


def test_filters_hold_whatever_the_condition_says(index: Index) -> None:
    only = [Filter("price", "<", 25)]
    assert rows_of(index, "true or true", only) == [0, 1]
    with pytest.raises(ConfigError, match="condition"):
        rows_where(index, "price > 25) or (1=1", only)


@pytest.mark.parametrize(
    "condition",
    [
        "(select count(*) from range(10000000) a, range(10000000) b) > price",
        "(with recursive r(x) as (select 1 union all select x + 1 from r) select max(x) from r) > price",
    ],
)
def test_a_condition_that_does_not_end_is_interrupted(index: Index, condition: str, monkeypatch) -> None:
    monkeypatch.setattr(where, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"longer than 0\.2 seconds"):
        rows_where(index, condition)
    assert rows_of(index, "price < 20") == [0]


@pytest.mark.parametrize(
    ("column", "operator", "value", "rows"),
    [
        ("price", "<", 50, [0, 1, 2]),
        ("price", "<", "50", [0, 1, 2]),
        ("price", "<", " 10.5 ", [0]),
        ("price", "=", "1e1", [0]),
        ("Price", "<", 2.5, [7, 8, 9]),
        ("Price", "<=", "2.5", [7, 8, 9]),
        ("price", "!=", 10, [1, 2, 4, 5, 6, 7, 8, 9]),
        ("price", "in", [10, "20", 11], [0, 1]),
        ("price", "in", [], []),
        ("price", "is null", None, [3]),
        ("price", "is not null", None, [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ("many", ">=", 300, []),
        ("many", "<", -1, []),
        ("many", "<", 10**30, list(range(10))),
        ("cents", "=", 300, [3]),
        ("colour", "=", "it's", [4]),
        ("colour", "=", 'a "b"', [5]),
        ("colour", "=", 5, [8]),
        ("colour", "=", "", [7]),
        ("colour", "contains", "RED", [0, 1]),
        ("colour", "contains", "%", [6]),
        ("colour", "contains", "Ü", [9]),
        ("colour", "=", "' OR true --", []),
        ("colour", "in", ["red", "blue", "' OR true --"], [0, 2]),
        ("sold", ">=", "2024-05-09", [8, 9]),
        ("sold", "=", DAY, [0]),
        ("moment", "<", "2024-05-01 02:00", [0, 1]),
        ("new", "=", True, [0, 2, 4, 6, 8]),
        ("new", "=", "false", [1, 3, 5, 7, 9]),
        ("tags", "contains", "a", [0, 4]),
        ("tags", "is null", None, [3]),
        ('od"d ñame', ">", 8, [9]),
        ("order", "=", 1, [1]),
        ("row", "=", 7, list(range(10))),
        ("file_row_number", "=", 0, list(range(10))),
        ("class", "=", "cat", [0, 2, 4, 6, 8]),
        ("key", "in", ["k3", "k1"], [1, 3]),
    ],
)
def test_filters(index: Index, column: str, operator, value, rows: list[int]) -> None:
    assert rows_of(index, filters=[Filter(column, operator, value)]) == rows


@pytest.mark.parametrize(
    ("column", "operator", "value", "error"),
    [
        ("prise", "=", 1, "no such column"),
        ("PRICE", "=", 1, "no such column"),
        ("price", "~", 1, "no such comparison"),
        ("price", "= 1 or", 1, "no such comparison"),
        ("price", "=", None, "cannot be compared"),
        ("price", "=", "red", "cannot be compared"),
        ("price", "=", [1], "cannot be compared"),
        ("price", "in", 5, "cannot be compared"),
        ("price", "in", [None], "cannot be compared"),
        ("price", "=", DAY, "cannot be compared"),
        ("colour", "contains", 5, "cannot be compared"),
        ("sold", "<", "yesterday", "cannot be used"),
        ("colour", "=", "\udce9", "cannot be compared"),
        ("colour", "contains", "\udce9", "cannot be compared"),
        ("shop", "=", "Ulm", "cannot be used"),
        ("shop", "=", 5, "cannot be used"),
    ],
)
def test_filters_that_cannot_hold_are_errors_in_words(index: Index, column, operator, value, error) -> None:
    with pytest.raises(ConfigError, match=error):
        rows_where(index, filters=[Filter(column, operator, value)])


@settings(max_examples=20)
@given(st.text(max_size=20))
def test_any_text_of_a_filter_is_a_value(index: Index, text: str) -> None:
    expected = [row for row, colour in enumerate(COLUMNS["colour"]) if colour == text]
    assert rows_of(index, filters=[Filter("colour", "=", text)]) == expected


def test_without_duckdb_the_extra_is_named(index: Index, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"openslip\[search\]"):
        rows_where(index, "price < 50")
