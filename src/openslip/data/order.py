"""Which record comes next, and which random numbers it gets: pure functions of (seed, epoch, record).

The run's data is an endless stream of positions. Position p lies in epoch p // length; each epoch visits every
record once, in an order of its own. Batches may straddle epochs, so no record is dropped or repeated whatever the
batch size. Nothing is kept but a few numbers an epoch, however many records there are.

Everything random comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011): its key is (seed, epoch), and its 256-bit counter starts at (record, stream) · 2^128, so that
no two streams overlap.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np

from openslip.data.record import Part
from openslip.errors import ConfigError

ROUNDS = 12
"""Of the Feistel network that permutes an epoch's records."""
ATTEMPTS = 20
"""Records drawn near, and as many farther away, in place of one that cannot be used."""


class Stream(IntEnum):
    """The purposes that randomness is drawn for; for those of the views see `stream_of`.

    The numbers are part of a run's identity: changing one changes every run. New streams are appended.
    """

    ORDER = 0
    CAPTION = 1
    REPLACEMENT = 2
    IMAGE = 3
    SSL_1 = 4
    SSL_2 = 5
    SSL_ORDER = 6
    SSL_REPLACEMENT = 7
    WORDS = 8


_OF_VIEWS = {"image": Stream.IMAGE, "ssl_1": Stream.SSL_1, "ssl_2": Stream.SSL_2}


@lru_cache
def stream_of(view: str) -> int:
    """Return the stream of a view's randomness, by the view's name.

    Three names have a number in `Stream`. Any other name has a hash of the name, from 2^63 to 2^64 - 1. The hash is the
    same in every run and version, and never a number in `Stream`.
    """
    if view in _OF_VIEWS:
        return _OF_VIEWS[view]
    return int.from_bytes(hashlib.sha256(view.encode()).digest()[:8], "little") | 1 << 63


