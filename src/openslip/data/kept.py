"""What the data must know if outputs of models that do not change are kept: when views repeat, and the records.

The outputs of such models are computed once, for some epochs of views (`openslip.training.kept_features`). After these
epochs the views repeat. So a batch names rows of kept outputs, and views that nothing else needs are not drawn.
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
    """The keys, captions and classes of a source's records, in memory that processes share; and the unusable records.

    Only texts that are captions count (`openslip.data.captions.is_caption`). Records with equal captions, such as
    records of a class, share them. Captions are numbered in the order of the first records that have them.
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
        """Return the number, among all captions, of caption `number` of record `index`."""
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
    """The kept outputs. A batch names rows of these outputs, in place of what they are computed from.

    epochs: after how many epochs the kept views repeat. views: views with kept outputs; `openslip.needs.TEXT` for
    captions, with one kept output each. repeated: the same views, without TEXT, and the views that show the same.
    undrawn: views from which only kept outputs are computed. records: each source's records, by the option that names
    the source, once a pass has gone through them.
    """

    epochs: int = 0
    views: frozenset[str] = frozenset()
    repeated: frozenset[str] = frozenset()
    undrawn: frozenset[str] = frozenset()
    records: Mapping[str, Records] = field(default_factory=dict)


class InTurn(Order):
    """The order of a pass over all records: the stored order, again and again."""

    def locate(self, position: int) -> tuple[int, int]:
        return divmod(position, self.records)

    def since_block(self, position: int) -> int:
        _, index = self.locate(position)
        return index - self.block_of(index).start
