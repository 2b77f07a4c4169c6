"""Read Excel workbooks (.xlsx) with openpyxl, an extra."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from openslip.data.limits import TABLE_BYTES, Budget
from openslip.data.sources.columns import guess_captions, guess_images
from openslip.data.sources.sheet import Sheet
from openslip.errors import DataError
from openslip.files import open_regular

AS_CSV = "Save it as CSV (Excel: 'CSV UTF-8')"
"""Advice that helps with every spreadsheet."""
_SHEET = re.compile(
    r"/worksheets/|/sharedstrings|/(charts\w*|drawings|tables|pivot\w*|externallinks|embeddings)/|/calcchain|/vba"
)
"""Members of the archive that grow with the cells, or are not opened."""
_MOST_COLUMNS = 1000
_MOST_ROWS = 1 << 20
"""The most columns and rows that are read. Rows are counted by number, because missing rows are filled in."""
_UNPACKED, _GROWTH = 16 << 20, 50
"""A workbook may unpack to _UNPACKED bytes, and _GROWTH more for each byte of the file. A row, and everything that is
no sheet, is held in memory whole, where it may take a hundred times as much."""
_DESCRIPTION = 4 << 20
"""The most unpacked bytes of everything except sheets, texts and pictures: styles, names, relations."""


def read_workbook(path: Path, wanted: Sequence[str] = (), *, typed: bool = False) -> Sheet:
    """Return the first sheet of a workbook whose first row has well-known names, or those `wanted`, else the first.

    Cells are texts, as a CSV file would have them; with `typed` they keep their types, and empty cells are None. For
    formulas the values that Excel stored with them are read.
    Pictures in the sheet are not read. Cells in columns without a name are ignored.
    Raises DataError, now or as rows are taken, when the file is no workbook, when it unpacks to too much, or when
    openpyxl is not installed.
    """
    try:
        library: Any = importlib.import_module("openpyxl")
    except ImportError:
        fix = f"Install openpyxl: pip install 'openslip[xlsx]'. Or do without: {AS_CSV}"
        raise DataError(
            "Workbooks are read with openpyxl, which is not installed", got=str(path), fix=fix
        ) from None
    with _readable(path), ExitStack() as files:
        file = files.enter_context(open_regular(path))
        pictures = _check_size(file, path)
        book = library.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        files.callback(book.close)
        sheets = [(sheet.title, *_named(sheet)) for sheet in book.worksheets]
        close = files.pop_all()
    sheets = [(title, names, rows) for title, names, rows in sheets if names]
    if not sheets:
        close.close()
        return Sheet([], iter(()))
    title, names, rows = max(sheets, key=lambda sheet: _known(sheet[1], wanted))
    remarks = [f"Of {len(sheets)} sheets '{title}' is read"] if len(sheets) > 1 else []
    if pictures:
        remarks.append(
            f"{pictures:,} pictures inside the workbook are not read, only picture files that it names"
        )
    return Sheet(
        names,
        _cells(path, rows, len(names), close, typed),
        remarks,
        "The first row of the sheet must name its columns",
        _text,
    )


def _check_size(file: IO[bytes], path: Path) -> int:
    """Return how many pictures are in a workbook. Raises DataError when it unpacks to too much."""
    sizes = {"picture": [], "sheet": [], "description": []}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.lower()
            kind = "picture" if "/media/" in name else "sheet" if _SHEET.search(name) else "description"
            sizes[kind].append(member.file_size)
    most = min(TABLE_BYTES, _UNPACKED + _GROWTH * os.fstat(file.fileno()).st_size)
    Budget("The workbook", str(path), memory=most).draw(memory=sum(sizes["sheet"]))
    Budget("The workbook", str(path), memory=_DESCRIPTION).draw(memory=sum(sizes["description"]))
    return len(sizes["picture"])


def _named(sheet: Any) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Return the names in a sheet's first row that is not empty, and the rows that follow."""
    if not hasattr(sheet, "iter_rows"):  # a chart
        return [], iter(())
    sheet.reset_dimensions()  # the size that the sheet states may be wrong
    rows = sheet.iter_rows(values_only=True, max_col=_MOST_COLUMNS)
    first = next((row for row in islice(rows, 100) if any(cell is not None for cell in row)), ())
    names = [_text(cell).strip() for cell in first]
    while names and not names[-1]:
        names.pop()
    return names, rows


def _known(names: Sequence[str], wanted: Sequence[str]) -> int:
    asked = sum(bool(name) and name in names for name in wanted)
    return max(asked, bool(guess_images(names)) + bool(guess_captions(names)))


def _cells(
    path: Path, rows: Iterator[Sequence[Any]], width: int, files: ExitStack, typed: bool
) -> Iterator[list[Any]]:
    with files, _readable(path):
        for number, row in enumerate(rows):
            if number == _MOST_ROWS:
                raise DataError(
                    "The sheet has more rows than a sheet can have",
                    got=str(path),
                    cause="The workbook is damaged, or may be an attack",
                    fix=AS_CSV,
                )
            cells = list(row[:width]) if typed else [_text(cell) for cell in row[:width]]
            yield cells + [None if typed else ""] * (width - len(cells))


def _text(cell: Any) -> str:
    """Return a cell as a CSV file would have it."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise DataError in place of what openpyxl raises on files that are damaged, or no workbooks."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("The table cannot be read", got=str(path), cause=str(error)) from None
    except Exception as error:
        raise DataError(
            "The workbook cannot be read",
            got=str(path),
            cause=f"It is damaged, protected with a password, or of an older format: {error}",
            fix=AS_CSV,
        ) from None
