"""Summarise the facts of all records as counts, distributions and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from openslip.data.contents import BROKEN, Contents
from openslip.data.header import Kind
from openslip.data.record import Source
from openslip.data.sources.class_captions import names_classes
from openslip.tools.check.caption_text import SCRIPTS
from openslip.tools.check.facts import (
    CAPTION,
    CODE,
    DAMAGED,
    FINE,
    FORMAT_NAMES,
    MISREAD,
    RECORD,
    UNREADABLE,
    USELESS,
    Facts,
    Trouble,
)
from openslip.tools.check.fingerprints import same
from openslip.tools.check.near import near


@dataclass(frozen=True, eq=False)
class Summary:
    """What was found in a source of `total` records: one row of `records` for each record checked, at `indices` (R,).

    captions: (C,), record after record. keys: all in a row, UTF-8. needs_captions: records without a caption cannot be
    used. contents: by name, the contents of the source, and which became no record. options: the names of the options
    that the source heeds, such as `caption_column`. context: tokens of a caption that a model reads, start and end
    included. of_class: (R,) bool, whether a record's captions only name the class; () for none. Positions are rows of
    `records`; `indices` turns a position into an index.
    """

    name: str
    total: int
    indices: np.ndarray
    records: np.ndarray
    captions: np.ndarray
    keys: bytearray
    troubles: list[Trouble]
    needs_captions: bool = True
    contents: Sequence[tuple[str, Contents]] = ()
    options: frozenset[str] = frozenset()
    context: int = 77
    of_class: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def of(cls, facts: Facts, source: Source, indices: np.ndarray, *, needs_captions: bool) -> Summary:
        """Return the summary of `facts` about a source; the arrays are shared."""
        return cls(
            source.name,
            len(source),
            indices,
            np.frombuffer(facts.records, RECORD),
            np.frombuffer(facts.captions, CAPTION),
            facts.keys,
            facts.troubles,
            needs_captions,
            source.contents_by_name(),
            frozenset(source.options),
            of_class=names_classes(source)[indices] if source.captions_name_classes else np.zeros(0, bool),
        )

    def key(self, position: int) -> str:
        """Return a record's key; `#` and the index if the source could not give the key."""
        end = int(self._key_ends[position])
        return self.keys[end - int(self.records["key"][position]) : end].decode()

    @property
    def checked(self) -> int:
        return len(self.records)

    def count(self, state: int) -> int:
        """Return the number of records in a state of `facts`."""
        return int((self.records["state"] == state).sum())

    def state_of(self, index: int) -> int:
        """Return the state of the record with this index in the source, one of the checked records."""
        return int(self.records["state"][np.searchsorted(self.indices, index)])

    @cached_property
    def fine(self) -> np.ndarray:
        """Whether a record's image can be used, (R,)."""
        return self.records["state"] == FINE

    @cached_property
    def silent(self) -> int:
        """Records that could be read and have no caption."""
        return int(((self.records["captions"] == 0) & (self.records["state"] != UNREADABLE)).sum())

    @cached_property
    def usable(self) -> int:
        """Records that training can use."""
        return int((self.fine & ((self.records["captions"] > 0) | (not self.needs_captions))).sum())

    @property
    def broken(self) -> int:
        """Files of the source that cannot be read and were left out."""
        return sum(found.left_out[BROKEN].count for _, found in self.contents if BROKEN in found.left_out)

    @property
    def unusable_share(self) -> float:
        return 1 - self.usable / max(1, self.checked)

    @property
    def damaged(self) -> int:
        return self.count(DAMAGED)

    @property
    def unreadable(self) -> int:
        return self.count(UNREADABLE)

    def formats(self) -> Counter[str]:
        """Return the number of usable images of each format."""
        counts = np.bincount(self.records["format"][self.fine], minlength=len(FORMAT_NAMES))
        return Counter({name: int(count) for name, count in zip(FORMAT_NAMES, counts) if count})

    def kinds(self) -> dict[Kind, int]:
        """Return the number of usable images of each kind; one image can be of several kinds."""
        kinds = self.records["kinds"][self.fine]
        return {kind: count for kind in Kind if (count := int((kinds & kind > 0).sum()))}

    @property
    def dark(self) -> np.ndarray:
        """Positions of nearly black images of more than 8 bits."""
        return np.flatnonzero(self.fine & (self.records["kinds"] & Kind.DARK > 0))

    @cached_property
    def flat(self) -> np.ndarray:
        """Positions of blank images."""
        return np.flatnonzero(self.fine & self.records["flat"])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Width and height of the usable images, (F, 2)."""
        fine = self.records[self.fine]
        return np.stack([fine["width"], fine["height"]], axis=1)

    def by_size(self) -> np.ndarray:
        """Return the positions of the usable images, fewest pixels first."""
        positions = np.flatnonzero(self.fine)
        return positions[np.argsort(self.sizes.prod(axis=1, dtype=np.uint64), kind="stable")]

    @cached_property
    def twins(self) -> np.ndarray:
        """For each record the position of the first record whose image has the same bytes, which may be itself."""
        positions, firsts = np.flatnonzero(self.fine), np.arange(self.checked)
        if len(positions):
            firsts[positions] = positions[same(self.records["content"][positions])]
        return firsts

    @cached_property
    def recaptioned(self) -> np.ndarray:
        """Whether a record repeats the image bytes of earlier records, with a caption that none of them has, (R,)."""
        copy = self.twins != np.arange(self.checked)
        with_copies = np.isin(self.twins, self.twins[copy])
        rows = np.flatnonzero(with_copies[self._owners])
        owners = self._owners[rows]
        said = np.stack([self.twins[owners].astype(np.uint64), self.captions["text"][rows]])
        _, first = np.unique(said, axis=1, return_index=True)
        new = np.zeros(self.checked, bool)
        new[owners[first]] = True
        return new & copy

    @cached_property
    def redundant(self) -> np.ndarray:
        """Whether a record repeats the image bytes of earlier records, and has no new captions, (R,)."""
        return (self.twins != np.arange(self.checked)) & ~self.recaptioned

    @property
    def lookalikes(self) -> np.ndarray:
        """For each record the position of the kept record that it is a near copy of (see `near`), or its own.

        Blank images are left out. Images with the same bytes are near copies of the same image.
        """
        return self._near[0]

    @property
    def all_compared(self) -> bool:
        """Whether all pairs were compared, so that no near copy is missing: see `near`."""
        return self._near[1]

    @cached_property
    def _near(self) -> tuple[np.ndarray, bool]:
        among = self.fine & ~self.records["flat"] & (self.twins == np.arange(self.checked))
        firsts, complete = near(self.records["look"], np.flatnonzero(among))
        return firsts[self.twins], complete

    @cached_property
    def copies(self) -> int:
        """Images with the same bytes as an earlier one, whatever the captions."""
        return int((self.twins != np.arange(self.checked)).sum())

    @cached_property
    def alike(self) -> np.ndarray:
        """Whether a record's image is a near copy of an earlier one, with bytes that no earlier one has, (R,)."""
        here = np.arange(self.checked)
        return (self.lookalikes != here) & (self.twins == here)

    @cached_property
    def near_copies(self) -> int:
        return int(self.alike.sum())

    def groups(self, firsts: np.ndarray, most: int) -> list[np.ndarray]:
        """Return the positions in the `most` largest groups of `twins` or `lookalikes`, largest first.

        Of lookalikes with the same bytes only the first counts; a group that then has one member is left out.
        """
        chosen = (
            np.arange(self.checked)
            if firsts is self.twins
            else np.flatnonzero(self.twins == np.arange(self.checked))
        )
        sizes = np.bincount(firsts[chosen], minlength=self.checked)
        largest = np.argsort(-sizes, kind="stable")[:most]
        return [chosen[firsts[chosen] == first] for first in largest[sizes[largest] > 1]]

    def scripts(self) -> Counter[str]:
        """Return the number of captions in each script."""
        counts = np.bincount(self.captions["script"], minlength=len(SCRIPTS))
        return Counter({name: int(count) for name, count in zip(SCRIPTS, counts) if count})

    @cached_property
    def over_long(self) -> int:
        """The number of captions with more tokens than a model reads."""
        return int((self.captions["tokens"] > self.context).sum())

    @cached_property
    def useless(self) -> np.ndarray:
        """Positions of records with a caption that says nothing, such as a file name or a number, each once."""
        return np.unique(self._owners[self._flagged(USELESS)])

    @cached_property
    def misread(self) -> int:
        """Captions that were read in a wrong encoding."""
        return int(self._flagged(MISREAD).sum())

    @cached_property
    def code(self) -> int:
        """Captions that are lists, objects or HTML."""
        return int(self._flagged(CODE).sum())

    def _flagged(self, flag: int) -> np.ndarray:
        return (self.captions["flags"] & flag) != 0

    @cached_property
    def repeated(self) -> int:
        """The number of captions that are equal to an earlier one."""
        return len(self.captions) - len(np.unique(self.captions["text"]))

    def most_repeated(self, most: int) -> list[tuple[int, int, int]]:
        """Return (times, position of a record, which of its captions) for the captions that occur most often."""
        _, first, counts = np.unique(self.captions["text"], return_index=True, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:most]
        starts = np.cumsum(self.records["captions"], dtype=np.int64) - self.records["captions"]
        found = []
        for k in largest[counts[largest] > 1]:
            owner = int(self._owners[first[k]])
            found.append((int(counts[k]), owner, int(first[k] - starts[owner])))
        return found

    @cached_property
    def _owners(self) -> np.ndarray:
        """The position of the record that each caption belongs to."""
        return np.repeat(np.arange(self.checked), self.records["captions"])

    @cached_property
    def _key_ends(self) -> np.ndarray:
        return np.cumsum(self.records["key"], dtype=np.int64)
