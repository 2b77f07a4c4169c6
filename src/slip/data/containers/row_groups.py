"""The reader of Parquet files: random access to rows, on disk or behind URLs.

Parquet is written in row groups, runs of rows whose columns lie together. A row group's column is the least that
pyarrow reads, so a row costs the reading of its row group, and rows that lie together should be read in a row. All
loader processes of a machine are likely to need the same one at about the same time: it is fetched once for all.
"""

from __future__ import annotations

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

from slip.data.storage import files as storage
from slip.data.storage.files import Recent, Stat
from slip.data.storage.retry import is_url, shown
from slip.data.storage.spool import shared
from slip.errors import DataError
from slip.files import check_regular

CACHE_BYTES = 256 * 2**20
"""Decoded row groups that each process keeps, beside the latest one, which is kept however large, or the latest two."""
FAILED_FOR = 300.0
"""Seconds for which a row group that could not be read is not tried again: its other rows fail at once."""
OPEN_FILES = 16
FOOTERS_AT_ONCE = 16


class RowGroups:
    """Some columns of the rows of Parquet files, one row group read at a time, the latest ones kept. Picklable.

    Takes 8 bytes of memory a row group. `usual`: rows in the median row group; `largest` and `total`: bytes of the
    columns, uncompressed, in the largest row group and in all. Raises DataError when a file cannot be read, or
    lacks a column or holds something else in it than the first file.
    """

    def __init__(
        self, files: Sequence[str], columns: Sequence[str], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """`files`: local paths or URLs, whose rows follow each other in this order. Of the row groups, `kept.least`,
        which may be set later, are kept whatever their size, and more as `cache_bytes` allows."""
        self.files, self.columns = tuple(files), tuple(columns)
        self.kept: Recent[pa.Table] = Recent(weight=cache_bytes)
        self._open: Recent[pq.ParquetFile] = Recent(OPEN_FILES)
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
        table, row = self._read(group), index - self._start(group)
        try:
            return tuple(table.column(name)[row].as_py() for name in self.columns)
        except ValueError as error:
            raise DataError(f"Row {self.place(index)} is damaged", cause=str(error)) from None

    def place(self, index: int) -> str:
        """Return where row `index` lies: file:row."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        file = self._file(group)
        return f"{os.path.basename(shown(self.files[file]))}:{index - self._start(int(self._first[file]))}"

    def scan(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of all rows in order, in little memory. Raises DataError when a file cannot be read."""
        for path in self.files:
            try:
                for batch in open_file(path).iter_batches(
                    4096, columns=list(self.columns), use_threads=False
                ):
                    yield from zip(*(batch.column(name).to_pylist() for name in self.columns))
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

        if len(self.files) == 1 or not any(map(is_url, self.files)):
            return list(map(read, self.files))
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            return list(pool.map(read, self.files))

    def _file(self, group: int) -> int:
        return int(np.searchsorted(self._first, group, side="right")) - 1

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _read(self, group: int) -> pa.Table:
        with self._lock:
            return self.kept.get(group, lambda: self._fetch(group), lambda table: table.nbytes)

    def _fetch(self, group: int) -> pa.Table:
        file = self._file(group)
        path, first = self.files[file], int(self._first[file])
        again, reason = self._failed.get(group, (0.0, ""))
        if time.monotonic() < again:
            raise DataError(f"{shown(path)} cannot be read", cause=reason)
        try:
            handle = self._open.get(file, lambda: open_file(path, self._status[file]))
            table = handle.read_row_group(group - first, columns=list(self.columns), use_threads=False)
            if table.num_rows != self._ends[group] - self._start(group):
                raise OSError("a row group has another number of rows than the file says")
        except Exception as error:  # remote file systems have errors of their own
            self._open.drop(file)
            self._failed[group] = time.monotonic() + FAILED_FOR, str(error)
            raise _unreadable(path, error) from None
        self._failed.pop(group, None)
        return table


def open_file(path: str, status: Stat | None = None) -> pq.ParquetFile:
    """Open a Parquet file at a local path or URL, whose large reads the processes of this machine share.

    status: of a file at a URL, from when it was opened before. Without it the server is asked for it, even if it
    failed lately; with it, a file that was given up is left alone. Raises DataError when it cannot be read or is no
    Parquet file.
    """
    try:
        if not is_url(path):
            check_regular(path)
        return pq.ParquetFile(
            _stream(path, status or storage.stat(path)) if is_url(path) else path,
            pre_buffer=is_url(path),
            page_checksum_verification=True,
        )
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


def _stream(url: str, status: Stat) -> storage.Stream:
    return storage.Stream(shared(storage.open_file(url, status), url, status))


def holds(kind: pa.DataType) -> str:
    """Return what a column of this type can hold: "image" (encoded), "text", "texts" (lists), "nothing", or ""."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_bytes(kind):
        return "image"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
        return "image" if _is_bytes(inner) or pa.types.is_null(inner) else ""
    if _is_text(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "texts" if holds(kind.value_type) in ("text", "texts", "nothing") else ""
    return "nothing" if pa.types.is_null(kind) else ""


@dataclass(frozen=True)
class _Footer:
    """What is needed of a file's footer: rows and bytes of its row groups, what each of the columns holds.

    status: which version of the file it is of, for one at a URL.
    """

    rows: list[int]
    sizes: list[int]
    kinds: tuple[str, ...]
    status: Stat | None


def _footer(path: str, columns: Sequence[str]) -> _Footer:
    status = storage.stat(path) if is_url(path) else None
    file = open_file(path, status)
    schema, metadata = file.schema_arrow, file.metadata
    kinds = tuple(
        holds(schema.field(schema.names.index(name)).type) if name in schema.names else "missing"
        for name in columns
    )
    leaves = [
        leaf
        for leaf in range(metadata.num_columns)
        if any((metadata.schema.column(leaf).path + ".").startswith(name + ".") for name in columns)
    ]
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
    return _Footer([group.num_rows for group in groups], sizes, kinds, status)


def _compare(columns: Sequence[str], files: Sequence[str], footers: Sequence[_Footer]) -> None:
    """Raise DataError when a file lacks a column, or when two files hold different things in one."""
    fix = "Files of different kinds are different sources"
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
            raise DataError(f"Column '{name}' of {other} holds something else than that of {one}", fix=fix)


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        f"{shown(path)} cannot be read", cause=str(error) or repr(error), fix="Fetch the file again"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string", "string_view")
