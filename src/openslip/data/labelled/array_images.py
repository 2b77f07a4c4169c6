"""Pictures as equally long rows of one file or array, cut out and transposed when they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openslip.data.labelled.labelled_set import Image
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError


@dataclass
class FileRows:
    """N rows of `size` bytes in a file, from byte `start` on, each after `before` other bytes. Mapped, not read.

    Picklable: each process maps the file for itself.
    """

    path: str
    size: int
    start: int = 0
    before: int = 0
    _mapped: np.ndarray | None = None

    def __post_init__(self) -> None:
        length = os.path.getsize(self.path) - self.start
        self.count, rest = divmod(length, self.before + self.size)
        if rest or length <= 0:
            raise DataError(
                "The length of a file of pictures is not a multiple of the length of a picture",
                got=f"{self.path}: {length:,} bytes for pictures of {self.before + self.size:,}",
                fix="If it was cut off, unpack or fetch it again.",
            )

    @property
    def whole(self) -> np.ndarray:
        """The rows with the bytes before each, (N, before + size) uint8."""
        if self._mapped is None:
            shape = (self.count, self.before + self.size)
            self._mapped = np.memmap(self.path, np.uint8, "r", self.start, shape)
        return self._mapped

    @property
    def array(self) -> np.ndarray:
        """The rows, (N, size) uint8."""
        return self.whole[:, self.before :]

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": None}


class MemoryRows:
    """N rows of bytes in memory, (N, size) uint8, which the processes of a run share."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = SharedArray(rows)

    @property
    def array(self) -> np.ndarray:
        """The rows, (N, size) uint8."""
        return self._rows.array

    def __len__(self) -> int:
        return len(self._rows)


class ArrayImages(Sequence[Image]):
    """N pictures in rows of bytes, of parts one after the other, as uint8 (height, width, 3) arrays. Picklable.

    shape: the layout of a row, with the fastest axis last. axes: the axes of height, width and channel in `shape`, the
    last left out for grey pictures. name: of a picture, before its number.
    """

    def __init__(
        self,
        parts: Sequence[FileRows | MemoryRows],
        shape: tuple[int, ...],
        axes: tuple[int, ...],
        name: str,
    ) -> None:
        self.parts, self.shape, self.axes, self.name = parts, shape, axes, name
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        index = range(len(self))[index]
        part = int(np.searchsorted(self._ends, index, side="right"))
        row = self.parts[part].array[index - (int(self._ends[part - 1]) if part else 0)]
        image = np.asarray(row).reshape(self.shape).transpose(self.axes)
        return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))

    def key(self, index: int) -> str:
        """Return the name of a picture."""
        return f"{self.name} #{index}"
