"""Values of Arrow columns that others wrote. Arrow believes what a file says of its buffers: a text that reaches beyond
them is another column's bytes, or ends the process. So each chunk is validated once, before a value of it is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


class Checked:
    """A column with random access, whose chunks are validated when they are first touched."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = column.chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        self._sound: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        """Return a value, nulls as None. Raises ValueError when it, or the chunk that it is in, is damaged."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        chunk = self._chunks[number]
        index -= int(self._ends[number]) - len(chunk)
        if number not in self._sound:
            try:
                chunk.validate(full=True)
                self._sound.add(number)
            except (pa.ArrowException, ValueError):
                chunk = chunk.slice(index, 1)
                chunk.validate(full=True)  # as far as Arrow tells the values of a chunk apart
                index = 0
        return chunk[index].as_py()
