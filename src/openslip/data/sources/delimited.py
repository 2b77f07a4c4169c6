"""Read CSV, TSV and similar tables, as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from openslip.data.limits import COLUMNS
from openslip.data.sources.cells import names_file
from openslip.data.sources.columns import guess_captions, guess_images
from openslip.data.sources.lines import read_lines
from openslip.data.sources.sheet import Sheet, check_columns
from openslip.errors import DataError

SEPARATORS = ",;\t|"
"""Separators of fields; of equally good ones the first is taken."""
_LITERAL = "\t|"
"""With these separators double quotes are plain text, except around a whole field."""
_LOOK = 200
"""Lines that the separator is chosen by."""
_TITLES = 10
"""The most lines above the names of the columns."""
_MOST_LINES = 1000
"""The most lines of a quoted field."""
_SEP = re.compile(r'"?sep=([^\w\s"]|\t)"?[\s,;|]*', re.IGNORECASE)
_QUOTED_NAMES = re.compile(r'"[^"]*"( "[^"]*")+\s*')


def read_delimited(path: Path, wanted: Sequence[str] = ()) -> Sheet:
    r"""Return the rows of a table whose first line names its columns; short rows are filled up with "".

    - The separator is a comma, semicolon, tab or pipe. The one is taken with which most lines have as many fields as
      the first, and the first holds well-known names or those `wanted`. A first line `sep=;`, as Excel has it, decides.
    - Between commas and semicolons, quotes are as in RFC 4180, with or without blanks before them. Between tabs and
      pipes quotes are part of the text, except around a whole field.
    - A title above the line of names is skipped.
    - If all rows have one field more than there are names, as R writes them, the first field is the row's name.
    - Only the first column may have no name. Text in another column without a name, a row with more cells than names,
      and a quoted cell that holds lines of the table are errors: a caption would be cut, or rows would vanish.
    Raises DataError, now or as rows are taken.
    """
    lines = read_lines(path)
    first = list(islice(lines, _LOOK))
    said = _SEP.fullmatch(first[0].strip("\ufeff")) if first else None
    skipped = 1 if said else 0
    while skipped < len(first) and not first[skipped].strip(f' "\r\n{SEPARATORS}'):
        skipped += 1
    if skipped == len(first):
        return Sheet([], iter(()))
    check_columns(path, 1 + max(map(first[skipped].count, SEPARATORS)))
    above = 0 if said else _above(path, first[skipped:], wanted)
    skipped += above
    sample = first[skipped:]
    separator = said[1] if said else _separator(path, sample, wanted)
    reader = _Reader(path, chain(sample, lines), separator, skipped)
    reader.columns, remarks = _columns(_parsed(path, sample, separator), wanted)
    if above:
        remarks.append(f"Lines skipped above the names of the columns: {above}")
    cause = "The first line of the table must name its columns"
    if len(reader.columns) == 1 and not said:
        cause += ", with a comma, semicolon, tab or pipe between them; it has none of these"
    return Sheet(reader.columns, reader.rows(remarks), remarks, cause)


def _above(path: Path, lines: Sequence[str], wanted: Sequence[str]) -> int:
    """Return how many lines, such as a title, come before the one that names image and captions; 0 if none does."""

    for separator in SEPARATORS:
        rows = [
            [field for field in (_parsed(path, [line], separator) or [[]])[0][:COLUMNS] if field]
            for line in lines[:_TITLES]
        ]
        if _known(rows[0], wanted):
            return 0
        for above, row in enumerate(rows):
            if _known(row, wanted) == 2 and len(row) > len(rows[0]) and not any(map(names_file, row)):
                return above
    return 0


def _separator(path: Path, sample: Sequence[str], wanted: Sequence[str]) -> str:
    """Return the separator that fits the first lines best."""
    if path.suffix.lower() == ".tsv" and "\t" in sample[0]:
        return "\t"
    if _QUOTED_NAMES.fullmatch(sample[0]):  # R's write.table by default
        return " "

    def quality(separator: str) -> tuple[bool, bool, int, float]:
        header, *rows = _parsed(path, sample, separator) or [[]]
        rows = [row for row in rows if any(row)]
        widths = [sum(len(row) == len(header) + more for row in rows) for more in (0, 1)]
        share = max(widths) / len(rows) if rows else 1.0
        return len(header) > 1, share > 0.9, _known(header, wanted), share

    return max(SEPARATORS, key=quality)


def _known(names: Sequence[str], wanted: Sequence[str]) -> int:
    """Return for how many of the two, image and captions, there is a name."""
    names = [name.strip() for name in names]
    asked = sum(name in names for name in wanted)
    return max(asked, bool(guess_images(names)) + bool(guess_captions(names)))


def _parsed(path: Path, sample: Sequence[str], separator: str) -> list[list[str]]:
    """Return the rows of the first lines, up to one that cannot be read."""
    rows = []
    try:
        for row in _Reader(path, iter(sample), separator, 0).raw():
            rows.append(row)
    except DataError:
        pass
    return rows


def _columns(sample: list[list[str]], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and remarks."""
    if not sample:
        return [], []
    names = [name.strip(" \t\r\n\ufeff") for name in sample[0]]
    rows = [row for row in sample[1:] if any(row)]
    if rows and all(len(row) == len(names) + 1 and row[-1].strip() for row in rows):
        numbered = [row[0].strip() for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
        images = [names.index(name) for name in (*wanted, *guess_images(names)) if name in names]
        shifted = any(
            names_file(row[column + 1]) and not names_file(row[column])
            for row in rows
            for column in images[:1]
        )
        if numbered or shifted:
            remark = "The first line has one name fewer than the rows have fields: the first field is the row's name"
            return ["", *names], [remark]
    return names, []


class _Reader:
    """Reads the rows of one file. `columns`: the columns' names; `line`: the number of the line where a row begins."""

    def __init__(self, path: Path, lines: Iterator[str], separator: str, skipped: int) -> None:
        self.path, self.separator = path, separator
        self.columns: list[str] = []
        self.line = self.next_line = skipped + 1
        self.short = self.first_short = 0
        self._lines, self._ahead = lines, deque[str]()

    def rows(self, remarks: list[str]) -> Iterator[list[str]]:
        """Yield the rows after the first, one cell per column; at the end add to the remarks."""
        names = self.columns
        width = len(names)
        nameless = [
            column
            for column, name in enumerate(names)
            if column and re.fullmatch(r"(Unnamed: [1-9]\d*)?", name)
        ]
        rows = self.raw()
        next(rows, None)
        for row in rows:
            if len(row) != width:
                row = self._fitted(row, width)
            if nameless and any(row[column].strip() for column in nameless):
                raise self._beneath_no_name(row)
            if self.next_line - self.line > 1:
                self._refuse_swallowed(row)
            yield row
        if self.short:
            remarks.append(
                f"Rows with fewer fields than there are columns: {self.short:,}, the first in line "
                f"{self.first_short}; missing fields are taken as empty"
            )

    def raw(self) -> Iterator[list[str]]:
        """Yield all rows as they are. Raises DataError where quotes do not match."""
        return self._literal() if self.separator in _LITERAL else self._quoted()

    def _quoted(self) -> Iterator[list[str]]:
        reader = csv.reader(
            self._lines, delimiter=self.separator, strict=True, skipinitialspace=self.separator != " "
        )
        start = self.next_line
        try:
            for row in reader:
                self.line, self.next_line = self.next_line, start + reader.line_num
                yield row
        except csv.Error as error:
            raise self._broken(self.next_line, start + reader.line_num - 1, str(error)) from None

    def _literal(self) -> Iterator[list[str]]:
        separator = self.separator
        while line := self._take():
            self.line = self.next_line - 1
            text = line.rstrip("\r\n")
            if "\r" in text and '"' not in text:
                raise self._broken(self.line, self.line, "new-line character")
            yield self._unquoted(line) if '"' in text else text.split(separator)

    def _take(self) -> str:
        """Return the next line, "" after the last."""
        line = self._ahead.popleft() if self._ahead else next(self._lines, "")
        self.next_line += bool(line)
        return line

    def _give_back(self, lines: Sequence[str]) -> None:
        self._ahead.extendleft(reversed(lines))
        self.next_line -= len(lines)

    def _unquoted(self, line: str) -> list[str]:
        """Return the fields of a line that holds quotes: unquoted if that makes a row, else as they are."""
        literal = line.rstrip("\r\n").split(self.separator)
        width = len(self.columns) or len(literal)
        taken: list[str] = []
        text = line
        while True:
            try:
                (row,) = csv.reader([text], delimiter=self.separator, strict=True, skipinitialspace=True)
            except (csv.Error, ValueError) as error:
                following = self._take() if str(error) == "unexpected end of data" else ""
                taken += [following] * bool(following)
                if not following or len(taken) > _MOST_LINES or self._is_row(following, width, literal):
                    self._give_back(taken)
                    return literal
                text += following
                continue
            if len(row) < width == len(literal):
                self._give_back(taken)
                return literal
            return row

    def _is_row(self, line: str, width: int, row: Sequence[str]) -> bool:
        """Whether a line in a cell of this row looks like a row of its own.

        Such a line has `width` fields. One of them names an image file, or is numbered like the row's own field there.
        """
        fields = line.rstrip("\r\n").split(self.separator)
        return len(fields) == width > 1 and any(
            names_file(field) or _mould(field) == _mould(own) != "" for field, own in zip(fields, row)
        )

    def _fitted(self, row: list[str], width: int) -> list[str]:
        """Return a row cut or filled up to the width. Raises DataError where text would be cut off."""
        if len(row) < width:
            if any(row):
                self.short += 1
                self.first_short = self.first_short or self.line
            return row + [""] * (width - len(row))
        if not any(cell.strip() for cell in row[width:]):
            return row[:width]
        raise DataError(
            f"Line {self.line} of {self.path} has {len(row)} fields, its header has {width}",
            got=self.separator.join(row)[:200],
            cause="The row has one field more than there are names: a caption contains the separator, or the first "
            "column holds row names and has no name"
            if len(row) == width + 1
            else "",
            fix=f"Put a caption that contains the separator {self.separator!r} in double quotes: "
            f'"like{self.separator} this" (single quotes do not count); or give the nameless column a name',
        )

    def _beneath_no_name(self, row: list[str]) -> DataError:
        return DataError(
            f"Line {self.line} of {self.path} has text in a column without a name",
            got=self.separator.join(row)[:200],
            cause="A caption that contains the separator spills into the next column",
            fix=f"Put a caption that contains the separator {self.separator!r} in double quotes: "
            f'"like{self.separator} this"; or give the column a name',
        )

    def _refuse_swallowed(self, row: list[str]) -> None:
        """Raise DataError when a cell of several lines holds lines that look like rows of the table."""
        width = len(self.columns)
        for cell in row:
            inner = cell.splitlines()[1:]
            rows = sum(self._is_row(line, width, row) for line in inner)
            alike = sum(line.count(self.separator) == width - 1 > 0 for line in inner)
            if rows or alike > max(20, 0.9 * len(inner)):
                raise DataError(
                    f"A cell of {self.path} runs from line {self.line} to line {self.next_line - 1}, across what "
                    "looks like rows of the table",
                    got=cell[:200],
                    cause=f"A lone double quote at the beginning of a field in line {self.line}",
                    fix='Write a double quote in a field twice, and put the field in quotes: "5"" pipe"',
                )

    def _broken(self, line: int, last: int, reason: str) -> DataError:
        """Return the error for a row that cannot be read, with the likely cause and fix."""
        text = next(islice(read_lines(self.path), last - 1, None), "")
        cause, fix = (
            reason,
            (
                "Look for a lone double quote: a field that starts with one must end with one, and double quotes "
                'in between are written twice: "5"" pipe"'
            ),
        )
        if reason.startswith("new-line character"):
            cause = "A carriage return is in the middle of the line: some lines end with one, others do not"
            fix = "Save the table with one kind of line ends, or put the cell with the line break in double quotes"
        elif re.search(r"[A-Za-z0-9+/]{1000}", text[:100_000]):
            cause, fix = (
                f"{reason}: it holds a picture in base64",
                "Store pictures as files, or as bytes in Parquet",
            )
        elif re.search(rf'"\s+({re.escape(self.separator)}|$)', text.rstrip("\r\n")):
            cause = f"{reason}: there is a blank between a closing double quote and the separator"
            fix = "Remove the blanks after double quotes"
        elif '\\"' in text:
            cause = f"{reason}: double quotes are escaped with backslashes, which CSV does not know"
            fix = 'Write a double quote in a quoted field twice: "5"" pipe"'
        kind = self.path.suffix[1:].upper()
        return DataError(f"Line {line} of {self.path} is not valid {kind}", cause=cause, fix=fix)


def _mould(field: str) -> str:
    """Return a field with its numbers blanked, to compare; "" if it is neither a number nor a name with one."""
    return re.sub(r"\d+", "0", field) if re.fullmatch(r"[^\s\"]*\d[^\s\"]*", field) else ""
