"""What data have to know where the outputs of models that do not change are kept: when views repeat, and the records.

The outputs of such models are computed once, for some epochs of views (`openslip.training.kept`). After these epochs
the views repeat. So a batch names rows of what is kept, and views that nothing else needs are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from openslip.data.order import Order
from openslip.data.record import Part, Skipped
from openslip.data.storage.shared_array import SharedArray

Known = Skipped | tuple[str, tuple[str, ...], int]
"""What a pass over the records learns of one: why it cannot be used, or its key, its captions and its class (or -1)."""


class Records:
    """The keys, captions and classes of a source's records, in memory that processes share; and which cannot be used.

    The captions are those that something is left of (`openslip.data.captions.is_caption`). They are numbered through
    all records, in the records' order.
    """

    def __init__(self, known: Iterable[Known]) -> None:
        self.unusable: dict[int, Skipped] = {}
        text, ends, firsts, labels = bytearray(), [0], [0], []
        for index, record in enumerate(known):
            if isinstance(record, Skipped):
                self.unusable[index] = record
            key, captions, label = (record.key, (), -1) if isinstance(record, Skipped) else record
            labels.append(label)
            for part in (key, *captions):
                text += part.encode("utf-8", "surrogatepass")
                ends.append(len(text))
            firsts.append(len(ends) - 1)
        self._text = SharedArray(np.frombuffer(bytes(text), np.uint8))
        self._ends = SharedArray(np.array(ends, np.int64))
        self._firsts = SharedArray(np.array(firsts, np.int64))
        self._labels = SharedArray(np.array(labels, np.int64))

    def __len__(self) -> int:
        return len(self._firsts) - 1

    @property
    def captions(self) -> int:
        """How many captions there are."""
        return len(self._ends) - 1 - len(self)

    def __getitem__(self, index: int) -> tuple[str, tuple[str, ...], int]:
        """Return the key, the captions and the class of record `index`."""
        first, last = self._firsts.array[index : index + 2].tolist()
        key, *captions = (self._part(number) for number in range(first, last))
        return key, tuple(captions), int(self._labels.array[index])

    def caption_row(self, index: int, number: int) -> int:
        """Return the number among all captions that caption `number` of record `index` has."""
        return int(self._firsts.array[index]) - index + number  # each record before it has one key

    def every_caption(self) -> list[str]:
        """Return all captions, by their numbers."""
        return [caption for index in range(len(self)) for caption in self[index][1]]

    def _part(self, number: int) -> str:
        start, stop = self._ends.array[number : number + 2].tolist()
        return self._text.array[start:stop].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Kept:
    """Which outputs a batch names rows of, in place of what they are computed from.

    epochs: after how many the kept views repeat. views: those of whose outputs some are kept; `openslip.needs.TEXT` for
    captions, whose outputs are kept once each. repeated: the same views, without TEXT, and those that show the same.
    undrawn: what nothing but kept outputs is computed from. records: of each source by the option that names it what
    its records are, once they have been gone through.
    """

    epochs: int = 0
    views: frozenset[str] = frozenset()
    repeated: frozenset[str] = frozenset()
    undrawn: frozenset[str] = frozenset()
    records: Mapping[str, Records] = field(default_factory=dict)


class InTurn(Order):
    """The order of a pass over all records: as they lie, again and again."""

    def __init__(self, parts: tuple[Part, ...], seed: int) -> None:
        super().__init__(parts, seed)

    def locate(self, position: int) -> tuple[int, int]:
        return divmod(position, self.records)

    def since_block(self, position: int) -> int:
        _, index = self.locate(position)
        return index - self.block_of(index).start
