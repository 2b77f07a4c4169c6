"""A source without some of its records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openslip.data.order import Part, origin, parts_of
from openslip.data.record import Record, Source
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    """What is held out of a source to measure on: `records` of `total`, in `groups`, where `share` was asked for.

    digest: of which records these are. notes: what else there is to say.
    """

    share: float
    records: int
    groups: int
    total: int
    digest: str
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """Return it in words, a line for each note."""
        reached = _percent(self.records / self.total)
        head = (
            f"{_percent(self.share)} of train held out: {self.records:,} of {self.total:,} records ({reached}), "
            f"{self.groups:,} groups (equal captions or pictures stay together)"
        )
        return "\n".join([head, *self.notes])


class Subset:
    """The records of `source` but those at `left_out`, in their order. Memory: 8 bytes a record, which the processes
    of a run share.

    `parts` are those of the source: each keeps its weight, and its blocks, of which fewer records are left.
    `fingerprint` is another for other records left out. held_out: what was held out of the source to measure on, if
    this is one side of that.
    Raises DataError when one of them is not there, or none would be left.
    """

    def __init__(
        self, source: Source, left_out: Collection[int] | np.ndarray, held_out: HeldOut | None = None
    ) -> None:
        self.source, self.name, self.held_out = source, source.name, held_out
        self.block: int = getattr(source, "block", 1)
        keep = np.ones(len(source), dtype=bool)
        indices = left_out if isinstance(left_out, np.ndarray) else np.array([*left_out], np.int64)
        for index in indices[(indices < 0) | (indices >= len(source))][:1]:
            raise DataError(
                f"There is no record {index} to leave out of {source.name}",
                got=f"{len(source):,} records",
                cause="The list was made of another source",
            )
        keep[indices] = False
        self.fingerprint = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=8).hexdigest()
        self._indices = SharedArray(np.flatnonzero(keep))
        if not len(self):
            raise DataError(f"No record of {source.name} is left", got=f"{len(left_out):,} left out")
        self.parts = tuple(_parts(source, self._indices.array))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return record `index` of those that are left. Raises what the source raises, IndexError beyond the end."""
        return self.source[self.whole_index(index)]

    def whole_index(self, index: int) -> int:
        """Return which record of the whole source record `index` is. Raises IndexError beyond the end."""
        return int(self._indices.array[index])

    def origin(self, index: int) -> tuple[Any, int]:
        """Return the source that record `index` comes from, and its index there."""
        return origin(self.source, self.whole_index(index))

    @property
    def note(self) -> str:
        return getattr(self.source, "note", "")


class LabelledSubset(Subset):
    """A `Subset` of a source that knows its records' classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return getattr(self.source, "class_names", ())

    def label(self, index: int) -> int:
        source: Any = self.source
        return source.label(self.whole_index(index))


def without(source: Source, left_out: Collection[int]) -> Subset:
    """Return a source without some of its records, with labels if it has them. Raises DataError as `Subset` does."""
    return (LabelledSubset if hasattr(source, "label") else Subset)(source, left_out)


def _parts(source: Source, indices: np.ndarray) -> Iterator[Part]:
    """Yield what is left of the parts of a source where only the records at `indices` are, those that have any."""
    first = 0
    for part in parts_of(source):
        here = indices[slice(*np.searchsorted(indices, [first, first + part.length]))] - first
        first += part.length
        if not len(here):
            continue
        share = max(1, round(part.share * len(here) / part.length))
        ends = part.ends
        if len(here) < part.length and part.block > 1:
            blocks = here // part.block if ends is None else np.searchsorted(ends, here, side="right")
            ends = np.append(np.flatnonzero(np.diff(blocks)) + 1, len(here))
        yield replace(part, length=len(here), share=share, ends=ends)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
