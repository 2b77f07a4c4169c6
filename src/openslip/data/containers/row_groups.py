"""The reader of Parquet files: random access to rows, on disk or behind URLs.

Parquet is written in row groups, runs of rows whose columns lie together. The least that pyarrow reads is a column of a
row group. So a row costs the reading of its row group, and neighbouring rows should be read one after the other. All
loader processes of a machine are likely to need a row group at about the same time: it is fetched once for all.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openslip.data.containers.parquet_group import BATCH, Opened, decoded
from openslip.data.limits import TABLE_BYTES, Budget
from openslip.data.storage import reading
from openslip.data.storage.reading import Recent, Stat
from openslip.data.storage.retry import is_url, shown
from openslip.data.storage.spool import shared
from openslip.errors import DataError
from openslip.files import check_regular

CACHE_BYTES = 256 * 2**20
"""Bytes of decoded row groups that each process keeps; the latest one, or two, are kept however large they are."""
FAILED_FOR = 300.0
"""Seconds for which a row group that could not be read is not tried again: its other rows fail at once."""
OPEN_FILES = 16
FOOTERS_AT_ONCE = 16
GROWTH = 20
"""How many times its size a file may unpack to, beyond TABLE_BYTES, if all of it is read."""
MAX_ROWS = 2**40
"""Rows from which on a footer is taken for damaged."""


class RowGroups:
    """Some columns of the rows of Parquet files, one row group read at a time, the latest ones kept. Picklable.

    Takes 8 bytes of memory a row group. `usual`: rows in the median row group; `largest` and `total`: bytes of the
    columns, uncompressed, in the largest row group and in all. Raises DataError when a file cannot be read, lacks a
    column, or holds something else in a column than the first file does.
    """

    def __init__(
        self, files: Sequence[str], columns: Sequence[str], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """`files`: local paths or URLs, whose rows follow each other in this order. `kept.least` row groups (which may
        be set later) are kept whatever their size, and more as `cache_bytes` allows."""
        self.files, self.columns = tuple(files), tuple(columns)
        self.name = shown(self.files[0]) + (", …" if len(self.files) > 1 else "") if files else ""
        self.kept: Recent[pa.Table] = Recent(weight=cache_bytes)
        self._open: Recent[Opened] = Recent(OPEN_FILES)
        footers = self._footers()
        _compare(self.columns, self.files, footers)
        self._status = [footer.status for footer in footers]
        rows = np.array([n for footer in footers for n in footer.rows], dtype=np.int64)
        sizes = [size for footer in footers for size in footer.sizes]
        self._ends = np.cumsum(rows)
        # File f has the groups first[f] to first[f + 1].
        self._first = np.cumsum([0, *(len(footer.rows) for footer in footers)])
        self.usual = max(1, int(np.median(rows))) if len(rows) else 1
        self.largest, self.total = max(sizes, default=0), sum(sizes)
        self._forget()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return the columns' values in a row, nulls as None. Raises DataError when they cannot be read."""
        index = range(len(self))[index]
        group = int(np.searchsorted(self._ends, index, side="right"))
        table, row = self.read(group), index - self._start(group)
        try:
            return tuple(table.column(name)[row].as_py() for name in self.columns)
        except ValueError as error:
            raise DataError(f"Row {self.key(index)} is damaged", cause=str(error)) from None

    def key(self, index: int) -> str:
        """Return where row `index` lies: file:row."""
        file, row = self.place(index)
        return f"{os.path.basename(shown(self.files[file]))}:{row}"

    def place(self, index: int) -> tuple[int, int]:
        """Return which of the files row `index` lies in, and which row of that file it is."""
        file = self._file(int(np.searchsorted(self._ends, index, side="right")))
        return file, index - self._start(int(self._first[file]))

    def by_group(self, indices: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield these rows in their order, in stretches of one row group: the group, and the rows within it."""
        groups = np.searchsorted(self._ends, np.asarray(indices, np.int64), side="right").tolist()
        for group, members in itertools.groupby(zip(groups, indices), key=lambda one: one[0]):
            start = self._start(group)
            yield group, [index - start for _, index in members]

    def scan(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of all rows in order, in little memory. Raises DataError when a file cannot be read."""
        for batch in self.batches():
            try:
                columns = [batch.column(name).to_pylist() for name in self.columns]
            except ValueError as error:  # text that is no UTF-8
                raise _unreadable(self.name, error) from None
            yield from zip(*columns)

    def first(self, count: int) -> list[tuple[Any, ...]]:
        """Return the values of the first rows, `count` of them or fewer. Raises DataError when they cannot be read."""
        found: list[tuple[Any, ...]] = []
        try:
            for batch in self.batches(count):
                found += zip(*(batch.column(name).to_pylist() for name in self.columns))
                if len(found) >= count:
                    break
        except ValueError as error:  # text that is no UTF-8
            raise _unreadable(self.name, error) from None
        return found[:count]

    def batches(self, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, at most `rows` at once, in little memory; texts may be in dictionaries.

        Raises DataError when a file cannot be read, or unpacks to far more than it takes.
        """
        for number, path in enumerate(self.files):
            try:
                opened = self._opened(number)
                budget = Budget(f"The file {shown(path)}", memory=TABLE_BYTES + GROWTH * opened.file.size)
                for group in range(opened.handle.num_row_groups):
                    for batch in opened.group(group).batches(rows):
                        budget.draw(memory=decoded(batch))
                        yield batch
            except DataError:
                raise
            except Exception as error:  # remote file systems have errors of their own
                raise _unreadable(path, error) from None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_failed", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._failed: dict[int, tuple[float, str]] = {}  # group → (when to try again, the reason)
        self._lock = threading.Lock()  # of the files, which threads cannot read together

    def _footers(self) -> list[_Footer]:
        def read(file: str) -> _Footer:
            return _footer(file, self.columns)

        if any(map(is_url, self.files)):  # the first that fails ends it: the server may be down
            with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
                return list(pool.map(read, self.files))
        footers, failed = [], {}
        for file in self.files:
            try:
                footers.append(read(file))
            except DataError as error:
                failed[file] = error
        if len(failed) > 1:
            raise DataError(
                f"{len(failed)} of {len(self.files)} Parquet files cannot be read",
                got=", ".join(map(os.path.basename, list(failed)[:20])) + (", …" if len(failed) > 20 else ""),
                cause=str(next(iter(failed.values()))),
                fix="Fetch these files again, or name only the others",
            )
        if failed:
            raise next(iter(failed.values()))
        return footers

    def _file(self, group: int) -> int:
        return int(np.searchsorted(self._first, group, side="right")) - 1

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def read(self, group: int) -> pa.Table:
        """Return the columns of a row group, counted through all files. Raises DataError when it cannot be read."""
        with self._lock:
            return self.kept.get(group, lambda: self._fetch(group), lambda table: table.nbytes)

    def _fetch(self, group: int) -> pa.Table:
        file = self._file(group)
        path, first = self.files[file], int(self._first[file])
        again, reason = self._failed.get(group, (0.0, ""))
        if time.monotonic() < again:
            raise DataError(f"{shown(path)} cannot be read", cause=reason)
        try:
            table = self._opened(file).group(group - first).read()
            if table.num_rows != self._ends[group] - self._start(group):
                raise OSError("a row group has another number of rows than the file says")
        except Exception as error:  # remote file systems have errors of their own
            self._open.drop(file)
            self._failed[group] = time.monotonic() + FAILED_FOR, str(error)
            raise error if isinstance(error, DataError) else _unreadable(path, error) from None
        self._failed.pop(group, None)
        return table

    def _opened(self, file: int) -> Opened:
        return self._open.get(file, lambda: self._reopen(file))

    def _reopen(self, file: int) -> Opened:
        path, status = self.files[file], self._status[file]
        handle = open_file(path, status)
        return Opened(path, status, handle, self.columns, _leaves(handle.metadata, self.columns))


def open_file(path: str, status: Stat | None = None) -> pq.ParquetFile:
    """Open a Parquet file at a local path or URL; the processes of this machine share its large reads.

    status: of a file at a URL, from an earlier opening. Without a status the server is asked, even if it failed lately.
    With one, a file that was given up is left alone. Raises DataError when the file cannot be read, is no Parquet file,
    or has columns whose names are no texts.
    """
    try:
        if not is_url(path):
            check_regular(path)  # of a pipe pyarrow would wait for more
        file = pq.ParquetFile(
            _stream(path, status or reading.stat(path)) if is_url(path) else path,
            pre_buffer=is_url(path),
            page_checksum_verification=True,
        )
        str(file.schema_arrow.types), file.schema_arrow.names  # damaged names raise here
        return file
    except FileNotFoundError:
        raise DataError("The Parquet file does not exist", got=path) from None
    except DataError:
        raise
    except Exception as error:  # pyarrow's own are of many kinds
        raise DataError(
            f"{shown(path)} is not a readable Parquet file",
            cause=str(error) or repr(error),
            fix="Fetch it again",
        ) from None


def _stream(url: str, status: Stat) -> reading.Stream:
    return reading.Stream(shared(reading.open_file(url, status), url, status))


def holds(kind: pa.DataType) -> str:
    """Return what a column of this type can hold.

    That is "image" (encoded; also in a struct), "path" (a struct that only names the file), "text", "texts" (lists of
    them, of any kind of list), "nothing" (nulls), or "".
    """
    kind = plain_type(kind)
    if is_bytes(kind):
        return "image"
    if pa.types.is_struct(kind):
        if kind.get_field_index("bytes") >= 0:
            inner = plain_type(kind.field("bytes").type)
            return "image" if is_bytes(inner) or pa.types.is_null(inner) else ""
        names = ("path", "file_name", "filename", "file")
        named = [kind.field(name).type for name in names if kind.get_field_index(name) >= 0]
        return "path" if any(_is_text(plain_type(inner)) for inner in named) else ""
    if _is_text(kind):
        return "text"
    if is_list(kind):
        return "texts" if holds(kind.value_type) in ("text", "texts", "nothing") else ""
    return "nothing" if pa.types.is_null(kind) else ""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, whether they are stored as a dictionary, in runs or as an extension."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or str(kind).startswith("run_end_encoded"):
            kind = kind.value_type
        else:
            return kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's kinds of lists: of any length, of a fixed one, or a view."""
    return hasattr(kind, "value_type") and "list" in str(kind).partition("<")[0]


@dataclass(frozen=True)
class _Footer:
    """What is needed of a file's footer: rows and bytes of its row groups, what each of the columns holds.

    status: the version of the file that the footer is from, for a file at a URL.
    """

    rows: list[int]
    sizes: list[int]
    kinds: tuple[str, ...]
    status: Stat | None


def _footer(path: str, columns: Sequence[str]) -> _Footer:
    status = reading.stat(path) if is_url(path) else None
    file = open_file(path, status)
    try:
        schema, metadata = file.schema_arrow, file.metadata
        twice = [name for name in columns if schema.names.count(name) > 1]
        if twice:
            raise DataError(f"{shown(path)} has two columns that are called {twice[0]!r}")
        kinds = tuple(
            holds(schema.field(schema.names.index(name)).type) if name in schema.names else "missing"
            for name in columns
        )
        leaves = _leaves(metadata, columns)
        _plan(metadata, [name for name in columns if name in schema.names])
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
        rows = [group.num_rows for group in groups]
    except (OSError, ValueError, LookupError, RecursionError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if min(rows, default=0) < 0 or sum(rows) > MAX_ROWS or min(sizes, default=0) < 0:
        raise _unreadable(path, ValueError("its footer has impossible sizes"))
    return _Footer(rows, sizes, kinds, status)


def _leaves(metadata: pq.FileMetaData, columns: Sequence[str]) -> list[int]:
    """Return which leaves of the schema these columns consist of."""
    paths = [metadata.schema.column(leaf).path + "." for leaf in range(metadata.num_columns)]
    return [leaf for leaf, path in enumerate(paths) if any(path.startswith(name + ".") for name in columns)]


def _plan(metadata: pq.FileMetaData, columns: Sequence[str]) -> None:
    """Raise OSError when a footer describes impossible columns.

    pyarrow ends the process when it reads such a column, but raises when it plans to. So pyarrow plans to read all
    columns from a file that gives nothing.
    """
    if not metadata.num_row_groups or not columns:
        return
    try:
        pq.ParquetFile(reading.Stream(_Nothing()), metadata=metadata, pre_buffer=True).read_row_groups(
            list(range(metadata.num_row_groups)), columns=list(columns), use_threads=False
        )
    except OSError as error:
        if _Nothing.SAYS not in str(error):
            raise


class _Nothing:
    """A file of any size from which nothing can be read."""

    SAYS = "the plan is made"
    path, size = "", 2**62

    def read(self, offset: int, size: int) -> bytes:
        raise OSError(self.SAYS)


def _compare(columns: Sequence[str], files: Sequence[str], footers: Sequence[_Footer]) -> None:
    """Raise DataError when a file lacks a column, or when two files hold different things in one."""
    fix = "Name files of different kinds as different sources"
    for column, name in enumerate(columns):
        kinds = [footer.kinds[column] for footer in footers]
        if "missing" in kinds:
            lacking = shown(files[kinds.index("missing")])
            having = next((shown(file) for file, kind in zip(files, kinds) if kind != "missing"), "")
            raise DataError(
                f"{lacking} has no column '{name}'" + (f", which {having} has" if having else ""), fix=fix
            )
        # One text and a list of texts go together, and a column of nulls with anything.
        seen = {kind.removesuffix("s"): file for kind, file in zip(kinds, files) if kind != "nothing"}
        if len(seen) > 1:
            one, other = map(shown, list(seen.values())[:2])
            raise DataError(f"Column '{name}' of {other} holds something else than in {one}", fix=fix)


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        f"{shown(path)} cannot be read", cause=str(error) or repr(error), fix="Fetch the file again"
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes of any length."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string", "string_view")
