"""Find image files whose names the data spell differently from the disk: slashes, case, accents, endings.

A name is tried as given first, so existing files cost nothing. If there is no such file, other spellings are tried.
Then the folder is searched for the one name that differs only in case, in the form of accents (NFC, NFD), or in an
ending that is missing or spelled differently (`.jpeg`, `.jpg`).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np

from openslip.data.formats import EXTENSIONS, FORMATS
from openslip.data.storage.reading import Recent
from openslip.errors import DataError

MOST_NAMES = 300_000
"""The most names in a folder that is searched. In a larger folder only the usual other spellings are tried."""
LISTED_BYTES = 32 << 20
"""Bytes of folder listings that each process remembers, beside the latest."""

BACKSLASHES = "have backslashes, which are read as slashes"
BELOW = "begin with a slash or drive, and are taken from below the image folder"
ESCAPED = "are written as in web addresses (%20), and are decoded"
CASE = "differ from the files in upper and lower case"
ACCENTS = "spell accents differently from the files (NFC, NFD)"
ENDING = "have a different ending from the files, or none"

_FORMAT_OF = {ending: name for name, endings in FORMATS.items() for ending in endings}


class Found(NamedTuple):
    """Where a file is, and how its name differs from the name looked for: any of the above, or none."""

    path: str
    how: tuple[str, ...] = ()


class Spelling:
    """Finds files by names that are spelled differently, and remembers folder listings. Empty after pickling.

    below: names that begin with a slash are never absolute paths, but relative to the folder that is given.
    any_format: a file may have the ending of another format than the name looked for.
    """

    def __init__(self, *, below: bool = False, any_format: bool = False) -> None:
        self.below, self.any_format = below, any_format
        self._listings: Recent[_Listing] = Recent(1000, LISTED_BYTES)

    def find(self, root: str, name: str) -> Found | None:
        """Return the file below `root` that `name` stands for, None where there is none.

        Raises DataError where two files could be meant.
        """
        forms = list(self.forms(name))
        for form, how in forms:
            path = os.path.join(root, form)
            if is_file(path):
                return Found(path, how)
        for form, how in forms:
            start, parts = _parts(root, form)
            found = list(dict.fromkeys(self._walk(start, parts)))
            if len(found) > 1:
                raise DataError(
                    "The image file does not exist, and two could be meant",
                    got=os.path.join(root, name),
                    cause=f"There are '{found[0]}' and '{os.path.basename(found[1])}'",
                    fix="Write the name as one of the files spells it",
                )
            if found:
                return Found(found[0], (*how, *_differences(form, found[0])))
        return None

    def forms(self, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the paths that a name may stand for, in the order of trying, each with the changes to the name."""
        how: tuple[str, ...] = ()
        if name.startswith("file://"):
            name = name.removeprefix("file://")
        forms = [(name, how)]
        if "\\" in name:
            name, how = name.replace("\\", "/"), (BACKSLASHES,)
            forms.append((name, how))
        without_drive = name[2:] if name[1:2] == ":" else name
        if without_drive.startswith("/"):
            if self.below:
                forms.clear()
            name, how = without_drive.lstrip("/"), (*how, BELOW)
            forms.append((name, how))
        if "%" in name and (plain := unquote(name)) != name and not (self.below and plain.startswith("/")):
            forms.append((plain, (*how, ESCAPED)))
        yield from forms

    def nearly(self, root: str, name: str) -> str:
        """Return a sentence on what is found in place of a missing file; "" if that is nothing."""
        *_, (form, _) = self.forms(name)
        folder, parts = _parts(root, form)
        for number, part in enumerate(parts):
            if number + 1 == len(parts):
                stem = os.path.splitext(part)[0]
                others = [other for other in self._list(folder).like(stem) if os.path.splitext(other)[1]]
                return f"'{folder}' has {' and '.join(map(repr, others[:3]))}" if others else ""
            inner = next((d for d in self._same(folder, part) if os.path.isdir(os.path.join(folder, d))), "")
            if not inner:
                there = f"'{folder}' has no folder '{part}'"
                return there if os.path.isdir(folder) else f"There is no folder '{folder}'"
            folder = os.path.join(folder, inner)
        return ""

    def _walk(self, folder: str, parts: list[str]) -> Iterator[str]:
        """Yield the files at these parts of a path below a folder, whose names are spelled alike."""
        head, rest = parts[0], parts[1:]
        if not rest:
            for names in (self._same(folder, head), self._with_ending(folder, head)):
                if found := [path for name in names if is_file(path := os.path.join(folder, name))]:
                    yield from found
                    return
            return
        exact = os.path.join(folder, head)
        found = list(self._walk(exact, rest)) if os.path.isdir(exact) else []
        if not found:
            others = [os.path.join(folder, name) for name in self._same(folder, head) if name != head]
            found = [path for other in others if os.path.isdir(other) for path in self._walk(other, rest)]
        yield from found

    def _same(self, folder: str, name: str) -> list[str]:
        """Return the names in a folder that differ from `name` only in case and accents; `name` itself if it exists."""
        if name == ".." or os.path.lexists(os.path.join(folder, name)):
            return [name]
        return [other for other in self._list(folder).like(name) if _fold(other) == _fold(name)]

    def _with_ending(self, folder: str, name: str) -> list[str]:
        """Return the names in a folder that are `name` with an ending, or with another ending of the same format."""
        format = None if self.any_format else _FORMAT_OF.get(_ending(name))
        return [
            other
            for other in self._list(folder).like(name)
            if (_FORMAT_OF.get(_ending(other)) == format if format else _ending(other) in EXTENSIONS)
        ]

    def _list(self, folder: str) -> _Listing:
        try:
            changed = os.stat(folder).st_mtime_ns
        except (OSError, ValueError):
            changed = 0  # there is nothing to list
        return self._listings.get((folder, changed), lambda: _Listing(folder), lambda listing: listing.weight)

    def __reduce__(self) -> tuple:
        return partial(Spelling, below=self.below, any_format=self.any_format), ()


