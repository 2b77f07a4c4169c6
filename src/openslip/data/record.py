"""What a source is, what it yields, and what a batch of the loader holds."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from openslip.data.contents import Contents
    from openslip.data.kept import Known
    from openslip.data.subset import HeldOut


@dataclass(frozen=True)
class Record:
    """One image with its captions, as stored.

    `image` is the encoded file (JPEG, PNG, …) or, from a source that renders, an RGB array of shape
    (height, width, 3), uint8. `captions` may be empty or hold empty strings; `key` names the record for people.
    """

    image: bytes | np.ndarray
    captions: tuple[str, ...]
    key: str
    source: str


@dataclass(frozen=True)
class ImageFile:
    """The file of a record's picture, and all of the record but the picture.

    path: absolute, as it is read. size: bytes. changed: when it was last written, st_mtime_ns, nanoseconds since 1970.
    captions, key: those of the record.
    """

    path: str
    size: int
    changed: int
    captions: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Part:
    """A stretch of a source's records, with an order of its own.

    length: how many records it has. share: how many positions it gets in an epoch of the whole source; its length
    unless a mixture weighs it. block: how many records stay together, because they are best read together. Every epoch
    shuffles the blocks, and the records within each block. as_they_lie: whether records keep their order within a
    block, because shuffling them would cost reading. ends: where each block ends, increasing, if blocks have lost some
    of their records (see `openslip.data.subset`); None: each has `block` records, and the last what is left over.
    """

    length: int
    share: int
    block: int = 1
    as_they_lie: bool = False
    ends: np.ndarray | None = field(default=None, compare=False, repr=False)


class Source(ABC):
    """Captioned images with random access. Picklable, so that each loader process can have a copy.

    A source has a name, a length and records. All else has a default.
    """

    name: str
    block: int = 1
    """How many neighbouring records are best read one after the other; 1: any order is as good."""
    as_they_lie: bool = False
    """Whether the records of a block are read in their stored order."""
    note: str = ""
    """What was guessed on opening, for people."""
    contents: Contents | None = None
    """What the source holds, and which of it became no record."""
    beside: Contents | None = None
    """The same for the files beside those of the source."""
    options: tuple[str, ...] = ()
    """Names of the data options that the source uses, such as `caption_column`."""
    held_out: HeldOut | None = None
    """What was held out to measure on, if the source is one of the two sides."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; `label` returns an index into them."""
    captions_name_classes: bool = False
    """Whether captions tell only the class, so that the captions of a class fit all pictures of the class."""
    columns_note: str = ""
    """What `columns` leaves out or chooses among, for people; complete once `columns` was called for all records."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Return record `index`; raise DataError when this one cannot be read (the caller skips and counts it)."""
        ...

    def label(self, index: int) -> int | None:
        """Return the class of record `index`, an index into `class_names`; None where the source knows of none."""
        return None

    def file(self, index: int) -> ImageFile | None:
        """Return the file of the picture of record `index`, without reading the picture.

        None if the picture has no file of its own on this machine: it is in a tar, in Parquet, at a URL, or rendered.
        Raises DataError if `source[index]` could not read the record's file or captions.
        """
        return None

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return what the source has of these records beside image and captions, in the order of `indices`.

        Returns a table with a row for each record, or None if the source has no such columns. Types are those of the
        data, or inferred from the cells; what cannot be read is null. Meant for some thousand increasing indices at a
        time. Types may differ between calls (see `openslip.data.own_columns.unify`). No picture is read. The first call
        in each process reads what the answers need.
        Raises DataError if the data have changed since they were opened, or are gone.
        """
        return None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stretches of the source that have an order of their own: several for a mixture, else the whole source."""
        return (Part(len(self), len(self), self.block, self.as_they_lie),)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the sources that the parts come from, one for each of `parts`."""
        firsts = itertools.accumulate((part.length for part in self.parts[:-1]), initial=0)
        return tuple(self.origin(first)[0].name for first in firsts)

    @property
    def epoch_length(self) -> int:
        """How many positions an epoch of the source has: its records, unless it is a mixture with weights."""
        return sum(part.share for part in self.parts)

    def origin(self, index: int) -> tuple[Source, int]:
        """Return the source that record `index` comes from, and its index there; a mixture has its records from others.

        Raises IndexError beyond the end where records come from other sources.
        """
        return self, index

    def whole_index(self, index: int) -> int:
        """Return the index that record `index` has in the whole source, before records were left out."""
        return index

    def contents_by_name(self) -> list[tuple[str, Contents]]:
        """Return the source's contents with its name: for a mixture those of each source, for a subset of the whole."""
        return [(self.name, found) for found in (self.contents, self.beside) if found is not None]


