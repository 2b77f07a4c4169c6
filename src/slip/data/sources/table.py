"""Tables of image paths and captions: CSV, TSV, and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from slip.data.sources.columns import choose, guess_captions, guess_images, refuse_urls
from slip.data.sources.files import ImageFiles, texts
from slip.errors import DataError
from slip.files import expand, open_regular


class Table(ImageFiles):
    """One record an image of a CSV, TSV or JSON-lines file: rows with the same path are several captions of one.

    `image_column` and `caption_columns` are the columns chosen: those asked for, else guessed by their names, which
    `note` says. Several caption columns (`caption_column="title,description"`) make several captions, as does a list
    in JSON lines. A table without a caption column is an error unless `captions_required` is False, as it is for
    self-supervision alone. Relative image paths are taken from `image_root`, else from the table's own folder.
    Tables are UTF-8; CSV quotes as in RFC 4180, and its separator is the comma, semicolon or tab that its header
    uses most. Raises DataError on a missing column, a malformed line, or when no image is where it should be.
    """

    options = ("image_root", "image_column", "caption_column")

    def __init__(
        self,
        path: str | Path,
        *,
        image_root: str = "",
        image_column: str = "",
        caption_column: str = "",
        captions_required: bool = True,
    ) -> None:
        path = Path(path)
        rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
        head = list(islice(rows, 100))
        if not head:
            raise DataError("The table has no rows", got=str(path))
        columns = list(dict.fromkeys(column for row in head for column in row))
        chosen = choose(
            str(path),
            columns,
            image=image_column,
            caption=caption_column,
            image_guesses=guess_images(columns),
            caption_guesses=guess_captions(columns),
            captions_required=captions_required,
            cause=""
            if path.suffix.lower() == ".jsonl"
            else "The first line of the table must name its columns",
        )
        self.image_column, self.caption_columns = chosen.image, chosen.captions
        refuse_urls((row.get(self.image_column) for row in head), self.image_column, str(path))
        root = expand(image_root) if image_root else path.parent
        super().__init__(str(path), root, map(self._entry, chain(head, rows)), merge=True)
        self.note = ". ".join(filter(None, [chosen.note(path.name), self.merged]))
        self.probe(
            "Give the folder that the paths are relative to with --data.image-root",
            table="" if image_root else path,
        )

    def _entry(self, row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        image = row.get(self.image_column)
        captions = (text for column in self.caption_columns for text in texts(row.get(column)))
        return image.strip() if isinstance(image, str) else "", tuple(captions)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or TSV file by the names in its first line; short ones lack the last columns."""
    lines = _lines(path)
    header = next(lines, "")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.reader(chain([header], lines), delimiter=separator, strict=True)
    line, columns = 1, []
    try:
        for row in reader:
            if any(row[len(columns) :]) and columns:
                raise DataError(
                    f"Line {line} of {path} has {len(row)} fields, its header has {len(columns)}",
                    got=separator.join(row)[:200],
                    fix=f'A caption with the separator {separator!r} in it must stand in double quotes: "like, this"',
                )
            if columns and row:
                yield dict(zip(columns, row))
            columns = columns or [name.strip() for name in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"Line {line} of {path} is not valid {path.suffix[1:].upper()}",
            cause=str(error),
            fix="Look for a lone double quote: a field that starts with one must end with one, and those in "
            'between are written twice: "5"" pipe"',
        ) from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Line {number} of {path} is not valid JSON",
                got=line[:200],
                cause=str(error),
                fix="Each line holds one JSON object; if the file was cut off on the way, fetch it again",
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"Line {number} of {path} is not a JSON object", got=line[:200])
        yield row


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with or without byte order mark; DataError names a line that is not."""
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    utf16 = number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff")
                    raise DataError(
                        f"Line {number} of {path} is not UTF-8",
                        got=str(line[max(0, error.start - 30) : error.end + 10]),
                        cause="It is UTF-16"
                        if utf16
                        else "The file is in another encoding, or damaged there",
                        fix="Save it as UTF-8, for example with: iconv -f "
                        f"{'UTF-16' if utf16 else 'LATIN1'} -t UTF-8 OLD > NEW",
                    ) from None
    except OSError as error:
        raise DataError("The table cannot be read", got=str(path), cause=str(error)) from None