class _Listing:
    """The names in a folder, found regardless of case, accents and the ending of an image's name.

    Takes 16 bytes per name beside the name. `weight`: bytes.
    """

    def __init__(self, folder: str) -> None:
        self._folder, names = folder, []
        with suppress(OSError, ValueError), os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES + 1)]
        self._whole = len(names) <= MOST_NAMES
        if not self._whole:
            names = []
        hashes = np.fromiter((hash(_stem(name)) for name in names), np.int64, len(names))
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        encoded = [os.fsencode(names[i]) for i in order.tolist()]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._text = b"".join(encoded)
        self.weight = len(self._text) + 16 * len(names)

    def like(self, name: str) -> list[str]:
        """Return the names whose stem is that of `name`, sorted."""
        if not self._whole:
            return [guess for guess in _guesses(name) if os.path.lexists(os.path.join(self._folder, guess))]
        stem = _stem(name)
        first, last = (int(np.searchsorted(self._hashes, hash(stem), side)) for side in ("left", "right"))
        found = [os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]]) for i in range(first, last)]
        return sorted(other for other in found if _stem(other) == stem)


def _guesses(name: str) -> list[str]:
    """Return the likeliest spellings of a name, for a folder with too many names to search."""
    stem, ending = os.path.splitext(name) if _ending(name) in EXTENSIONS else (name, "")
    endings = FORMATS[_FORMAT_OF[_ending(name)]] if ending else ("jpg", "jpeg", "png", "webp")
    forms = [unicodedata.normalize(form, stem) for form in ("NFC", "NFD")]
    spelled = [ending, *(f".{e}" for e in endings), *(f".{e.upper()}" for e in endings)]
    return list(dict.fromkeys(form + end for form in forms for end in spelled))


def is_file(path: str) -> bool:
    """Return whether the path is a regular file."""
    try:
        return os.path.isfile(path)
    except ValueError:  # NULs or lone surrogates in the path
        return False


def _parts(root: str, name: str) -> tuple[str, list[str]]:
    """Return the folder where the path to a file begins, and the parts from there on, at least one."""
    absolute = name.startswith("/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/" if absolute else root or ".", parts or [""]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _stem(name: str) -> str:
    """Return a name without an image's ending, folded in case and in the form of accents."""
    stem, ending = os.path.splitext(name)
    return _fold(stem if ending[1:].lower() in EXTENSIONS else name)


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _differences(name: str, found: str) -> Iterator[str]:
    """Yield how the end of the path `found` differs from `name`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    pairs = list(zip(parts, found.split("/")[-len(parts) :]))
    if _fold(pairs[-1][0]) != _fold(pairs[-1][1]):
        yield ENDING
        pairs.pop()
    if any(unicodedata.normalize("NFC", a) != unicodedata.normalize("NFC", b) for a, b in pairs):
        yield CASE
    if any(a.casefold() != b.casefold() for a, b in pairs):
        yield ACCENTS
