"""Captioned images in Parquet files: stored in the rows, as data hubs do, or named by their paths."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openslip.data.containers.row_groups import CACHE_BYTES, RowGroups, holds, open_file
from openslip.data.contents import Contents
from openslip.data.limits import TABLE_BYTES
from openslip.data.record import Record, Source
from openslip.data.sources.arrow import choose_typed, first_cells, make_record
from openslip.data.sources.cells import path_of, refuse_urls
from openslip.data.sources.columns import Columns
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.other_columns import OtherColumns
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError

MAX_BLOCK = 1000
"""The most records of local files that are read together; see `ParquetTable`."""
LARGE_GROUP = 256 * 2**20
"""A row group of more than this many bytes is worth a remark."""

_REWRITE = "smaller row groups: pyarrow.parquet.write_table(table, path, row_group_size=500)"


def open_parquet(
    paths: str | Path | Sequence[str | Path],
    *,
    name: str = "",
    image_root: str = "",
    image_column: str = "",
    caption_column: str = "",
    captions_required: bool = True,
) -> ParquetTable | ParquetPaths:
    """Open one or several Parquet files of one kind, local paths or URLs, as one source; sorted by path.

    Columns that are not named are guessed by type and name (see `arrow.choose_typed`), as the source's `note`
    reports. `captions_required=False` opens files without captions. `name`: the source's name; default: the first
    path. `image_root`: the folder that paths in the files are relative to; default: the first file's folder.

    Raises DataError when a file cannot be read or lacks a column that the first one has, when no column can be
    guessed, when there are no rows, and for row groups too large for memory.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise DataError("No Parquet file is given")
    files = sorted(_absolute(str(path)) for path in given)
    schema = open_file(files[0]).schema_arrow
    columns = choose_typed(
        schema,
        shown(files[0]),
        image_column=image_column,
        caption_column=caption_column,
        captions_required=captions_required,
        look=first_cells(files[0]),
        far=is_url(files[0]),
    )
    embedded = holds(schema.field(schema.names.index(columns.image)).type) == "image"
    root = os.path.expanduser(image_root) or ("" if is_url(files[0]) else os.path.dirname(files[0]))
    return (ParquetTable if embedded else ParquetPaths)(
        files, columns, name=shown(name or str(given[0])), root=root
    )


