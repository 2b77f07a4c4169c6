"""One row group of a Parquet file: fetched, weighed by its pages, and read only as far as memory allows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openslip.data.containers.pages import Chunk, Weight, chunk_of, weigh
from openslip.data.limits import TABLE_BYTES, Budget
from openslip.data.storage import reading
from openslip.data.storage.reading import Stat
from openslip.data.storage.retry import is_url, shown
from openslip.data.storage.spool import shared
from openslip.errors import DataError

BATCH = 4096
"""Rows that are read together when all rows are read."""
LARGE = 512 << 20
"""Bytes that rows read together may unpack to before their texts are read as dictionaries."""
HOLE, SPAN, FETCHES = 8192, 32 << 20, 8
"""Limits of a fetch, as in pyarrow: bytes between two columns that are fetched with them, bytes of a request that is
joined from several, and requests at once."""
_TEXT_OR_BYTES = re.compile(r"(large_)?(string|binary)(_view)?")


class Opened:
    """A Parquet file of which some columns are read, row group by row group."""

    def __init__(
        self,
        path: str,
        status: Stat | None,
        handle: pq.ParquetFile,
        columns: Sequence[str],
        leaves: list[int],
    ) -> None:
        """`leaves`: the leaves of the schema that the columns consist of."""
        self.path, self.columns, self.handle, self.leaves = path, list(columns), handle, leaves
        self.far = is_url(path)
        status = status or reading.stat(path)
        file = reading.open_file(path, status)
        self.file = shared(file, path, status) if self.far else file
        schema = self.handle.metadata.schema
        self.nested = any(schema.column(leaf).max_repetition_level for leaf in self.leaves)

    def group(self, group: int) -> Group:
        """Return a row group with what it may unpack to; from a remote file it is fetched."""
        metadata = self.handle.metadata
        chunks = [chunk_of(metadata, group, leaf) for leaf in self.leaves]
        source = _fetched(self.file, chunks) if self.far else None
        weight = weigh(source.read if source else self._part, chunks)
        return Group(self, group, source, weight)

    @cached_property
    def with_dictionaries(self) -> pq.ParquetFile:
        return self.anew(self.path, True)

    def anew(self, source: Any, dictionaries: bool) -> pq.ParquetFile:
        """Open the file again at `source`; with all texts and bytes in dictionaries if that is wanted."""
        metadata = self.handle.metadata
        schemas = [metadata.schema.column(leaf) for leaf in self.leaves]
        paths = [schema.path for schema in schemas if schema.physical_type == "BYTE_ARRAY"]
        return pq.ParquetFile(
            source,
            metadata=metadata,
            read_dictionary=paths if dictionaries else None,
            pre_buffer=False,
            page_checksum_verification=True,
        )

    def _part(self, offset: int, size: int) -> bytes:
        return self.file.read(offset, max(0, min(size, self.file.size - offset)))


@dataclass
class Group:
    """A row group that is about to be read."""

    opened: Opened
    group: int
    source: _Fetched | None
    weight: Weight

    def read(self) -> pa.Table:
        """Return the whole row group, with texts in dictionaries if it could be too large without them.

        Raises DataError if it unpacks to more than TABLE_BYTES.
        """
        budget = Budget(f"Row group {self.group} of {shown(self.opened.path)}", memory=TABLE_BYTES)
        budget.draw(memory=self.weight.sure)
        if self.weight.most <= TABLE_BYTES:
            return self._table(self._handle())
        if not self.weight.delta:
            table = self._table(self._handle(dictionaries=True))
            budget.draw(memory=sum(map(decoded, table.to_batches())))
            return table
        batches = []
        for batch in self.batches():
            budget.draw(memory=decoded(batch))
            batches.append(batch)
        return pa.Table.from_batches(batches)

    def batches(self, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Yield its rows, at most `rows` at once, fewer where they could be too large."""
        dictionaries = False
        if self.weight.most > LARGE:
            rows = max(1, min(rows, LARGE // max(1, self.weight.value)))
            dictionaries = self.opened.nested and not self.weight.delta  # a row may have any number of values
            if self.opened.nested and self.weight.delta and self.weight.most > TABLE_BYTES:
                raise DataError(
                    f"Row group {self.group} of {shown(self.opened.path)} may unpack to any size",
                    cause="It holds lists of texts that are written as differences, DELTA_BYTE_ARRAY",
                    fix="Write the file anew with another encoding, or in smaller row groups",
                )
        yield from self._handle(dictionaries).iter_batches(
            rows, row_groups=[self.group], columns=self.opened.columns, use_threads=False
        )

    def _table(self, handle: pq.ParquetFile) -> pa.Table:
        return handle.read_row_group(self.group, columns=self.opened.columns, use_threads=False)

    def _handle(self, dictionaries: bool = False) -> pq.ParquetFile:
        """Return the file to read it from, with all texts and bytes in dictionaries if that is wanted."""
        if self.source is not None:
            return self.opened.anew(reading.Stream(self.source), dictionaries)
        return self.opened.with_dictionaries if dictionaries else self.opened.handle


def decoded(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch, its dictionaries written out."""
    return sum(_decoded(array) for array in batch.columns)


def _decoded(array: Any) -> int:
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not _TEXT_OR_BYTES.fullmatch(str(kind.value_type)):
            return len(array) * 16
        lengths = pc.call_function("binary_length", [array.dictionary]).cast(pa.int64())
        return (pc.call_function("sum", [lengths.take(array.indices)]).as_py() or 0) + 4 * len(array)
    if pa.types.is_struct(kind):
        return sum(map(_decoded, array.flatten()))
    if hasattr(array, "flatten") and pa.types.is_nested(kind):
        return _decoded(array.flatten()) + 4 * len(array)
    return array.nbytes


class _Fetched:
    """A remote file with the parts that are needed in memory."""

    path = ""

    def __init__(self, size: int, parts: list[tuple[int, bytes]]) -> None:
        self.size, self._parts = size, parts

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from an offset on; fewer where what was fetched ends."""
        for start, data in self._parts:
            if start <= offset < start + len(data):
                return data[offset - start : offset - start + size]
        return b""


def _fetched(file: reading.File, chunks: Sequence[Chunk]) -> _Fetched:
    """Fetch column chunks, neighbours at once, several at a time."""
    spans: list[list[int]] = []
    for start, end in sorted((c.start, min(c.start + c.size, file.size)) for c in chunks):
        if spans and start - spans[-1][1] <= HOLE and end - spans[-1][0] <= SPAN:
            spans[-1][1] = max(end, spans[-1][1])
        elif end > start:
            spans.append([start, end])
    if len(spans) < 2:
        return _Fetched(file.size, [(start, file.read(start, end - start)) for start, end in spans])
    with ThreadPoolExecutor(min(len(spans), FETCHES)) as pool:
        parts = list(pool.map(lambda span: file.read(span[0], span[1] - span[0]), spans))
    return _Fetched(file.size, [(start, data) for (start, _), data in zip(spans, parts)])