class Records(Protocol):
    """What a source of a user's own class must have. `Foreign` takes what else of `Source` the class has."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class Foreign(Source):
    """A source of a user's own class: with a `name`, a length and records, and perhaps more of `Source`.

    All of `Source` that the user's class has is used. Pickles as the user's source does.
    """

    def __init__(self, source: Any) -> None:
        self.source, self.name = source, source.name
        for name in (
            "block",
            "as_they_lie",
            "note",
            "contents",
            "beside",
            "options",
            "held_out",
            "class_names",
            "captions_name_classes",
        ):
            setattr(self, name, getattr(source, name, getattr(Source, name)))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return self.source[index]

    def label(self, index: int) -> int | None:
        return self.source.label(index) if hasattr(self.source, "label") else None

    def file(self, index: int) -> ImageFile | None:
        return self.source.file(index) if callable(getattr(self.source, "file", None)) else None

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        return self.source.columns(indices) if callable(getattr(self.source, "columns", None)) else None

    @property
    def columns_note(self) -> str:  # type: ignore[override]
        return getattr(self.source, "columns_note", "")

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(getattr(self.source, "parts", ())) or super().parts

    def origin(self, index: int) -> tuple[Source, int]:
        return self.source.origin(index) if hasattr(self.source, "origin") else (self, index)

    def whole_index(self, index: int) -> int:
        return self.source.whole_index(index) if hasattr(self.source, "whole_index") else index


def as_source(source: Records) -> Source:
    """Return a source as one of our class: itself, or wrapped (`Foreign`). For where programs hand sources in."""
    return source if isinstance(source, Source) else Foreign(source)


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used, and why."""

    index: int
    key: str
    source: str
    reason: str


def reasons(skipped: Iterable[Skipped], most: int = 5) -> list[str]:
    """Return in words how often which reason came, the most frequent first, a line each."""
    counts = Counter(entry.reason.split(". ")[0].rstrip(".") for entry in skipped)
    lines = [f"{count:,} × {reason}" for reason, count in counts.most_common(most)]
    return [*lines, f"and {len(counts) - most} other reasons"] if len(counts) > most else lines


@dataclass
class Tally:
    """What became of the records of one source of a run; read = used + skipped.

    read: records that the order gave. used: those that could be used. skipped: those that could not.
    stood_in: this source's records that replaced skipped ones (of this source or another of the mixture), beside their
    own rows. failed: records that were tried as stand-ins and could not be used either.
    """

    read: int = 0
    used: int = 0
    skipped: int = 0
    stood_in: int = 0
    failed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: count + getattr(other, name) for name, count in vars(self).items()})


@dataclass
class Batch:
    """N records as the device needs them.

    views: view name → (N, 3, size, size) uint8, cropped and resized to the size of the view, colours untouched.
    Scheduled views may have fewer rows, or be absent (see `openslip.data.schedule`).
    parameters: view name → (as many rows, P) float32, the augmentations drawn for each (see `openslip.data.augment`).
    tokens: (N, length of the longest caption) int64, zero-padded, or None without captions. With several captions of
    each record they are its second dimension: (N, captions, length of the longest).
    keys: the N records' keys. skipped: the records that others stand in for.
    labels: (N,) int64 classes, -1 of a record without one, or None where no objective needs them.
    records: (N,) int64, the records' indices in the whole source. A replaced record has the index of its stand-in.
    position: samples of the run consumed once this batch is done.
    tallies: what became of the records of this batch (or of this process's share): a `Tally` for each of the `parts`
    of the source, then for each part of the source of the self-supervised views.
    rows: view name → (as many rows,) int64, for views whose outputs are kept (`openslip.data.kept`): the rows of these
    outputs. own_records: in a pass over all records, what is known of each record.
    """

    views: dict[str, Tensor]
    parameters: dict[str, Tensor]
    tokens: Tensor | None
    keys: Sequence[str]
    position: int
    skipped: list[Skipped] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    labels: Tensor | None = None
    records: Tensor | None = None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    own_records: list[Known] = field(default_factory=list)
