"""Which record is next, and where its randomness comes from: pure functions of (seed, epoch, record).

The run's data is an endless stream of positions. Position p lies in epoch p // length; each epoch visits every
record once, in an order of its own. Batches may straddle epochs, so no record is dropped or repeated whatever the
batch size.

Everything random comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011): its key is (seed, epoch), and its 256-bit counter starts at (record, stream) · 2^128, so that
no two streams overlap.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np

from slip.errors import ConfigError


class Stream(IntEnum):
    """The purposes that randomness is drawn for; those of the views have the views' names.

    The numbers are part of a run's identity: changing one changes every run. New streams are appended.
    """

    ORDER = 0
    CAPTION = 1
    REPLACEMENT = 2
    IMAGE = 3
    SSL_1 = 4
    SSL_2 = 5


class Streams:
    """The generators of one seed.

    One bit generator is moved from stream to stream, which takes a fifth of the time of making a new one:
    what `at` returns is good until the next call of `at`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = check_seed(seed)
        self._bits = np.random.Philox(key=_words(seed, 0))
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state

    def __reduce__(self) -> tuple:
        return Streams, (self.seed,)

    def at(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        """Return the generator at the start of the stream of record `index` in `epoch`."""
        counter, key = _words(0, 0, index, stream), _words(self.seed, epoch)
        # A fresh state's buffer is used up (buffer_pos 4), so no number of the stream before is left over.
        self._bits.state = self._state | {"state": {"counter": counter, "key": key}}
        return self._generator


def generator(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """Return a generator of its own for one purpose (`Stream`) of record `index` in `epoch`.

    Raises ConfigError when the seed is not in [0, 2^64).
    """
    return Streams(seed).at(epoch, index, stream)


def locate(seed: int, position: int, length: int) -> tuple[int, int]:
    """Return (epoch, index): the epoch that `position` lies in, and which of `length` records it visits.

    A pure function; within an epoch `index` runs through a permutation of range(length).
    Raises ConfigError when the seed is not in [0, 2^64), the position is negative, or there are no records.
    """
    if length < 1:
        raise ConfigError("There are no records to put in order", got=length)
    if position < 0:
        raise ConfigError("A position in the stream of records cannot be negative", got=position)
    epoch, offset = divmod(position, length)
    return epoch, int(_permutation(seed, epoch, length)[offset])


def check_seed(seed: int) -> int:
    """Return the seed; raise ConfigError when it is not in [0, 2^64)."""
    if not 0 <= seed < 2**64:
        raise ConfigError("The seed must be a whole number from 0 to 2**64 - 1", got=seed)
    return seed


@lru_cache(maxsize=2)  # two epochs: the one that ends inside a batch and the one that begins there
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    records = np.arange(length, dtype=np.uint32 if length <= 2**32 else np.int64)
    return generator(seed, epoch, 0, Stream.ORDER).permutation(records)


def _words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)
