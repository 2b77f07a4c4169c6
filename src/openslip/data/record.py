"""What a source is, what it yields, and what a batch of the loader holds."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """Where a record's picture lies as a file of its own, and all of the record but the picture.

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

    length: its records. share: the positions that it gets in an epoch of the whole; as many as its records unless a
    mixture weighs it. block: records that stay together, because they are read best so; the blocks are shuffled, and
    the records of each among themselves, anew every epoch. as_they_lie: they are not, because it would cost reading.
    ends: where each block ends, increasing, of a part whose blocks have lost some of their records (see
    `openslip.data.subset`); None: each has `block`, the last what is left over.
    """

    length: int
    share: int
    block: int = 1
    as_they_lie: bool = False
    ends: np.ndarray | None = field(default=None, compare=False, repr=False)


class Source(ABC):
    """Captioned images with random access. Picklable, so that loader processes can have their own.

    A source says what it is called, how many records it has, and what each of them is. All else has a default.
    """

    name: str
    block: int = 1
    """How many records lie together and are read best in a row; 1: any order is as good."""
    as_they_lie: bool = False
    """Whether a block is to be read in the order in which its records lie."""
    note: str = ""
    """What was guessed on opening, for people."""
    contents: Contents | None = None
    """What lies in the source, and what of it became no record."""
    beside: Contents | None = None
    """The same of the files that lie beside those of the source."""
    options: tuple[str, ...] = ()
    """Names of the options for data that the source heeds, such as `caption_column`."""
    held_out: HeldOut | None = None
    """What was held out to measure on, where the source is one side of that."""
    class_names: tuple[str, ...] = ()
    """Names of the classes that `label` counts."""
    captions_name_classes: bool = False
    """Whether captions say no more than the class, so that those of a class fit all its pictures."""
    columns_note: str = ""
    """What `columns` leaves out or chooses among, for people; whole once `columns` was called for all records."""

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
        """Return where the picture of record `index` lies as a file of its own, without reading the picture.

        None where it is no file of its own on this machine: it lies in a tar, in Parquet, at a URL, or is rendered.
        Raises DataError where the record names a file that `source[index]` could not read, or whose captions it could
        not.
        """
        return None

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return what the source has of these records beside image and captions, in the order of `indices`.

        A table with a row for each record; None where the source has no such columns. Types are those of the data, or
        are told by the cells; what cannot be read is null. Meant for some thousand increasing indices at a time, of
        which types may differ (see `openslip.data.own_columns.unify`). No picture is read. What it takes to answer is
        read at the first call, in each process anew.
        Raises DataError where the data have changed since they were opened, or are gone.
        """
        return None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stretches of the source that have an order of their own: a mixture has several, else it is all of it."""
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
        """Return which record of the whole source record `index` is, where others have been left out of it."""
        return index

    def contents_by_name(self) -> list[tuple[str, Contents]]:
        """Return what lies in the source, with its name; of a mixture each of its sources, of a subset the whole."""
        return [(self.name, found) for found in (self.contents, self.beside) if found is not None]


class Foreign(Source):
    """A source of a program's own, of another class: with a `name`, a length and records, and perhaps more.

    What else of `Source` it has is taken over. Pickles as the program's source does.
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


def as_source(source: Any) -> Source:
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

    read: records that the order gave. used: those of them that could be. skipped: those that could not.
    stood_in: records used in place of skipped ones, of this source or of another of its mixture, beside their own
    rows. failed: records tried for that which could not be used either.
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

    views: view name → (N, 3, size, size) uint8, cropped and resized to the size of the view, colours untouched. Those
    that are scheduled may be of fewer rows, or absent (see `openslip.data.schedule`).
    parameters: view name → (as many rows, P) float32, the augmentations drawn for each (see `openslip.data.augment`).
    tokens: (N, length of the longest caption) int64, zero-padded, or None without captions. With several captions of
    each record they are its second dimension: (N, captions, length of the longest).
    keys: the N records' keys. skipped: the records that others stand in for.
    labels: (N,) int64 classes, -1 of a record without one, or None where no objective needs them.
    records: (N,) int64, which records of the source these are, counted through all of it. Of a record that another
    stands in for, it is the other.
    position: samples of the run consumed once this batch is done.
    tallies: what became of this batch's (or this process's share of) records, a `Tally` for each of the `parts` of
    the source, then for each of the source of the self-supervised views.
    rows: view name → (as many rows,) int64, of views of which outputs are kept (`openslip.data.kept`): where these
    stand. own_records: of a pass over all records, what each of them is.
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
