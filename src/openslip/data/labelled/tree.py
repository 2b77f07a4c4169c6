"""List a folder once: pictures, folders of pictures, and everything else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from openslip.data.formats import EXTENSIONS, FILMS, NOT_READ, is_picture, why_not
from openslip.errors import DataError
from openslip.files import open_regular

JUNK = frozenset(
    (
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "#recycle",
        "system volume information",
        "lost+found",
        "__pycache__",
    )
)
"""Folders that operating systems leave behind, in lower case, besides hidden folders."""
LINK = "a link that leads nowhere"
DEEPEST = 60
"""The most levels of folders that are followed."""


@dataclass(eq=False)
class Node:
    """A folder, and all below it.

    pictures: names of pictures directly in it, sorted. folders: with a picture somewhere below, sorted by name. bare:
    names of folders without a picture, except hidden ones and JUNK. others: names of files that are no pictures.
    missed: by extension, how many pictures and films are not read here and below, and how many LINKs.
    count: pictures here and below.
    """

    path: str
    pictures: list[str] = field(default_factory=list)
    folders: list[Node] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    count: int = 0

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def paths(self) -> Iterator[str]:
        """Yield the paths of all pictures here and below, sorted by the names of folders and pictures."""
        if not self.folders:
            yield from (os.path.join(self.path, name) for name in self.pictures)
            return
        inside = {folder.name: folder for folder in self.folders}
        for name in sorted([*self.pictures, *inside]):
            if name in inside:
                yield from inside[name].paths()
            else:
                yield os.path.join(self.path, name)

    def what_is_missed(self) -> str:
        """Return a sentence on how many pictures and films are not read, and why; "" if all are read."""
        reasons = [
            f"{count:,}: {LINK if extension == LINK else why_not(extension)}"
            for extension, count in self.missed.most_common(3)
        ]
        total = self.missed.total()
        return f"{total:,} file{'s' if total > 1 else ''} left out ({'; '.join(reasons)})" if total else ""


def scan(path: str) -> Node:
    """List a folder. Links are followed, except links to a folder above. Raises OSError, or DataError if folders are
    nested too deep."""
    return _scan(path, ())


def _scan(path: str, above: tuple[tuple[int, int], ...]) -> Node:
    if len(above) > DEEPEST:
        raise DataError(f"Folders are nested more than {DEEPEST} deep", got=path)
    node = Node(path)
    status = os.stat(path)
    above = (*above, (status.st_dev, status.st_ino))
    folders, broken = [], 0
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry)
                continue
            extension = os.path.splitext(name)[1][1:].lower()
            if extension in EXTENSIONS:
                node.pictures.append(name)
            else:
                node.others.append(name)
            if not extension and entry.is_symlink() and not os.path.exists(entry.path):
                broken += 1
    node.pictures.sort()
    node.others.sort()
    node.missed = _missed(path, node.others)
    if broken:  # perhaps a link to a folder of a class
        node.missed[LINK] = broken
    node.count = len(node.pictures)
    for entry in sorted(folders, key=lambda entry: entry.name):
        if entry.name.lower() in JUNK or (entry.is_symlink() and _identity(entry.path) in above):
            continue
        below = _scan(entry.path, above)
        node.missed += below.missed
        if below.count:
            node.folders.append(below)
            node.count += below.count
        else:
            node.bare.append(entry.name)
    return node


def _missed(path: str, names: list[str]) -> Counter[str]:
    """Return how many of a folder's files, by extension, are pictures or films that are not read.

    If an extension is unknown, the first file with it tells whether its files are pictures.
    """
    found = Counter(os.path.splitext(name)[1][1:].lower() for name in names)
    for extension in [*found]:
        if extension in NOT_READ | FILMS:
            continue
        example = next(name for name in names if os.path.splitext(name)[1][1:].lower() == extension)
        if not _is_picture(os.path.join(path, example)):
            del found[extension]
    return found


def _is_picture(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return is_picture(file.read(16))
    except (OSError, ValueError):
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