class Streams:
    """The generators of one seed.

    One bit generator is moved from stream to stream, which takes a fifth of the time of making a new one:
    what `at` returns is good until the next call of `at`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = check_seed(seed)
        self._bits = np.random.Philox(key=_uint64s(seed, 0))
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state

    def __reduce__(self) -> tuple:
        return Streams, (self.seed,)

    def at(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        """Return the generator at the start of the stream of record `index` in `epoch`."""
        counter, key = _uint64s(0, 0, index, stream), _uint64s(self.seed, epoch)
        # A fresh state's buffer is used up (buffer_pos 4), so no number of the stream before is left over.
        self._bits.state = self._state | {"state": {"counter": counter, "key": key}}
        return self._generator


def generator(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """Return a new generator for one purpose (`Stream`) of record `index` in `epoch`.

    Raises ConfigError when the seed is not in [0, 2^64).
    """
    return Streams(seed).at(epoch, index, stream)


class Order:
    """The endless order of a source's records.

    The parts are interleaved as evenly as their shares allow, so every batch has the same mixture. Whatever its share,
    a part goes through its own records again and again, each time in a new order. `locate` returns the number of
    earlier passes through the part as the record's epoch.

    Raises ConfigError when the seed is not in [0, 2^64) or there are no records.
    """

    def __init__(self, parts: Sequence[Part], seed: int, stream: int = Stream.ORDER) -> None:
        self.parts, self.seed, self.stream = tuple(parts), check_seed(seed), int(stream)
        self.length = sum(part.share for part in self.parts)
        self.records = sum(part.length for part in self.parts)
        self._first = list(itertools.accumulate((part.length for part in self.parts), initial=0))
        self._drawn: dict[int, _Drawn] = {}  # by part, of the epoch asked for last
        if any(part.length < 1 or part.share < 1 for part in self.parts) or not self.parts:
            raise ConfigError("There are no records to put in order", got=self.parts)

    def locate(self, position: int) -> tuple[int, int]:
        """Return (epoch, index) of the record at `position`. Raises ConfigError when the position is negative."""
        if position < 0:
            raise ConfigError("A position in the stream of records cannot be negative", got=position)
        number, position = self._part_at(position)
        part = self.parts[number]
        epoch, offset = divmod(position, part.length)
        return epoch, self._first[number] + self._shuffled(offset, epoch, number, part)

    def part_number(self, index: int) -> int:
        """Return which part record `index` is of."""
        return bisect_right(self._first, index) - 1

    def part_of(self, index: int) -> range:
        """Return the records of the part that record `index` is of."""
        number = self.part_number(index)
        return range(self._first[number], self._first[number + 1])

    def block_of(self, index: int) -> range:
        """Return the records of the block that record `index` is in, itself among them."""
        part, block = self.part_of(index), self.parts[self.part_number(index)].block
        ends = self.parts[self.part_number(index)].ends
        if ends is not None:
            return _block(ends, int(np.searchsorted(ends, index - part.start, side="right")), part.start)
        first = index - (index - part.start) % block
        return range(first, min(first + block, part.stop))

    def since_block(self, position: int) -> int:
        """Return how many positions before `position` its block begins, in an order of one part."""
        (part,) = self.parts
        epoch, offset = divmod(position, part.length)
        if part.ends is None:
            return offset % part.block
        ends = self._blocks_of(0, epoch, part.ends).ends
        number = int(np.searchsorted(ends, offset, side="right"))
        return offset - (int(ends[number - 1]) if number else 0)

    def _part_at(self, position: int) -> tuple[int, int]:
        """Return which part gives the record at `position`, and how many records that part has given before.

        Of every `rest` positions the last part takes its share, evenly spread; the parts before it share the others.
        """
        rest = self.length
        for number in range(len(self.parts) - 1, 0, -1):
            share = self.parts[number].share
            before = position * share // rest
            if (position + 1) * share // rest > before:
                return number, before
            position, rest = position - before, rest - share
        return 0, position

    def _shuffled(self, offset: int, epoch: int, number: int, part: Part) -> int:
        """Return which record of a part comes at `offset` of an epoch."""
        keys = _keys(self.seed, epoch, number, self.stream)
        if part.ends is not None:
            return self._shuffled_blocks(offset, epoch, number, part, part.ends)
        if part.block == 1:
            return permute(offset, part.length, keys)
        blocks = part.length // part.block
        block, within = divmod(offset, part.block)
        # What the last whole block leaves over comes last in every epoch.
        size = part.block if block < blocks else part.length - blocks * part.block
        block = permute(block, blocks, keys) if block < blocks else blocks
        if not part.as_they_lie:
            within = permute(within, size, _keys_of_block(*keys, block))
        return block * part.block + within

    def _shuffled_blocks(self, offset: int, epoch: int, number: int, part: Part, ends: np.ndarray) -> int:
        """`_shuffled` for a part with blocks of different sizes: a list of blocks is kept, 16 bytes a block."""
        drawn = self._blocks_of(number, epoch, ends)
        drawn_at = int(np.searchsorted(drawn.ends, offset, side="right"))
        block = int(drawn.blocks[drawn_at])
        records = _block(ends, block)
        within = offset - int(drawn.ends[drawn_at]) + len(records)
        if not part.as_they_lie:
            keys = _keys(self.seed, epoch, number, self.stream)
            within = permute(within, len(records), _keys_of_block(*keys, block))
        return records[within]

    def _blocks_of(self, number: int, epoch: int, ends: np.ndarray) -> _Drawn:
        """Return the order in which the blocks of a part, which end at `ends`, come in an epoch."""
        drawn = self._drawn.get(number)
        if drawn is None or drawn.epoch != epoch:
            keys = _keys(self.seed, epoch, number, self.stream)
            drawn = self._drawn[number] = _Drawn.of(ends, epoch, keys)
        return drawn


@dataclass(frozen=True)
class _Drawn:
    """The order of blocks in an epoch, and where each ends in that order."""

    epoch: int
    blocks: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, ends: np.ndarray, epoch: int, keys: Sequence[int]) -> _Drawn:
        """Draw the order of the blocks that end at `ends`: by a hash of their numbers."""
        numbers = np.arange(len(ends), dtype=np.uint64)
        for key in keys[:2]:
            numbers = _mix(numbers + np.uint64(key))
        blocks = np.argsort(numbers, kind="stable")
        return cls(epoch, blocks, np.cumsum(np.diff(ends, prepend=0)[blocks]))


def _block(ends: np.ndarray, block: int, start: int = 0) -> range:
    """Return the records of a block, counted from `start`."""
    return range(start + (int(ends[block - 1]) if block else 0), start + int(ends[block]))


def stand_ins(order: Order, streams: Streams, epoch: int, index: int, stream: int) -> list[int]:
    """Return the records to try, in turn, in place of record `index`, which cannot be used in this epoch.

    First come records of its own block, which have been fetched with it. Then come records of other blocks of its part,
    so that a mixture keeps its proportions. Last come records of any part, in case a whole source of a mixture fails.
    Each of the three has at most ATTEMPTS records. The other blocks are drawn for the block, not for the record: if a
    whole block cannot be read, records of one other block at the same offsets replace it, and each is fetched once.
    """
    block, part = order.block_of(index), order.part_of(index)
    generator = streams.at(epoch, index, stream)
    near = generator.choice(len(block), min(ATTEMPTS, len(block)), replace=False).tolist()
    anywhere = generator.integers(order.records, size=ATTEMPTS).tolist() if len(order.parts) > 1 else []
    blocks = streams.at(epoch, block.start, stream).integers(len(part), size=ATTEMPTS).tolist()
    others = [order.block_of(part[drawn]) for drawn in blocks]
    far = [other[(index - block.start + number) % len(other)] for number, other in enumerate(others)]
    candidates = (*(block[offset] for offset in near), *far, *anywhere)
    return [candidate for candidate in candidates if candidate != index]


def locate(seed: int, position: int, length: int) -> tuple[int, int]:
    """Return (epoch, index) of `position` among `length` records: `Order.locate` of a source of one part."""
    return Order([Part(length, length)], seed).locate(position)


def permute(value: int, length: int, keys: Sequence[int]) -> int:
    """Return where a permutation of range(length), chosen by `keys`, takes `value`.

    A Feistel network over the next power of two, walked along until it is back in the range (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002): time without memory, where a shuffled table of 100 million
    records would take 400 MB in every loader process.
    """
    bits = max(2, (length - 1).bit_length())
    while True:
        value = _feistel(value, bits, keys)
        if value < length:
            return value


def _feistel(value: int, bits: int, keys: Sequence[int]) -> int:
    """Return where a permutation of range(2 ** bits) takes `value`: its halves are mixed into each other in turn."""
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    high, low = value >> low_bits, value & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            low ^= _mix(high + key) & low_mask
        else:
            high ^= _mix(low + key) & high_mask
    return high << low_bits | low


def _mix(x: Any) -> Any:
    """The finaliser of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014), of an int or
    an array of uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


_MASK = 2**64 - 1


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int, number: int, stream: int) -> list[int]:
    return generator(seed, epoch, number, stream).integers(2**64, size=ROUNDS, dtype=np.uint64).tolist()


@lru_cache(maxsize=64)
def _keys_of_block(*keys_and_block: int) -> list[int]:
    """Return the keys of the permutation inside a block, from those of the blocks' own and its number."""
    *keys, block = keys_and_block
    return [_mix((key + _mix(block + 1)) & _MASK) for key in keys]


def check_seed(seed: int) -> int:
    """Return the seed; raise ConfigError when it is not in [0, 2^64)."""
    if not 0 <= seed < 2**64:
        raise ConfigError("The seed must be a whole number from 0 to 2**64 - 1", got=seed)
    return seed


def _uint64s(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)
