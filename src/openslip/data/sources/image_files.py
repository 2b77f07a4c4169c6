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
"""Files looked for when a source is opened, spread over it; if none is there, the image folder is wrong."""
LOOKED_FOR = 256
"""Files looked for, once some of the probed ones are there, to tell how names are spelled."""
T = TypeVar("T")
_said: set[str] = set()
"""Sources for which this process has warned of pictures outside of their folder."""


class Strings:
    """A growing sequence of str in two flat arrays: 8 bytes an entry beside the text itself.

    Once pickled, it no longer grows: the processes that receive it share its memory.
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
        """Yield, in order, the indices of the strings in which a match of the regular expression begins, in UTF-8.

        The next string follows without a gap: match one byte, and look ahead for the rest.
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
            shared.__reduce__()  # so that this process also uses the shared memory
        self._text, self._ends = (shared.array for shared in self._shared)
        return self._shared

    def __setstate__(self, state: tuple[SharedArray, SharedArray]) -> None:
        self._shared = state
        self._text, self._ends = (shared.array for shared in state)


class ImageFiles(Source):
    """Image files with captions; the base of the sources that name their images one by one.

    `entries` are (path, captions) pairs, the path relative to `root` or absolute. A record's key is its path
    as the table, annotation file or folder spells it. `merge`: entries with the same path are one record, at the place
    of the first, with all captions in order; paths are told apart by 64 bits. `entries` is the number of entries.
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
                hashes.append(hash(path or number))  # entries without a path are errors, each by itself
        self.entries = len(self._paths)
        first = np.frombuffer(ends, np.int64)
        if merge:
            first = self._merge(np.frombuffer(hashes, np.int64), np.diff(first))
        self._first = SharedArray(first)  # record i has the captions first[i] to first[i + 1]

    def _merge(self, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Merge entries with equal hashes; `counts`: captions of each entry. Return where a record's captions begin."""
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
        ).any():  # else the rows of each image are adjacent, and the captions are in order
            self._captions = Strings(self._captions[i] for i in order.tolist())
        return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(firsts)))])

    @property
    def merged(self) -> str:
        """A sentence on merged entries, "" if there are none."""
        if self.entries == len(self):
            return ""
        return f"{self.entries:,} rows name {len(self):,} images: each image is one record, with its rows' captions"

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
        """Return the own columns of these records (see `Source.columns`). Of merged entries, the first one's count.

        The first call reads the file that names the images once more, and keeps the columns of all records in memory.
        """
        if self._own is None:
            self._own = self._read_own()
        if not self._own.num_columns:
            return None
        from openslip.data.own_columns import rows_of

        return rows_of(self._own, indices)

    def _read_own(self) -> pa.Table:
        """Return the own columns of all records; put remarks on them into `columns_note`."""
        from openslip.data.own_columns import without_columns

        return without_columns(len(self))

    def of_entries(
        self, entries: Iterable[tuple[str, Sequence[Any] | Mapping[str, Any]]], cells: Cells
    ) -> pa.Table:
        """Return the own columns, collected in `cells` from `entries`: (path, cells), in the order of opening.

        Raises DataError when the entries have changed since then.
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
                "the first row's value is taken"
            )
        return cells.table()

    def _by_record(self, entries: Iterable[tuple[str, T]]) -> Iterator[tuple[int, str, T]]:
        """Yield (record, path, row) for each (path, row) of `entries`; records are numbered by their first entry.

        Raises DataError when the entries are not those that the source was opened with.
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
        """Return where the image file of record `index` should be. Raises DataError when the record names none."""
        path = self._paths[index]
        if not path:
            raise DataError(f"Entry {index} of {self.name} names no image")
        return os.path.join(self.root, path + self._ending)

    def _image(self, index: int) -> bytes:
        return read_named(*self._named(index))

    def _named(self, index: int) -> tuple[str, str, Spelling, str]:
        """Return the arguments with which `read_named` finds the image file of a record."""
        path, name = self.path(index), self._paths[index] + self._ending
        if self.spelling.below:  # such a name is never an absolute path, even where that exists
            path = self.root + "/" + name.lstrip("/")
        return self.root, name, self.spelling, path

    def probe(self, fix: str, *, table: str | Path = "") -> None:
        """Look for a few files, spread over the source. Add to `note` how their names are spelled, which folder they
        are in if not in `root`, and how many paths lead out of `root`.

        table: the file that names the images, if no option gives their folder. Images that are not in the table's
        folder are looked for in folders beside the table, and `root` becomes the folder found. Raises Misfit, with
        `fix` as the advice, when no file is there.
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
            cause = [f"None of the {len(few)} image files that were looked for is there"]
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
        # Names with a leading slash are relative to the folder if none exists as it is and some exist below it.
        rooted = [BELOW in f.how for name, f in zip(more, found) if f and name.startswith(("/", "\\"))]
        self.spelling.below = bool(rooted) and all(rooted)
        said += _how_spelled(found) + self._leading_out(home, "table's" if table else "image", any(rooted))
        for sentence in said:
            self.note = ". ".join(filter(None, [self.note.rstrip("."), sentence]))

    def _leading_out(self, home: str, whose: str, some_below: bool) -> list[str]:
        """Return a sentence on the paths that lead out of the folder `home`, called `whose`, and out of `root`.

        some_below: some paths that begin with a slash are below `root`, so only existing files tell which.
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
        """Return the file found for each of these names, None where there is none, or two."""
        found: list[Found | None] = []
        for name in names:
            try:
                found.append(self.spelling.find(self.root, name))
            except DataError:  # it could be two
                found.append(None)
        return found

    def _look_for_other_formats(self, names: list[str]) -> list[Found | None]:
        """Look for files of other formats than the names say; if any is found, keep looking that way."""
        self.spelling.any_format = True
        found = self._look(names)
        self.spelling.any_format = any(found)
        return found


