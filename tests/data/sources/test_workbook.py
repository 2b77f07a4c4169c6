"""Excel's workbooks."""

from __future__ import annotations

import zipfile

import pytest

from openslip.data.sources import open_source
from openslip.errors import DataError

openpyxl = pytest.importorskip("openpyxl")


@pytest.fixture
def workbook(tmp_path, jpeg):
    """Write sheets of rows beside the images a.jpg and b.jpg, and open them."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg)

    def open_workbook(*sheets, **options):
        book = openpyxl.Workbook()
        book.remove(book.active)
        for rows in sheets:
            sheet = book.create_sheet()
            for row in rows:
                sheet.append(row)
        book.save(tmp_path / "t.xlsx")
        return open_source(str(tmp_path / "t.xlsx"), **options)

    return open_workbook


def test_a_sheet(workbook):
    products = [
        [],
        ["Foto", "Beschreibung", "Preis", None],
        ["a.jpg", "ein Hund, groß", 12.5],
        ["b.jpg", None, 3],
        [None, None],
        ["a.jpg", 5.0],
    ]
    source = workbook([["hello"]], products)
    assert [(record.key, record.captions) for record in source] == [
        ("a.jpg", ("ein Hund, groß", "5")),
        ("b.jpg", ()),
    ]
    assert (
        "image from 'Foto', caption from 'Beschreibung' (guessed). Of 2 sheets 'Sheet1' is read"
        in source.note
    )
    assert source.contents.summary().endswith("1 × the row is empty, for example row 3")
    assert workbook(products, caption_column="Preis")[0].captions == ("12.5",)


def test_errors(workbook, tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        workbook([])
    with pytest.raises(DataError, match="looks like the caption.*first row of the sheet"):
        workbook([["Foto", "Preis"], ["a.jpg", 1]])
    (tmp_path / "t.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(DataError, match="cannot be read.*damaged, protected.*CSV UTF-8"):
        open_source(str(tmp_path / "t.xlsx"))
    (tmp_path / "t.ods").touch()
    with pytest.raises(DataError, match="Spreadsheets of this kind.*CSV UTF-8"):
        open_source(str(tmp_path / "t.ods"))


@pytest.mark.parametrize(
    ("member", "before", "put", "message"),
    [
        ("xl/styles.xml", b"</cellXfs>", b"<xf/>" * 1_000_000, "takes too much to be read.*5 MB"),
        ("xl/worksheets/sheet1.xml", b"</sheetData>", b"<row>" + b"<c/>" * 5_000_000, "takes too much"),
        ("xl/worksheets/sheet1.xml", b"</sheetData>", b'<row r="999999999999"/>', "more rows than a sheet"),
    ],
)
def test_what_unpacks_to_far_more_than_it_takes_is_refused(
    workbook, tmp_path, monkeypatch, member, before, put, message
):
    workbook([["Foto", "Text"], ["a.jpg", "a dog"]])
    monkeypatch.setattr("openslip.data.sources.workbook._MOST_ROWS", 100)
    with zipfile.ZipFile(tmp_path / "t.xlsx") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    members[member] = members[member].replace(before, put + before)
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in members.items():
            bomb.writestr(name, data)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "bomb.xlsx"))
