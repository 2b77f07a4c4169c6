"""What tables, COCO annotations and folders have in common: image files on disk, each with its captions."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from slip.data.limits import FILE_BYTES
from slip.data.record import Record
from slip.data.sources.options import Misfit
from slip.data.storage.shared import Shared
from slip.errors import DataError

PROBED = 8
"""Files looked for when a source is opened, spread over it: none there means a wrong image folder."""


class Strings:
    """A growing sequence of str in two flat arrays: 8 bytes an entry beside the text itself.

    Pickled, it no longer grows: what it holds is shared with the processes that it goes to.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._text: bytearray | np.ndarray = bytearray()
        self._ends: array[int] | np.ndarray = array("q", [0])
        for string in strings:
            self.append(string)

    def append(self, string: str) -> None:
        if not isinstance(self._text, bytearray) or not isinstance(self._ends, array):
            raise TypeError("These strings are shared with other processes and cannot grow")
        # surrogatepass keeps whatever JSON escapes and undecodable file names bring along.
        self._text += string.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return bytes(self._text[self._ends[index] : self._ends[index + 1]]).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> tuple[Shared, Shared]:
        if not hasattr(self, "_shared"):
            text = np.frombuffer(self._text, np.uint8) if len(self._text) else np.zeros(0, np.uint8)
            self._shared = Shared(text), Shared(np.frombuffer(self._ends, np.int64))
        for shared in self._shared:
            shared.__reduce__()  # so that this process, too, uses what is shared
        self._text, self._ends = (shared.array for shared in self._shared)
        return self._shared

    def __setstate__(self, state: tuple[Shared, Shared]) -> None:
        self._shared = state
        self._text, self._ends = (shared.array for shared in state)


class ImageFiles:
    """Image files with captions; the base of the sources that name their images one by one.

    `entries` are (path, captions) pairs, the path relative to `root` or absolute. A record's key is its path
    as the table, annotation file or folder spells it. `merge`: entries with one path are one record, where the first
    of them is, with all their captions in order; `entries` says how many there were. They are told apart by 64 bits.
    """

    options: tuple[str, ...] = ("image_root",)

    def __init__(
        self, name: str, root: Path, entries: Iterable[tuple[str, tuple[str, ...]]], *, merge: bool = False
    ) -> None:
        self.name, self.root = name, str(root)
        self._paths, self._captions = Strings(), Strings()
        ends, hashes = array("q", [0]), array("q")
        for number, (path, captions) in enumerate(entries):
            self._paths.append(path)
            for caption in captions:
                self._captions.append(caption)
            ends.append(len(self._captions))
            if merge:
                hashes.append(hash(path or number))  # entries without a path are errors, each for itself
        self.entries = len(self._paths)
        first = np.frombuffer(ends, np.int64)
        if merge:
            first = self._merge(np.frombuffer(hashes, np.int64), np.diff(first))
        self._first = Shared(first)  # record i has the captions first[i] to first[i + 1]

    def _merge(self, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Make one record of the entries with equal hashes; `counts`: of each entry's captions, before and after."""
        _, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
        if len(firsts) == len(hashes):
            return np.concatenate([[0], np.cumsum(counts)])
        appearance = np.argsort(firsts)
        record = np.empty_like(appearance)
        record[appearance] = np.arange(len(firsts))
        owner = np.repeat(record[which], counts)  # of each caption
        order = np.argsort(owner, kind="stable")
        self._paths = Strings(self._paths[i] for i in firsts[appearance].tolist())
        if (
            np.diff(owner) < 0
        ).any():  # else the rows of an image follow one another, and the captions lie right
            self._captions = Strings(self._captions[i] for i in order.tolist())
        return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(firsts)))])

    @property
    def merged(self) -> str:
        """A sentence for people if entries were merged, else ""."""
        if self.entries == len(self):
            return ""
        return f"{self.entries:,} rows name {len(self):,} images: each is one record, with the captions of its rows"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when its file cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        captions = tuple(self._captions[i] for i in range(*self._first.array[index : index + 2]))
        return Record(read_image(self.path(index)), captions, self._paths[index], self.name)

    def path(self, index: int) -> str:
        """Return where the image file of record `index` should be. Raises DataError when it names none."""
        path = self._paths[index]
        if not path:
            raise DataError(f"Entry {index} of {self.name} names no image")
        return os.path.join(self.root, path)

    def probe(self, fix: str) -> None:
        """Raise Misfit, with `fix` as the advice, when of a few files spread over the source none is there."""
        step = max(1, len(self) // PROBED)
        paths = [self.path(i) for i in range(0, len(self), step) if self._paths[i]]
        if paths and not any(map(is_file, paths)):
            raise Misfit(
                "image_root",
                f"The images that {self.name} names are not where they were looked for",
                got=paths[0],
                cause=f"Of {len(paths)} of its image files looked for, none is there",
                fix=fix,
            )


def read_image(path: str) -> bytes:
    """Return the file's bytes.

    Raises DataError when there is no such file, it cannot be read, is not a regular one, or has more than FILE_BYTES.
    """
    try:
        status = os.stat(path)  # before it is opened: a named pipe would block until somebody writes to it
        if not stat.S_ISREG(status.st_mode):
            raise DataError("The image file cannot be read", got=path, cause="It is a folder, pipe or device")
        if status.st_size > FILE_BYTES:
            raise DataError(
                "The image file is too large",
                got=f"{path}, {status.st_size / 1e6:,.0f} MB",
                cause=f"More than {FILE_BYTES // 1_000_000:,} MB may be an attack on memory, or no picture at all",
                fix="Store it smaller",
            )
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise DataError("The image file does not exist", got=path) from None
    except (OSError, ValueError) as error:  # ValueError: NULs or lone surrogates in the path
        raise DataError("The image file cannot be read", got=path, cause=str(error)) from None


def is_file(path: str) -> bool:
    """Return whether there is a regular file."""
    try:
        return os.path.isfile(path)
    except ValueError:  # NULs or lone surrogates in the path
        return False
