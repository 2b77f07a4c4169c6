"""What every source yields, what every loader batch holds: the two shapes of data on the way to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


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


class Source(Protocol):
    """Captioned images with random access. Picklable, so that loader processes can have their own.

    It may have, besides: `block`, how many records lie together and are read best in a row (1: any order is as good);
    `as_they_lie`, whether that should even be the order in which they lie; `note`, what was guessed on opening, for
    people; `contents` and `beside`, what lies there and is no record (see `openslip.data.contents`); `options`, the
    names of those that it heeds; `parts` (see `openslip.data.order`) and `origin`, as a mixture has.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Return record `index`; raise DataError when this one cannot be read (the caller skips and counts it)."""
        ...


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used, and why."""

    index: int
    key: str
    source: str
    reason: str


@dataclass
class Tally:
    """What became of the records of one source of a run; read = used + skipped.

    read: records whose turn it was. used: those of them that could be. skipped: those that could not.
    stood_in: records used in place of skipped ones, of this source or of another of its mixture, beside their own
    turns. failed: records tried for that which could not be used either.
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
    for self-supervision may be of fewer rows, or absent (see `openslip.data.schedule`).
    parameters: view name → (as many rows, P) float32, the augmentations drawn for each (see `openslip.data.augment`).
    tokens: (N, length of the longest caption) int64, zero-padded, or None without captions.
    keys: the N records' keys. skipped: the records that others stand in for.
    position: samples of the run consumed once this batch is done.
    tallies: what became of this batch's (or this process's share of) records, a `Tally` for each part of the source,
    then for each of the source of the self-supervised views (`openslip.data.order.parts_of`).
    """

    views: dict[str, Tensor]
    parameters: dict[str, Tensor]
    tokens: Tensor | None
    keys: Sequence[str]
    position: int
    skipped: list[Skipped] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
