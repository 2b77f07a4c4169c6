"""What tables, COCO annotations and folders have in common: image files on disk, each with its captions."""

from __future__ import annotations

import errno
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from openslip.data.limits import FILE_BYTES
from openslip.data.record import ImageFile, Record, Source
from openslip.data.sources.options import Misfit
from openslip.data.sources.roots import advice, beside, spread
from openslip.data.sources.spelling import BELOW, Found, Spelling, is_file
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError, printable
from openslip.files import open_descriptor, read_whole

if TYPE_CHECKING:
    import pyarrow as pa

    from openslip.data.typed_cells import Cells

PROBED = 8
"""Files looked for when a source is opened, spread over it: none there means a wrong image folder."""
LOOKED_FOR = 256
"""Files looked for, if some of those are there, to say how their names are spelled."""
T = TypeVar("T")
_said: set[str] = set()
"""Sources of which this process has said that they take pictures from elsewhere."""


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

    def holding(self, pattern: bytes) -> Iterator[int]:
        """Yield the indices of the strings in whose UTF-8 a match of the regular expression begins, in order.

        What follows a string is the next one: look ahead for all but a match's first byte.
        """
        ends, last = np.asarray(self._ends), -1
        for match in re.finditer(pattern, self._bytes().data):
            index = int(np.searchsorted(ends, match.start(), "right")) - 1
            if index != last:
                yield (last := index)

    def beginning(self, characters: bytes) -> list[int]:
        """Return the indices of the strings that begin with one of these bytes."""
        ends, text = np.asarray(self._ends), self._bytes()
        some = np.flatnonzero(np.diff(ends))
        return some[np.isin(text[ends[some]], list(characters))].tolist()

    def _bytes(self) -> np.ndarray:
        return np.frombuffer(self._text, np.uint8) if len(self._text) else np.zeros(0, np.uint8)

    def __getstate__(self) -> tuple[SharedArray, SharedArray]:
        if not hasattr(self, "_shared"):
            self._shared = SharedArray(self._bytes()), SharedArray(np.frombuffer(self._ends, np.int64))
        for shared in self._shared:
            shared.__reduce__()  # so that this process, too, uses what is shared
        self._text, self._ends = (shared.array for shared in self._shared)
        return self._shared

    def __setstate__(self, state: tuple[SharedArray, SharedArray]) -> None:
        self._shared = state
        self._text, self._ends = (shared.array for shared in state)