class ParquetTable(Source):
    """Images in the rows of Parquet files, with random access: to read a record, its row group is read.

    Row groups are read one at a time, only the columns needed, and the latest are kept, up to CACHE_BYTES. pyarrow
    reads them whole, so each process needs memory for the largest: above LARGE_GROUP `note` says so, above TABLE_BYTES
    it is an error. `block` is how many neighbouring records should be read together, in any order:
    - 1 if everything fits in the cache;
    - else the rows of the median row group;
    - but for local files at most MAX_BLOCK. A larger row group is read again for each of its blocks, which the
      system's file cache makes bearable; larger blocks would put neighbours into the same batch. From a URL
      everything would be fetched again.
    Blocks start at multiples of `block` and row groups need not, so a block may touch two row groups. The latest two
    are kept, so that a block's records can be read in any order; but not above LARGE_GROUP (`as_they_lie`).

    A record's key is file:row. A row with a path and no image bytes is read from the file at that path, relative to
    `root`, "" if there is no such folder. `file` does not report such a file, because that would read the pictures.
    """

    _other: OtherColumns | None = None
    options = ("image_root", "image_column", "caption_column")

    def __init__(self, files: Sequence[str], columns: Columns, *, name: str, root: str = "") -> None:
        self.name, self.chosen, self.root = name, columns, root
        self._rows = rows = RowGroups(files, (columns.image, *columns.captions))
        self.contents = Contents("rows", len(rows))
        if not len(rows):
            raise DataError("The Parquet files hold no rows", got=name)
        self.block, self.as_they_lie, remark = how_to_read(rows, name, far=any(map(is_url, files)))
        self.note = ". ".join(filter(None, [columns.note(name), remark]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when it cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        key = self._rows.key(index)
        return make_record(self._rows[index], self.chosen, key=key, name=self.name, root=self.root)

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the other columns of these rows, with their types; columns that hold bytes are left out.

        The other columns of each row group that holds one of these rows are read whole.
        """
        if self._other is None:
            self._other = OtherColumns(self._rows, (self.chosen.image, *self.chosen.captions))
        return self._other.rows(indices)

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        return self._other.note if self._other else ""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_other": None}


class ParquetPaths(ImageFiles):
    """Image files that Parquet files name, with captions: all paths and captions are kept in memory.

    Rows with the same path are one record with several captions. Rows without a path are left out, and `contents`
    counts them. Paths are relative to `root`; "", for no such folder, is an error.
    """

    contents: Contents  # type: ignore[override]  # never None
    _other: tuple[OtherColumns, np.ndarray | None] | None = None
    options = ("image_root", "image_column", "caption_column")

    def __init__(self, files: Sequence[str], columns: Columns, *, name: str, root: str = "") -> None:
        self.chosen, self._files = columns, files
        rows = RowGroups(files, (columns.image, *columns.captions))
        self.contents = Contents("rows", len(rows))
        super().__init__(name, Path(root), self._entries(rows), merge=True)
        self.note = ". ".join(filter(None, [columns.note(name), self.merged]))
        if not len(self):
            what = f"Not one row of the Parquet files names an image in column '{columns.image}'"
            raise DataError(what if len(rows) else "The Parquet files hold no rows", got=name)
        if not root:
            raise DataError(
                f"Column '{columns.image}' of {name} holds paths, which are relative to no folder of this machine",
                got=self._paths[0],
                fix="Give the folder that the paths are relative to with --data.image-root",
            )
        self.probe(
            "Give the folder that the paths are relative to with --data.image-root",
            table=files[0] if root == os.path.dirname(files[0]) else "",
        )

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the other columns of these records as `ParquetTable.columns` does, from the first row of each.

        Unless each row is a record, the first call reads the image column once more.
        """
        if self._other is None:
            rows = RowGroups(self._files, (self.chosen.image,))
            used = (self.chosen.image, *self.chosen.captions)
            firsts = self._first_rows(rows) if len(rows) != len(self) else None
            self._other = OtherColumns(rows, used), firsts
        other, firsts = self._other
        return other.rows(indices if firsts is None else firsts[np.asarray(indices, np.int64)].tolist())

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        if self._other is None:
            return ""
        several = (
            f"Where several rows of {self.name} name one picture, the columns of the first row are taken"
        )
        return ". ".join(filter(None, [several if self.merged else "", self._other[0].note]))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_other": None}

    def _first_rows(self, rows: RowGroups) -> np.ndarray:
        """Return the row of each record, the first of several."""
        named = ((found, row) for row, (path,) in enumerate(rows.scan()) if (found := path_of(path)))
        firsts = array("q")
        for record, _, row in self._by_record(named):
            if record == len(firsts):
                firsts.append(row)
        return np.frombuffer(firsts, np.int64)

    def _entries(self, rows: RowGroups) -> Iterator[tuple[str, tuple[str, ...]]]:
        for number, (path, *captions) in enumerate(rows.scan()):
            if number < 100:
                refuse_urls([path_of(path)], self.chosen.image, self.name)
            if found := path_of(path):
                yield found, self.chosen.texts(captions)
            else:
                self.contents.leave_out("the row names no image", f"row {number:,}")


def how_to_read(rows: RowGroups, name: str, *, far: bool) -> tuple[int, bool, str]:
    """Return the block of rows to read together, whether to read them in their order (see `ParquetTable`), a remark.

    Sets how many row groups are kept whatever their size. The remark may be "". Raises DataError for row groups that
    are too large for memory.
    """
    if rows.largest > TABLE_BYTES:
        raise DataError(
            f"The Parquet files have row groups of up to {_size(rows.largest)}",
            got=name,
            cause=f"Every loader process holds a row group in memory, and at most {_size(TABLE_BYTES)} are allowed",
            fix=f"Rewrite the files with {_REWRITE}",
        )
    block = 1 if rows.total <= CACHE_BYTES else rows.usual if far else min(rows.usual, MAX_BLOCK)
    large = rows.largest > LARGE_GROUP
    rows.kept.least = 1 if large else 2
    remark = f"Every loader process holds a row group of {name} in memory, up to {_size(rows.largest)}"
    return block, large, f"{remark}; rewrite the files with {_REWRITE}" if large else ""


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
