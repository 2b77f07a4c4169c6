"""What data have to know where the outputs of models that do not change are kept: when views repeat, and the records.

The outputs of such models are computed once, for some epochs of views (`openslip.training.kept_features`). After these
epochs the views repeat. So a batch names rows of what is kept, and views that nothing else needs are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from openslip.data.order import Order
from openslip.data.record import Skipped
from openslip.data.storage.shared_array import SharedArray

Known = Skipped | tuple[str, tuple[str, ...], int]
"""What a pass over the records learns of one: why it cannot be used, or its key, its captions and its class (or -1)."""


class Records:
    """The keys, captions and classes of a source's records, in memory that processes share; and which cannot be used.

    The captions are those that something is left of (`openslip.data.captions.is_caption`). Records of equal captions,
    as those of a class may be, share them. Captions are numbered in the order of the records that have them first.
    """

    def __init__(self, known: Iterable[Known]) -> None:
        self.unusable: dict[int, Skipped] = {}
        keys, labels, lists, first_rows = [], [], [], [0]
        numbers: dict[tuple[str, ...], int] = {}
        for index, record in enumerate(known):
            if isinstance(record, Skipped):
                self.unusable[index] = record
            key, captions, label = (record.key, (), -1) if isinstance(record, Skipped) else record
            keys.append(key)
            labels.append(label)
            if captions not in numbers:
                numbers[captions] = len(numbers)
                first_rows.append(first_rows[-1] + len(captions))
            lists.append(numbers[captions])
        self._keys = _Texts(keys)
        self._captions = _Texts(caption for captions in numbers for caption in captions)
        self._labels, self._lists, self._first_rows = (
            SharedArray(np.array(column, np.int64)) for column in (labels, lists, first_rows)
        )

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[str, tuple[str, ...], int]:
        """Return the key, the captions and the class of record `index`."""
        rows = self._rows(index)
        return self._keys[index], tuple(map(self._captions.__getitem__, rows)), int(self._labels.array[index])

    def caption_row(self, index: int, number: int) -> int:
        """Return the number among all captions that caption `number` of record `index` has."""
        return self._rows(index).start + number

    def every_caption(self) -> list[str]:
        """Return all captions, by their numbers."""
        return [self._captions[row] for row in range(len(self._captions))]

    def _rows(self, index: int) -> range:
        number = self._lists.array[index]
        return range(*self._first_rows.array[number : number + 2].tolist())


class _Texts:
    """Many texts as one, in memory that processes share."""

    def __init__(self, texts: Iterable[str]) -> None:
        joined, ends = bytearray(), [0]
        for text in texts:
            joined += text.encode("utf-8", "surrogatepass")
            ends.append(len(joined))
        self._bytes = SharedArray(np.frombuffer(bytes(joined), np.uint8))
        self._ends = SharedArray(np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, stop = self._ends.array[index : index + 2].tolist()
        return self._bytes.array[start:stop].tobytes().decode("utf-8", "surrogatepass")


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

    def locate(self, position: int) -> tuple[int, int]:
        return divmod(position, self.records)

    def since_block(self, position: int) -> int:
        _, index = self.locate(position)
        return index - self.block_of(index).start
