"""A source without some of its records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.contents import Contents
from openslip.data.record import ImageFile, Part, Record, Records, Source, as_source
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class HeldOut:
    """What is held out of a source to measure on: `records` of `total`, in `groups`, where `share` was asked for.

    digest: tells which records these are. notes: further sentences for people. by: what the records of a group share.
    """

    share: float
    records: int
    groups: int
    total: int
    digest: str
    notes: tuple[str, ...] = ()
    by: str = "captions or pictures"

    def summary(self) -> str:
        """Return the share in words, with a line for each note."""
        reached = _percent(self.records / self.total)
        head = (
            f"{_percent(self.share)} of train held out: {self.records:,} of {self.total:,} records ({reached}), "
            f"{self.groups:,} groups (equal {self.by} stay together)"
        )
        return "\n".join([head, *self.notes])


class Subset(Source):
    """The records of `source` except those at `left_out`, in their order. Takes 8 bytes of memory a record, which the
    processes of a run share.

    `parts` are those of the source: each keeps its weight and its blocks, with fewer records. `fingerprint` depends on
    the records left out. held_out: what was held out of the source to measure on, if this is one of the two sides.
    Raises DataError if a record to leave out does not exist, or if none would be left.
    """

    def __init__(
        self, source: Records, left_out: Collection[int] | np.ndarray, held_out: HeldOut | None = None
    ) -> None:
        self.source = source = as_source(source)
        self.name, self.held_out = source.name, held_out
        self.block, self.note = source.block, source.note
        self.options, self.class_names = source.options, source.class_names
        self.captions_name_classes = source.captions_name_classes
        keep = np.ones(len(source), dtype=bool)
        indices = left_out if isinstance(left_out, np.ndarray) else np.array([*left_out], np.int64)
        for index in indices[(indices < 0) | (indices >= len(source))][:1]:
            raise DataError(
                f"There is no record {index} to leave out of {source.name}",
                got=f"{len(source):,} records",
                cause="The list was made for another source",
            )
        keep[indices] = False
        self.fingerprint = hashlib.blake2b(np.packbits(keep).tobytes(), digest_size=8).hexdigest()
        self._indices = SharedArray(np.flatnonzero(keep))
        if not len(self):
            raise DataError(f"No record of {source.name} is left", got=f"{len(left_out):,} left out")
        self._parts = tuple(_parts(source, self._indices.array))

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return record `index` of those that are left. Raises what the source raises, IndexError beyond the end."""
        return self.source[self.whole_index(index)]

    def whole_index(self, index: int) -> int:
        """Return which record of the whole source record `index` is. Raises IndexError beyond the end."""
        return int(self._indices.array[index])

    def origin(self, index: int) -> tuple[Source, int]:
        """Return the source that record `index` comes from, and its index there."""
        return self.source.origin(self.whole_index(index))

    def label(self, index: int) -> int | None:
        return self.source.label(self.whole_index(index))

    def file(self, index: int) -> ImageFile | None:
        return self.source.file(self.whole_index(index))

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        return self.source.columns(list(map(self.whole_index, indices)))

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        return self.source.columns_note

    def contents_by_name(self) -> list[tuple[str, Contents]]:
        return self.source.contents_by_name()


def _parts(source: Source, indices: np.ndarray) -> Iterator[Part]:
    """Yield the parts of a source with only the records at `indices`, without the parts that have none."""
    first = 0
    for part in source.parts:
        here = indices[slice(*np.searchsorted(indices, [first, first + part.length]))] - first
        first += part.length
        if not len(here):
            continue
        share = max(1, round(part.share * len(here) / part.length))
        ends = part.ends
        if len(here) < part.length and part.block > 1:
            ends = ends_of_blocks(
                here // part.block if ends is None else np.searchsorted(ends, here, side="right")
            )
        yield replace(part, length=len(here), share=share, ends=ends)


def ends_of_blocks(blocks: np.ndarray) -> np.ndarray:
    """Return where each block ends, given the block of each record, (N,) increasing (see `Part.ends`)."""
    return np.append(np.flatnonzero(np.diff(blocks)) + 1, len(blocks))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
