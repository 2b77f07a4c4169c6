"""The most that the columns of a Parquet row group unpack to, by the headers of their pages.

The footer's sizes are a promise that nobody checks, and a dictionary makes a value of 20 MB out of every few bits. The
pages decide what pyarrow allocates: each unpacks to what its header says, and a value is no longer than its page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Read = Callable[[int, int], bytes]
"""Returns so many bytes of a file, from an offset on; fewer at its end."""

_HEAD = 512
"""Bytes read of a page's header at first."""
_LONGEST = 16 << 20
"""Bytes of the longest header that is read."""
_LEVELS = 16
"""Bytes that each value takes beside itself: levels, validity, offset."""
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_HEADER_OF = {_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}
_IN_DICTIONARY, _DELTA_BYTES = (2, 8), 7
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@dataclass(frozen=True)
class Chunk:
    """A column of a row group: where it lies, how many values it has, the bytes of each (0: they are of any length)."""

    start: int
    size: int
    values: int
    width: int


@dataclass(frozen=True)
class Weight:
    """What chunks unpack to.

    sure: bytes that they do unpack to. most: bytes that they may unpack to, with values of dictionaries written out.
    value: bytes of the longest possible value. delta: whether values may be written by their difference from others.
    """

    sure: int = 0
    most: int = 0
    value: int = 0
    delta: bool = False

    def __add__(self, other: Weight) -> Weight:
        return Weight(
            self.sure + other.sure,
            self.most + other.most,
            max(self.value, other.value),
            self.delta or other.delta,
        )


def chunk_of(metadata: Any, group: int, leaf: int) -> Chunk:
    """Return where a column of a row group lies. Raises ValueError if the footer states a negative size."""
    column, schema = metadata.row_group(group).column(leaf), metadata.schema.column(leaf)
    start, size = column.data_page_offset, column.total_compressed_size
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start:
        start = column.dictionary_page_offset
    if start < 0 or size < 0 or column.num_values < 0:
        raise ValueError("the footer has a negative size")
    kind = schema.physical_type
    width = schema.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(kind, 0)
    return Chunk(start, size, column.num_values, width)


def weigh(read: Read, chunks: Sequence[Chunk]) -> Weight:
    """Return what column chunks unpack to together. Raises ValueError when their pages are not what they should be."""
    return sum((_weigh(read, chunk) for chunk in chunks), Weight())


def _weigh(read: Read, chunk: Chunk) -> Weight:
    at, end, seen = chunk.start, chunk.start + chunk.size, 0
    sure = spread = longest = dictionary = 0
    delta = False
    while at < end and seen < chunk.values:
        header, length = _header(read, at, end)
        kind, unpacked, packed = (header.get(field) for field in (1, 2, 3))
        if not (isinstance(kind, int) and isinstance(unpacked, int) and isinstance(packed, int)):
            raise ValueError("a page has no sizes")
        inner = header.get(_HEADER_OF.get(kind, 0), {})
        values = inner.get(1, 0) if isinstance(inner, dict) else 0
        if min(unpacked, packed, values) < 0:
            raise ValueError("a page has a negative size")
        at += length + packed
        sure, longest = sure + unpacked, max(longest, unpacked)
        if kind == _DICTIONARY:
            dictionary = unpacked
        elif kind in (_DATA, _DATA_2):
            encoding = inner.get(2 if kind == _DATA else 4)
            seen += values
            if chunk.width:
                spread += values * chunk.width
            elif encoding in _IN_DICTIONARY:
                spread += values * dictionary
            elif encoding == _DELTA_BYTES:
                delta, longest = True, sure
                spread += values * sure
    if seen < chunk.values:
        raise ValueError("its pages hold fewer values than the footer says")
    sure += _LEVELS * seen
    return Weight(sure, sure + spread, max(longest, chunk.width), delta)


def _header(read: Read, at: int, end: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at an offset, and its length."""
    size = min(_HEAD, end - at)
    while True:
        data = read(at, size)
        try:
            return _fields(data, 0, 0)
        except IndexError:
            if size >= min(_LONGEST, end - at):
                raise ValueError("a page's header is damaged") from None
            size = min(size * 8, _LONGEST, end - at)


def _fields(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct of Thrift's compact protocol, numbers and structs alone, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        value, at = _value(data, at, kind, depth)
        fields[number] = value
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return None, at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError
        return None, at + size
    if kind == 12 and depth < 4:
        return _fields(data, at, depth + 1)
    raise ValueError("a page's header is damaged")  # lists and maps are in none


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a page's header is damaged")
