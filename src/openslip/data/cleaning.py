"""Make titles and descriptions of YFCC100M readable, and make the metadata of YFCC15M from the raw data.

The cleaning is that of SLIP's authors, but takes out more kinds of tags and entities, and leaves real plus signs in.
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import numpy as np

from openslip.data.limits import TEXT_BYTES
from openslip.data.sources.yfcc import INDICES, Row, write_metadata
from openslip.errors import DataError
from openslip.files import open_regular

INDEX, TITLE, DESCRIPTION = 0, 8, 9
"""Columns of the raw data, which have no header: 0 the line number, an image's index; 1 Flickr's number for it; …"""

PASSES = 8
"""Entities and tags may come to light when others are taken out, but not deeper than this."""

_INLINE = frozenset(
    ("a", "abbr", "b", "big", "em", "font", "i", "small", "span", "strike", "strong", "sub", "sup", "tt", "u")
)
"""Tags that may stand within a word; all others separate words."""

# Nothing is matched twice in vain, so time grows with the length of the text and no faster.
_TAG = re.compile(r"<(?:[!?]|/?([a-zA-Z][a-zA-Z0-9]*+))[^<>]*+>")
_URL = re.compile(r"(?<![a-zA-Z0-9])(?:(?:https?|ftp)://|www\.)\S*[^\s.,;:!?()\[\]{}<>'\"]", re.IGNORECASE)
_NO_CHARACTER = re.compile(r"&#[0-9]{8,};?")  # more digits than Python turns into a number, perhaps
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a raw title or description without percent-escapes, HTML tags and entities, URLs and extra space.

    Plus signs are spaces, as in web forms; broken escapes stay as they are.
    """
    return tidy(unquote_plus(text))


def tidy(text: str) -> str:
    """Return text without HTML tags and entities, URLs, control characters and extra space.

    `tidy(tidy(text)) == tidy(text)`, unless entities are escaped more often than `PASSES` times.
    """
    for _ in range(PASSES):
        plain = _TAG.sub(_between, unescape(_NO_CHARACTER.sub(" ", text)))
        plain = _CONTROL.sub(" ", _URL.sub(" ", plain))
        if plain == text:
            break
        text = plain
    return " ".join(text.split())


def _between(tag: re.Match[str]) -> str:
    """Return what is left of a tag."""
    return "" if (tag[1] or "").lower() in _INLINE else " "


def make_metadata(rows: Iterable[Row], path: str | Path) -> tuple[int, int]:
    """Clean (index, title, description) rows and write them as Parquet for `Yfcc`; those without text are left out.

    Returns how many were written and how many left out. The file appears whole or not at all, and memory does not
    grow with the number of rows. Raises DataError when it cannot be written.
    """
    dropped = 0

    def cleaned() -> Iterator[Row]:
        nonlocal dropped
        for index, title, description in rows:
            row = index, clean(title), clean(description)
            if row[1] or row[2]:
                yield row
            else:
                dropped += 1

    return write_metadata(cleaned(), path), dropped


def raw_rows(path: str | Path, only: Sequence[str | Path] = ()) -> Iterator[Row]:
    """Yield (index, title, description), uncleaned, from YFCC100M's table `yfcc100m_dataset`, line by line.

    The table has tabs between its columns and no header; it may be plain, .gz or .bz2. `only`: files that list image
    indices; an image must be in all of them. Each is a table with the indices in its first column (OpenAI's
    `yfcc100m_subset_data.tsv` of the images with English text), or a .npy array (of the images that were downloaded).

    Raises DataError when a file cannot be read or a line is not of this form.
    """
    wanted = np.ones(INDICES, dtype=bool) if only else None  # 100 MB, however many they are
    for file in only:
        wanted &= _listed(Path(file))
    for number, columns in _table(Path(path)):
        if len(columns) <= DESCRIPTION:
            raise DataError(
                f"Line {number} of {path} has {len(columns)} columns, but {DESCRIPTION + 1} are needed",
                fix="Pass the table yfcc100m_dataset as Flickr gave it, with the line number in front",
            )
        index = _index(columns, number, path)
        if wanted is None or wanted[index]:
            yield index, columns[TITLE], columns[DESCRIPTION]


def _listed(path: Path) -> np.ndarray:
    """Return for each index whether the file lists it: (INDICES,) bool."""
    found = np.zeros(INDICES, dtype=bool)
    if path.suffix.lower() != ".npy":
        for number, columns in _table(path):
            found[_index(columns, number, path)] = True
        return found
    try:
        open_regular(path).close()
        indices = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(indices, np.ndarray):
            raise ValueError("It is a zip of arrays")
    except Exception as error:  # whatever numpy's parser of hostile headers raises
        raise DataError("The list of images cannot be read", got=str(path), cause=str(error)) from None
    if indices.dtype.kind not in "iu" or (indices.size and not 0 <= indices.min() <= indices.max() < INDICES):
        raise DataError(
            "The .npy file does not list image indices",
            got=f"{path}, of {indices.dtype}",
            cause="Image indices are whole numbers of at most 8 digits",
        )
    found[indices.reshape(-1)] = True
    return found


def _index(columns: list[str], number: int, path: str | Path) -> int:
    index = int(columns[INDEX]) if re.fullmatch(r"\d{1,8}", columns[INDEX], re.ASCII) else -1
    if index < 0:
        raise DataError(
            f"Line {number} of {path} does not begin with an image's index",
            got=columns[INDEX][:100],
            cause="An index is a number of at most 8 digits, the line number in yfcc100m_dataset",
        )
    return index


def _table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    number = 0
    try:
        with open_regular(path) as stored:
            opener = openers.get(path.suffix.lower())
            file = opener(stored, "rb") if opener else stored
            for number, line in enumerate(iter(partial(file.readline, TEXT_BYTES + 1), b""), 1):
                if len(line) > TEXT_BYTES:
                    raise OSError(f"Line {number} goes on for more than {TEXT_BYTES:,} bytes")
                if line.strip():
                    yield number, line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
    except FileNotFoundError:
        raise DataError("The table does not exist", got=str(path)) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        beyond = f" beyond line {number}" if number else ""
        raise DataError(f"The table cannot be read{beyond}", got=str(path), cause=str(error)) from None
