"""Arrays, texts, cells and structs in MAT-files of level 5, MATLAB's format before HDF5.

The format is described in "MAT-File Format" by The MathWorks, chapter 1. Objects, function handles and sparse arrays
are not read. What is unpacked is bounded, and nothing of a file is executed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from openslip.data.limits import TABLE_BYTES, Budget
from openslip.errors import DataError
from openslip.files import read_whole

_HEAD = 128
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How numbers of a data type are stored."""
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32", 1: "latin-1", 2: "latin-1"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""What MATLAB has in an array: numbers are often stored in a smaller type."""
_ARRAY = 400
"""Bytes that an array, or a struct, takes at least when it is read. In the file it may take 8 or none."""
_DEEP = 16
"""How deep cells and structs may be nested."""


def read_mat(path: str | Path, *names: str) -> dict[str, Any]:
    """Return the variables called `names` of a MAT-file, by name.

    Arrays of numbers have MATLAB's shape of two axes or more, with the first axis running fastest in memory. They are
    not copied if they are stored in their own type. A text is a str. A cell array is a list of its elements, the first
    axis running fastest. A struct array is a list of dicts by field.

    Raises DataError for a file that cannot be read, is of another version, or lacks a variable.
    """
    try:
        data = memoryview(read_whole(path, TABLE_BYTES))
    except (OSError, ValueError) as error:
        raise DataError("The MAT-file cannot be read", got=str(path), cause=str(error)) from None
    if bytes(data[:4]) == b"\x89HDF" or b"MATLAB 7.3" in bytes(data[:116]):
        raise DataError(
            "The MAT-file is of version 7.3",
            got=str(path),
            fix="Write it again in MATLAB with save(…, '-v7'), or in Python with scipy.io.savemat.",
        )
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None:
        raise DataError("The file is not a MAT-file of level 5", got=str(path))
    try:
        found = _Reader(order, Budget("The MAT-file", str(path), memory=TABLE_BYTES)).variables(
            data[_HEAD:], names
        )
    except DataError:
        raise
    except Exception as error:  # whatever hostile bytes make of it
        raise DataError(
            "The MAT-file is damaged",
            got=str(path),
            cause=f"{type(error).__name__}: {error}",
            fix="If it was cut off, fetch it again.",
        ) from None
    if lacking := [name for name in names if name not in found]:
        raise DataError(f"The MAT-file has no variable {lacking[0]!r}", got=str(path))
    return found


class _Reader:
    """order: of bytes. budget: what unpacking may take."""

    def __init__(self, order: str, budget: Budget) -> None:
        self.order, self.budget = order, budget

    def variables(self, data: memoryview, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the variables called `names` that a file without its head has."""
        found: dict[str, Any] = {}
        for kind, content in self.elements(data):
            if kind == _COMPRESSED:
                kind, content = next(self.elements(self.unpacked(content)))
            if kind == _MATRIX:
                name, value = self.matrix(content, names)
                if name in names:
                    found[name] = value
        return found

    def unpacked(self, data: memoryview) -> memoryview:
        """Return an element decompressed, at most as large as the budget allows."""
        unpacker = zlib.decompressobj()
        whole = unpacker.decompress(data, self.budget.memory + 1)
        self.budget.draw(memory=len(whole))
        return memoryview(whole)

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield the data type and content of each element."""
        position = 0
        while position + 8 <= len(data):
            first, length = np.frombuffer(data[position : position + 8], f"{self.order}u4").tolist()
            if first >> 16:  # a small element: its content stands in the tag
                yield first & 0xFFFF, data[position + 4 : position + 4 + min(4, first >> 16)]
                position += 8
                continue
            content = data[position + 8 : position + 8 + length]
            if len(content) < length:
                raise EOFError("it ends within an element")
            yield first, content
            position += 8 + length + (0 if first == _COMPRESSED else -length % 8)

    def matrix(
        self, data: memoryview, names: tuple[str, ...] | None = None, deep: int = 0
    ) -> tuple[str, Any]:
        """Return the name and the value of an array. names: those wanted; the value of others is None."""
        if deep > _DEEP:
            raise ValueError(f"arrays are nested more than {_DEEP} deep")
        if not len(data):
            return "", np.zeros((0, 0))
        parts = self.elements(data)
        flags = int(self.numbers(*next(parts))[0])
        shape = tuple(self.numbers(*next(parts)).tolist())
        name = bytes(next(parts)[1]).decode("latin-1")
        kind, count = flags & 0xFF, prod(shape)
        if names is not None and name not in names:
            return name, None
        if min(shape) < 0 or count > TABLE_BYTES:
            raise ValueError(f"an array of {shape}")
        if kind in _CLASSES:
            return name, self.array(*next(parts), shape, _CLASSES[kind])
        if kind == _CHAR:
            return name, self.text(*next(parts), shape) if count else ""
        if kind == _CELL:
            return name, self.inner(parts, count, deep)
        if kind == _STRUCT:
            length = int(self.numbers(*next(parts))[0])
            packed = bytes(next(parts)[1])
            fields = [
                packed[i : i + length].partition(b"\0")[0].decode("latin-1")
                for i in range(0, len(packed), length)
            ]
            values = self.inner(parts, count * len(fields), deep)
            self.budget.draw(memory=_ARRAY * count)
            step = len(fields)
            return name, [dict(zip(fields, values[i * step : (i + 1) * step])) for i in range(count)]
        raise ValueError(f"{name!r} is an array of MATLAB's class {kind}, which is not read")

    def inner(self, parts: Iterator[tuple[int, memoryview]], count: int, deep: int) -> list[Any]:
        """Return the arrays in a cell or struct array."""
        values = []
        for kind, content in parts:
            self.budget.draw(memory=_ARRAY)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} where an array belongs")
            values.append(self.matrix(content, None, deep + 1)[1])
        if len(values) != count:
            raise ValueError(f"{len(values):,} of {count:,} arrays")
        return values

    def numbers(self, kind: int, content: memoryview) -> np.ndarray:
        """Return the numbers of an element, (N,), as they are stored."""
        return np.frombuffer(content, f"{self.order}{_NUMBERS[kind]}")

    def array(self, kind: int, content: memoryview, shape: tuple[int, ...], wanted: str) -> np.ndarray:
        """Return an array of numbers in MATLAB's type."""
        stored = self.numbers(kind, content)
        if stored.dtype != np.dtype(f"{self.order}{wanted}"):
            self.budget.draw(memory=stored.size * np.dtype(wanted).itemsize)
            stored = stored.astype(wanted)
        return stored.reshape(shape, order="F")

    def text(self, kind: int, content: memoryview, shape: tuple[int, ...]) -> str:
        """Return a text of one line; of several lines all of them, with line breaks between."""
        if kind == 4:  # a character each, in two bytes
            text = bytes(content).decode("utf-16-le" if self.order == "<" else "utf-16-be")
        else:
            end = "" if kind in (1, 2, 16) else ("-le" if self.order == "<" else "-be")
            text = bytes(content).decode(_TEXTS[kind] + end)
        if shape[0] < 2:
            return text
        self.budget.draw(memory=_ARRAY * shape[0])
        return "\n".join(text[row :: shape[0]] for row in range(shape[0]))