class ImageFiles(Source):
    """Image files with captions; the base of the sources that name their images one by one.

    `entries` are (path, captions) pairs, the path relative to `root` or absolute. A record's key is its path
    as the table, annotation file or folder spells it. `merge`: entries with one path are one record, where the first
    of them is, with all their captions in order; `entries` says how many there were. They are told apart by 64 bits.
    """

    options: tuple[str, ...] = ("image_root",)
    _ending = ""  # added to all names
    _own: pa.Table | None = None  # the own columns, once they are read

    def __init__(
        self, name: str, root: Path, entries: Iterable[tuple[str, tuple[str, ...]]], *, merge: bool = False
    ) -> None:
        self.name, self.root, self.spelling = name, str(root), Spelling()
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
        self._first = SharedArray(first)  # record i has the captions first[i] to first[i + 1]

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
        return Record(self._image(index), self._texts(index), self._paths[index], self.name)

    def file(self, index: int) -> ImageFile:
        index = range(len(self))[index]
        path, status = find_named(*self._named(index))
        return image_file(path, status, self._texts(index), self._paths[index])

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the own columns of these records (see `Source.columns`): of entries with one path those of the first.

        The first call reads the file that names the images once more, and keeps the columns of all records in memory.
        """
        if self._own is None:
            self._own = self._read_own()
        if not self._own.num_columns:
            return None
        from openslip.data.own_columns import rows_of

        return rows_of(self._own, indices)

    def _read_own(self) -> pa.Table:
        """Read the own columns of all records, and say in `columns_note` what is to be said of them."""
        from openslip.data.own_columns import without_columns

        return without_columns(len(self))

    def of_entries(
        self, entries: Iterable[tuple[str, Sequence[Any] | Mapping[str, Any]]], cells: Cells
    ) -> pa.Table:
        """Return the columns that grow in `cells` by the entries of all records: (path, cells), as they were opened.

        Raises DataError where they are others than they were.
        """
        merged = self.entries != len(self)
        told, differ, example = array("q"), set[int](), ""
        for record, path, row in self._by_record(entries):
            if record == len(cells):
                cells.add(row)
                if merged:
                    told.append(cells.digest(row))
            elif told[record] != cells.digest(row) and record not in differ:
                example = example or f"'{cells.unequal(record, row)}' of {path}"
                differ.add(record)
        if differ:
            self.columns_note = (
                f"Pictures of {self.name} whose rows differ in a column: {len(differ):,}, such as {example}; "
                "the first row's is taken"
            )
        return cells.table()

    def _by_record(self, entries: Iterable[tuple[str, T]]) -> Iterator[tuple[int, str, T]]:
        """Yield the record of each of the (path, anything) of all entries, and these; records by the first in order.

        Raises DataError where they are others than those that the source was opened with.
        """
        merged, count = self.entries != len(self), 0
        records: dict[int, int] = {}  # by the hash of their paths
        for number, (path, row) in enumerate(entries):
            record = records.setdefault(hash(path), len(records)) if merged else number
            if record == count:
                if record == len(self) or self._paths[record] != path:
                    raise self._changed(f"entry {number:,} names {path}")
                count += 1
            yield record, path, row
        if count != len(self):
            raise self._changed(f"{count:,} images, and {len(self):,} before")

    def _changed(self, got: str) -> DataError:
        return DataError(f"{self.name} has changed since it was opened", got=got, fix="Start again")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}

    def _texts(self, index: int) -> tuple[str, ...]:
        return tuple(self._captions[i] for i in range(*self._first.array[index : index + 2]))

    def path(self, index: int) -> str:
        """Return where the image file of record `index` should be. Raises DataError when it names none."""
        path = self._paths[index]
        if not path:
            raise DataError(f"Entry {index} of {self.name} names no image")
        return os.path.join(self.root, path + self._ending)

    def _image(self, index: int) -> bytes:
        return read_named(*self._named(index))

    def _named(self, index: int) -> tuple[str, str, Spelling, str]:
        """Return how the image file of a record is found: the arguments of `read_named`."""
        path, name = self.path(index), self._paths[index] + self._ending
        if self.spelling.below:  # such a name is no place on this machine, even where there is something
            path = self.root + "/" + name.lstrip("/")
        return self.root, name, self.spelling, path

    def probe(self, fix: str, *, table: str | Path = "") -> None:
        """Look for a few files, spread over the source, and add to `note` how their names are spelled, where they are
        if not in `root`, and how many lead out of it.

        table: the file that names the images, where nobody has said what folder they are relative to: if they are not
        in its own, they are looked for in one beside it, which is `root` then. Raises Misfit, with `fix` as the
        advice, when none is there.
        """
        few = [self._paths[i] + self._ending for i in spread(len(self), PROBED) if self._paths[i]]
        home, said = self.root, []
        if not any(found := self._look(few)) and few:
            for folder in beside(table) if table else ():
                self.root = str(folder)
                if any(found := self._look(few)):
                    said.append(f"Images of {self.name}: in {folder} (guessed)")
                    break
            else:
                self.root = home
                found = self._look_for_other_formats(few)
        if few and not any(found):
            cause = [f"Of {len(few)} of its image files looked for, none is there"]
            cause.append(self.spelling.nearly(self.root, few[0]))
            raise Misfit(
                "image_root",
                f"The images that {self.name} names are not where they were looked for",
                got=os.path.join(self.root, few[0]),
                cause=". ".join(filter(None, cause)),
                fix=advice(self.root, few[0]) or fix,
            )
        more = [self._paths[i] + self._ending for i in spread(len(self), LOOKED_FOR) if self._paths[i]]
        found = self._look(more)
        # Names with a leading slash are relative to the folder, if none of them is a place and some are there.
        rooted = [BELOW in f.how for name, f in zip(more, found) if f and name.startswith(("/", "\\"))]
        self.spelling.below = bool(rooted) and all(rooted)
        said += _how_spelled(found) + self._leading_out(home, "table's" if table else "image", any(rooted))
        for sentence in said:
            self.note = ". ".join(filter(None, [self.note.rstrip("."), sentence]))

    def _leading_out(self, home: str, whose: str, some_below: bool) -> list[str]:
        """Return a sentence on the paths that lead out of the folder `home`, which is `whose`, and out of `root`.

        some_below: of the paths that begin with a slash, some are below `root`, so that only files can tell.
        """
        inside = {
            place(folder) for folder in (home, self.root) for place in (os.path.abspath, os.path.realpath)
        }
        begin = tuple(folder.rstrip("/") + "/" for folder in inside)

        def leads_out(form: str) -> bool:
            if some_below and form.startswith("/") and not is_file(form):
                return False
            path = os.path.join(next(iter(inside)), form)
            return not (os.path.normpath(path) if ".." in path else path).startswith(begin)

        count, example = 0, ""
        odd = {*self._paths.beginning(b"/\\"), *self._paths.holding(rb"\.(?=\.)|%|f(?=ile://)")}
        for index in sorted(odd):
            path = self._paths[index]
            if path.startswith(begin) and not any(part in path for part in ("..", "%", "\\")):
                continue
            if any(leads_out(form) for form, _ in self.spelling.forms(path)):
                count, example = count + 1, example or path
        if not count:
            return []
        return [
            f"{count:,} of {len(self):,} paths lead out of the {whose} folder, such as {example[:200]}: check that you "
            "want these pictures copied"
        ]

    def _look(self, names: list[str]) -> list[Found | None]:
        """Return what is there by each of these names."""
        found: list[Found | None] = []
        for name in names:
            try:
                found.append(self.spelling.find(self.root, name))
            except DataError:  # it could be two
                found.append(None)
        return found

    def _look_for_other_formats(self, names: list[str]) -> list[Found | None]:
        """Return what is there of files of other formats, where there is none of the format that any name says."""
        self.spelling.any_format = True
        found = self._look(names)
        self.spelling.any_format = any(found)
        return found


def read_image(path: str) -> bytes:
    """Return the file's bytes.

    Raises DataError when there is no such file, it cannot be read, is not a regular one, or has more than FILE_BYTES.
    """
    return _existing(path, _bytes)


def read_named(root: str, name: str, spelling: Spelling, path: str = "") -> bytes:
    """Return the bytes of the file below `root` called `name`, or spelled a little otherwise (see `Spelling`).

    path: where it should be, if not at `root`/`name`. Raises DataError as `read_image` does.
    """
    return _of_named(root, name, spelling, path, _bytes)


def find_image(path: str) -> tuple[str, os.stat_result]:
    """Return the path and the status of a file that `read_image` can read. Raises DataError as that does."""
    return _existing(path, _status)


def find_named(root: str, name: str, spelling: Spelling, path: str = "") -> tuple[str, os.stat_result]:
    """Return the path and the status of the file that `read_named` reads. Raises DataError as that does."""
    return _of_named(root, name, spelling, path, _status)


def image_file(path: str, status: os.stat_result, captions: tuple[str, ...], key: str) -> ImageFile:
    """Return what there is to say of the file at a path, which may be relative to the working folder."""
    if ".." in path.split("/"):  # of a folder that is a link, the parent is not the folder before it
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return ImageFile(os.path.abspath(path), status.st_size, status.st_mtime_ns, captions, key)


def _existing(path: str, take: Callable[[str], T]) -> T:
    """Return what `take` gives of a file. Raises DataError as `read_image` does."""
    try:
        return _tried(path, take)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("The image file does not exist", got=path) from None


def _of_named(root: str, name: str, spelling: Spelling, path: str, take: Callable[[str], T]) -> T:
    """Return what `take` gives of a file, found as `read_named` says."""
    path = path or os.path.join(root, name)
    try:
        return _tried(path, take)
    except (FileNotFoundError, NotADirectoryError):
        found = spelling.find(root, name)
    except DataError:
        # A folder may be called so, and the image beside it have an ending.
        found = spelling.find(root, name) if os.path.isdir(path) else None
        if found is None:
            raise
    if found is None:
        raise DataError("The image file does not exist", got=path, cause=spelling.nearly(root, name))
    return _existing(found.path, take)


def _tried(path: str, take: Callable[[str], T]) -> T:
    try:
        return take(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:  # ValueError: NULs or lone surrogates in the path
        if getattr(error, "errno", 0) != errno.EFBIG:
            raise DataError("The image file cannot be read", got=path, cause=reason_of(error)) from None
    raise DataError(
        "The image file is too large",
        got=path,
        cause=f"More than {FILE_BYTES // 1_000_000:,} MB may be an attack on memory, or no picture at all",
        fix="Store it smaller",
    )


def _bytes(path: str) -> bytes:
    return read_whole(path, FILE_BYTES)


def _status(path: str) -> tuple[str, os.stat_result]:
    # Opening says what reading would say: that it may not be read, that it is a pipe.
    descriptor, _ = open_descriptor(path)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if status.st_size > FILE_BYTES:
        raise OSError(errno.EFBIG, "It is too large", path)
    return path, status


def warn_outside(name: str, root: str, path: str) -> None:
    """Print to stderr, once a process, that the source called `name` takes pictures from outside of its folder `root`.

    For sources that do not know the paths of all records when they are opened; the others say so in their `note`.
    """
    base = os.path.abspath(root) if root else ""
    outside = not base or not os.path.normpath(os.path.join(base, path)).startswith(base.rstrip("/") + "/")
    if outside and name not in _said:
        _said.add(name)
        line = f"{name} takes pictures from outside of its folder, such as {path}: check that you want these copied"
        print(printable(line), file=sys.stderr, flush=True)


def reason_of(error: Exception) -> str:
    """Return why the system does not open a file, without the file's name, which is said beside it."""
    return getattr(error, "strerror", None) or str(error)


def _how_spelled(found: list[Found | None]) -> list[str]:
    """Return sentences on how the names of files differ from those that were looked for."""
    counts = Counter(how for each in found if each for how in each.how)
    return [f"{count:,} of {len(found):,} image names looked at {how}" for how, count in counts.items()]