def read_image(path: str) -> bytes:
    """Return the file's bytes.

    Raises DataError when the file does not exist, cannot be read, is not a regular file, or has over FILE_BYTES.
    """
    return _existing(path, _bytes)


def read_named(root: str, name: str, spelling: Spelling, path: str = "") -> bytes:
    """Return the bytes of the file `name` below `root`, perhaps spelled a little differently (see `Spelling`).

    path: where the file should be, if not at `root`/`name`. Raises DataError as `read_image` does.
    """
    return _of_named(root, name, spelling, path, _bytes)


def find_image(path: str) -> tuple[str, os.stat_result]:
    """Return the path and the status of a file that `read_image` can read. Raises DataError as it does."""
    return _existing(path, _status)


def find_named(root: str, name: str, spelling: Spelling, path: str = "") -> tuple[str, os.stat_result]:
    """Return the path and the status of the file that `read_named` reads. Raises DataError as it does."""
    return _of_named(root, name, spelling, path, _status)


def image_file(path: str, status: os.stat_result, captions: tuple[str, ...], key: str) -> ImageFile:
    """Return the `ImageFile` for a path, which may be relative to the working folder."""
    if ".." in path.split("/"):  # the parent of a linked folder is not the folder before it in the path
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return ImageFile(os.path.abspath(path), status.st_size, status.st_mtime_ns, captions, key)


def _existing(path: str, take: Callable[[str], T]) -> T:
    """Return what `take` returns for a file. Raises DataError as `read_image` does."""
    try:
        return _tried(path, take)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("The image file does not exist", got=path) from None


def _of_named(root: str, name: str, spelling: Spelling, path: str, take: Callable[[str], T]) -> T:
    """Return what `take` returns for a file, found as `read_named` finds it."""
    path = path or os.path.join(root, name)
    try:
        return _tried(path, take)
    except (FileNotFoundError, NotADirectoryError):
        found = spelling.find(root, name)
    except DataError:
        # A folder may have this name, and the image beside it the same name with an ending.
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
        cause=f"A file of over {FILE_BYTES // 1_000_000:,} MB may be an attack on memory, or no picture at all",
        fix="Store the picture smaller",
    )


def _bytes(path: str) -> bytes:
    return read_whole(path, FILE_BYTES)


def _status(path: str) -> tuple[str, os.stat_result]:
    # Opening raises what reading would raise: for a missing permission, or a pipe.
    descriptor, _ = open_descriptor(path)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if status.st_size > FILE_BYTES:
        raise OSError(errno.EFBIG, "It is too large", path)
    return path, status


def warn_outside(name: str, root: str, path: str) -> None:
    """Warn on stderr, once per process, that the source `name` takes pictures from outside of its folder `root`.

    For sources that do not know the paths of all records when they are opened; other sources report it in their `note`.
    """
    base = os.path.abspath(root) if root else ""
    outside = not base or not os.path.normpath(os.path.join(base, path)).startswith(base.rstrip("/") + "/")
    if outside and name not in _said:
        _said.add(name)
        line = f"{name} takes pictures from outside of its folder, such as {path}: check that you want them copied"
        print(printable(line), file=sys.stderr, flush=True)


def reason_of(error: Exception) -> str:
    """Return why the system does not open a file, without the file's name, which the message has elsewhere."""
    return getattr(error, "strerror", None) or str(error)


def _how_spelled(found: list[Found | None]) -> list[str]:
    """Return sentences on how the names of files differ from the names looked for."""
    counts = Counter(how for each in found if each for how in each.how)
    return [f"{count:,} of {len(found):,} image names looked at {how}" for how, count in counts.items()]
