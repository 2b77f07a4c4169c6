"""A source without some of its records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np

from slip.data.record import Record, Source
from slip.errors import DataError


class Subset:
    """The records of `source` but those at `left_out`, in their order. Memory: 8 bytes a record.

    `fingerprint` is another for other records left out.
    Raises DataError when one of them is not there, or none would be left.
    """

    def __init__(self, source: Source, left_out: Collection[int]) -> None:
        self.source, self.name = source, source.name
        self.block: int = getattr(source, "block", 1)
        keep = np.ones(len(source), dtype=bool)
        for index in left_out:
            if not 0 <= index < len(source):
                raise DataError(
                    f"There is no record {index} to leave out of {source.name}",
                    got=f"{len(source):,} records",
                    cause="The list was made of another source",
                )
            keep[index] = False
        self.fingerprint = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=8).hexdigest()
        self._indices = np.flatnonzero(keep)
        if not len(self):
            raise DataError(f"No record of {source.name} is left", got=f"{len(left_out):,} left out")

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return record `index` of those that are left. Raises what the source raises, IndexError beyond the end."""
        return self.source[int(self._indices[index])]


class LabelledSubset(Subset):
    """A `Subset` of a source that knows its records' classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return getattr(self.source, "class_names", ())

    def label(self, index: int) -> int:
        source: Any = self.source
        return source.label(int(self._indices[index]))


def without(source: Source, left_out: Collection[int]) -> Subset:
    """Return a source without some of its records, with labels if it has them. Raises DataError as `Subset` does."""
    return (LabelledSubset if hasattr(source, "label") else Subset)(source, left_out)
