"""Tables of labels hold what was said, whatever pictures and classes are called."""

from __future__ import annotations

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from openslip.classifying import tables
from openslip.classifying.labels import Label
from openslip.errors import ConfigError, DataError

ODD = 'caf\udce9, "x"\n.jpg'
LABELS = [
    Label("a.jpg", "dress", (("dress", 0.75), ("shirt", 0.25)), index=0),
    Label(ODD, "none", (("=SUM(A1)", 0.1234567891), ("shirt", 0.1)), index=1),
    Label("-key", "", error="The image file is empty.", index=2),
]
COLUMNS = tables.columns(2)


def write(path, labels=LABELS):
    with tables.writing(path, COLUMNS) as add:
        for label in labels:
            add([tables.row(label, 2)])
    return path


def test_columns() -> None:
    assert COLUMNS == ("picture", "class", "top_1", "probability_1", "top_2", "probability_2", "error")
    assert tables.columns(1, sorted_into=True) == (
        "picture",
        "class",
        "top_1",
        "probability_1",
        "sorted_as",
        "error",
    )


def test_csv(tmp_path) -> None:
    text = write(tmp_path / "labels.csv").read_bytes().decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 3
    assert rows[0] == dict(zip(COLUMNS, ("a.jpg", "dress", "dress", "0.75", "shirt", "0.25", "")))
    assert rows[1]["picture"] == 'caf\\xe9, "x"\n.jpg'
    assert rows[1]["top_1"] == "'=SUM(A1)"
    assert rows[1]["probability_1"] == "0.123457"
    assert rows[2]["picture"] == "'-key"
    assert rows[2]["error"] == "The image file is empty."
    assert "\r" not in text


@pytest.mark.parametrize("beginning", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(beginning) -> None:
    label = Label(f"{beginning}1", f"{beginning}2", ((f"{beginning}2", 0.5),), f"{beginning}3")
    (cells,) = csv.reader(io.StringIO(tables.csv_text([tables.row(label, 1)], tables.columns(1)), newline=""))
    assert [cell[0] for cell in cells] == ["'", "'", "'", "0", "'"]


def test_json_lines_keep_every_byte(tmp_path) -> None:
    rows = [json.loads(line) for line in write(tmp_path / "labels.jsonl").read_bytes().split(b"\n") if line]
    assert [row["picture"] for row in rows] == ["a.jpg", ODD, "-key"]
    assert rows[1]["top_1"] == "=SUM(A1)"
    assert rows[2] == dict.fromkeys(COLUMNS) | {
        "picture": "-key",
        "error": "The image file is empty.",
    }


def test_parquet(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 2)
    table = pq.read_table(write(tmp_path / "labels.parquet"))
    assert tuple(table.column_names) == COLUMNS
    assert table["picture"].to_pylist() == ["a.jpg", 'caf\\xe9, "x"\n.jpg', "-key"]
    assert table["class"].to_pylist() == ["dress", "none", None]
    assert table["probability_2"].to_pylist()[0] == 0.25


@pytest.mark.parametrize("ending", tables.ENDINGS)
def test_a_table_of_labels_may_be_replaced_and_nothing_else(tmp_path, ending) -> None:
    out = tmp_path / f"labels{ending}"
    assert tables.check_out(out) == out
    before = write(out).read_bytes()
    assert tables.check_out(out) == out
    with pytest.raises(AttributeError):  # in the middle
        write(out, [LABELS[0], None])
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
    out.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="something else"):
        tables.check_out(out)


def test_halves_of_characters() -> None:
    assert tables.spelled("\ud800é\udce9") == "\\ud800é\\udce9"
    assert tables.spelled("é\udce9") == "é\\xe9"


def test_an_empty_table_is_one(tmp_path) -> None:
    for ending in tables.ENDINGS:
        tables.check_out(write(tmp_path / f"none{ending}", []))


def test_places_where_nothing_can_be_written(tmp_path) -> None:
    for out, told in (
        (tmp_path / "labels.xlsx", "CSV, JSON lines or Parquet"),
        (tmp_path / "labels", "CSV, JSON lines or Parquet"),
        (tmp_path / "gone" / "labels.csv", "folder that is not there"),
        (tmp_path / "folder.csv", "There is a folder at"),
    ):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=told):
            tables.check_out(out)


def test_a_disk_that_takes_nothing(tmp_path) -> None:
    with (
        pytest.raises(DataError, match="cannot be written"),
        tables.writing(tmp_path / "x" / "l.csv", COLUMNS),
    ):
        pass


def test_lines_for_people() -> None:
    lines, width = tables.lines(LABELS)
    assert lines[0].split("  ", 1)[1].strip() == "dress 75.0%  shirt 25.0%"
    assert "none: =SUM(A1) 12.3%" in lines[1]
    assert "\n" not in lines[1]
    assert lines[2].endswith("cannot be used: The image file is empty.")
    assert tables.lines(LABELS[:1], width)[1] == width
