"""The common part of the layouts of published sets: recognising a layout, and reading lists and pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from openslip.data.labelled.classes import Naming, Value
from openslip.data.labelled.folder import Files
from openslip.data.labelled.labelled_set import Image, Part
from openslip.data.labelled.tree import scan
from openslip.errors import DataError, shortened
from openslip.files import read_whole

Entries = dict[str, list[tuple[str, Value]]]
"""By split, the name and the class of each listed picture."""
MOST_BYTES = 256 << 20
"""Most bytes of a text file that lists pictures or classes."""


@dataclass
class Contents:
    """What a layout's reader found: the images by split, the names of the classes, and notes for people."""

    parts: dict[str, Part]
    naming: Naming | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Archive:
    """The layout of a published set.

    title: the usual name of the set. marks: paths that its folder must hold, with `/` at the end for folders; one of
    `a | b` is enough. read: reads the set in a folder, or in a file that is a whole set. files: names of such files.
    """

    title: str
    marks: tuple[str, ...]
    read: Callable[[Path], Contents]
    files: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Return whether a folder has all marks of this layout."""
        return all(first_of(folder, mark) is not None for mark in self.marks)


def first_of(folder: Path, choices: str) -> Path | None:
    """Return the first of several paths that a folder has, as `Archive.marks` writes them; None for none."""
    for choice in choices.split(" | "):
        is_there = os.path.isdir if choice.endswith("/") else os.path.isfile
        if is_there(path := folder / choice):
            return path
    return None


def there(folder: Path, choices: str) -> Path:
    """Return the first of several paths that a folder has, as `first_of` does. Raises DataError for none."""
    if path := first_of(folder, choices):
        return path
    raise DataError(f"{folder} lacks a file or folder of its set", got=choices)


def lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without spaces around them.

    Raises DataError for a file that cannot be read, or is not text.
    """
    try:
        text = read_whole(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError("A list cannot be read", got=str(path), cause=str(error)) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def fields(path: Path, fewest: int, most: int = 0) -> list[list[str]]:
    """Return the words in the lines of a text file. The last of `most` words is the rest of the line.

    Raises DataError for a line of fewer than `fewest` words.
    """
    rows = [line.split(maxsplit=most - 1) for line in lines(path)]
    if short := next((row for row in rows if len(row) < fewest), None):
        raise DataError(
            f"A line of {path} has {len(short)} of {fewest} entries",
            got=shortened(" ".join(short), 100),
            fix="If the file was cut off, unpack or fetch it again.",
        )
    return rows


def as_number(text: str, path: Path) -> int:
    """Return the whole number in a text of a file. Raises DataError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path} has {shortened(text, 40)!r} where a number belongs") from None


def in_order_of(names: Iterable[str]) -> Naming:
    """Return a naming of classes whose values are their names, in the set's order."""
    return Naming({name: name for name in names}, declared=True)


def numbered(names: Iterable[str], start: int = 0) -> Naming:
    """Return a naming of classes that are numbered from `start` on."""
    return Naming(dict(enumerate(names, start)), declared=True)


def part_of(images: Sequence[Image], labels: Sequence[Value], keys: Sequence[str] = ()) -> Part:
    """Return the images of a split with the label of each image."""
    numbers: dict[Value, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
    return Part(images, list(numbers), codes, keys)


class Listing:
    """The pictures in a folder that lists name by relative paths, also without the ending.

    Listed pictures that are missing, and pictures that no list names, are left out; `notes` says how many.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = [os.path.relpath(path, folder) for path in scan(os.fspath(folder)).paths()]
        self._there = {os.path.splitext(path)[0]: path for path in paths} | {path: path for path in paths}
        self._unnamed = set(paths)
        self._gone: Counter[str] = Counter()
        self._lost: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """The relative paths of all pictures in the folder."""
        return sorted(set(self._there.values()))

    def find(self, name: str, split: str) -> str | None:
        """Return the path of a listed picture, relative to the folder; None if the picture is missing."""
        if found := self._there.get(os.path.normpath(name)):
            self._unnamed.discard(found)
            return found
        self._gone[split] += 1
        self._lost.setdefault(split, name)
        return None

    def parts(self, listed: Mapping[str, Iterable[tuple[str, Value]]]) -> dict[str, Part]:
        """Return the pictures by split. listed: the name and class of each. A split without pictures is left out.

        Raises DataError if no listed picture is there.
        """
        found: dict[str, Part] = {}
        example = ""
        for split, entries in listed.items():
            there: list[tuple[str, Value]] = []
            for name, value in entries:
                example = example or name
                if path := self.find(name, split):
                    there.append((path, value))
            if there:
                images = Files(os.fspath(self.folder), (path for path, _ in there))
                keys = cast(Sequence[str], images.paths)
                found[split] = part_of(images, [value for _, value in there], keys)
        if not found:
            raise DataError(
                f"None of the listed pictures is in {self.folder}",
                got=example,
                fix="Unpack the archive of the pictures there.",
            )
        return found

    @property
    def notes(self) -> list[str]:
        """Sentences on listed pictures that are missing, and on pictures that no list names."""
        said = [
            f"Listed pictures of {split} that are missing and left out: {count:,}, such as {self._lost[split]}."
            for split, count in self._gone.items()
        ]
        if self._unnamed:
            said.append(
                f"Pictures in {self.folder.name} that no list names and that are left out: {len(self._unnamed):,}, "
                f"such as {min(self._unnamed)}."
            )
        return said


def listed(
    folder: Path,
    splits: Mapping[str, Iterable[tuple[str, Value]]],
    naming: Naming | None = None,
    notes: Iterable[str] = (),
) -> Contents:
    """Return the pictures in a folder that are listed. splits: for each split the name and class of each picture."""
    pictures = Listing(folder)
    parts = pictures.parts(splits)
    return Contents(parts, naming, [*notes, *pictures.notes])
