"""A batch from a position: a function of the sources, the settings and the position alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slip.config import VIEWS, ViewConfig, ViewsConfig
from slip.data.decode import decode
from slip.data.order import Order, Stream, Streams, parts_of
from slip.data.record import Record, Skipped, Source
from slip.data.tokenizer import Tokenizer
from slip.data.views import UNCHANGED, Parameter, crop, draw, smallest_crop
from slip.errors import DataError

Early = Callable[[Tensor, Tensor], Tensor]
"""Takes views (N, 3, S, S) uint8 and their parameters (N, P), and returns what the parameters make of the views."""
ATTEMPTS = 20
"""Other records tried in place of one that cannot be used."""


@dataclass(frozen=True)
class _Sample:
    """A record ready for its views."""

    index: int
    key: str
    image: np.ndarray
    caption: str


class Lane:
    """One stream of records, and the views made of each.

    Usually there is one lane, whose records give the captions and all views. With self-supervision on pictures of
    their own there are two, which advance side by side.
    """

    def __init__(
        self,
        source: Source,
        configs: Mapping[str, ViewConfig],
        size: int,
        seed: int,
        *,
        captioned: bool,
        decoder: str = "auto",
        order: Stream = Stream.ORDER,
        replacement: Stream = Stream.REPLACEMENT,
    ) -> None:
        self.source, self.configs, self.captioned = source, dict(configs), captioned
        self.size, self.decoder = size, decoder
        self.order = Order(parts_of(source), seed, order)
        self.replacement = replacement
        # Large pictures are decoded at a fraction of their size where no crop would need more.
        self.min_side = math.ceil(size / min(map(smallest_crop, configs.values()), default=1.0))
        self._streams = Streams(seed)

    def stream(self, epoch: int, index: int, view: str) -> np.random.Generator:
        """Return the generator of a view of record `index`; good until the next call."""
        return self._streams.at(epoch, index, Stream[view.upper()])

    def sample(self, position: int, skipped: list[Skipped]) -> tuple[int, _Sample]:
        """Return (epoch, the record at `position`), or add it to `skipped` and return another one in its place."""
        epoch, index = self.order.locate(position)
        sample = self._read(epoch, index)
        if isinstance(sample, _Sample):
            return epoch, sample
        skipped.append(sample)
        # Drawn at once: reading a caption moves the shared generator to another stream.
        drawn = self._streams.at(epoch, index, self.replacement).integers(len(self.source), size=ATTEMPTS)
        for other in drawn.tolist():
            sample = self._read(epoch, other)
            if isinstance(sample, _Sample):
                return epoch, sample
        raise DataError(
            f"Record {index} of '{self.source.name}' and {ATTEMPTS} others drawn in its place cannot be used",
            cause=f"The last one, '{sample.key}': {sample.reason}",
            fix="Check that the source, data.image_root and the columns are right"
            + ("; an objective without text, such as simclr, needs no captions" if self.captioned else ""),
        )

    def _read(self, epoch: int, index: int) -> _Sample | Skipped:
        origin, own = getattr(self.source, "origin", lambda index: (self.source, index))(index)
        key, source = f"#{own}", origin.name
        try:
            record = self.source[index]
            key, source = record.key, record.source
            caption = self._caption(record, epoch, index) if self.captioned else ""
            return _Sample(index, key, decode(record.image, self.min_side, self.decoder), caption)
        except DataError as error:
            return Skipped(index, key, source, str(error))

    def _caption(self, record: Record, epoch: int, index: int) -> str:
        captions = [caption for caption in record.captions if caption.strip()]
        if not captions:
            raise DataError("The record has no caption")
        if len(captions) == 1:
            return captions[0]
        return captions[int(self._streams.at(epoch, index, Stream.CAPTION).integers(len(captions)))]


class Builder:
    """Builds the batch that starts at a position of the run's stream, or one process's rows of it.

    source, ssl: where the records come from; without `ssl` the self-supervised views are made of the source's
    pictures too. names: which of VIEWS to make. tokenizer: None loads no captions. batch: rows of the whole batch,
    of which this builds the `rank`-th of `world` equal shares. decoder: see `slip.data.decode`. early: applies the
    parameters to the views right here, which leaves parameters that change nothing.
    """

    def __init__(
        self,
        source: Source,
        ssl: Source | None,
        views: ViewsConfig,
        names: tuple[str, ...],
        tokenizer: Tokenizer | None,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        decoder: str = "auto",
        early: Early | None = None,
    ) -> None:
        self.early = early
        self.size, self.tokenizer, self.batch = views.size, tokenizer, batch
        self.rows = range(rank * batch // world, (rank + 1) * batch // world)
        configs = {name: views.image if name == "image" else views.ssl for name in VIEWS if name in names}
        apart = {name: configs.pop(name) for name in VIEWS[1:] if ssl is not None and name in configs}
        captioned = tokenizer is not None
        self.lanes = [Lane(source, configs, views.size, seed, captioned=captioned, decoder=decoder)]
        if ssl is not None:
            order, replacement = Stream.SSL_ORDER, Stream.SSL_REPLACEMENT
            streams = {"order": order, "replacement": replacement}
            self.lanes.append(Lane(ssl, apart, views.size, seed, captioned=False, decoder=decoder, **streams))

    def build(self, position: int) -> dict[str, Any]:
        """Return the fields of the `Batch` that starts at `position`. Raises DataError when it cannot be filled."""
        names = [name for lane in self.lanes for name in lane.configs]
        shape = (len(self.rows), 3, self.size, self.size)
        views = {name: np.empty(shape, dtype=np.uint8) for name in names}
        parameters = {name: np.empty((len(self.rows), len(Parameter)), dtype=np.float32) for name in names}
        keys, captions, skipped = [], [], []
        for row, offset in enumerate(self.rows):
            for number, lane in enumerate(self.lanes):
                epoch, sample = lane.sample(position + offset, skipped)
                if number == 0:
                    keys.append(sample.key)
                    captions.append(sample.caption)
                height, width = sample.image.shape[:2]
                for name, config in lane.configs.items():
                    stream = lane.stream(epoch, sample.index, name)
                    box, parameters[name][row] = draw(config, height, width, stream)
                    views[name][row] = crop(sample.image, box, self.size)
        stacked, drawn = _tensors(views), _tensors(parameters)
        if self.early is not None:
            with _one_thread():
                stacked = {name: self.early(view, drawn[name]) for name, view in stacked.items()}
            unchanged = torch.tensor(UNCHANGED, dtype=torch.float32)
            drawn = {name: unchanged.repeat(len(self.rows), 1) for name in names}
        return {
            "views": stacked,
            "parameters": drawn,
            "tokens": self.tokenizer(captions) if self.tokenizer else None,
            "keys": keys,
            "skipped": skipped,
            "position": position + self.batch,
            "read": (position + self.batch) * len(self.lanes),
        }


@contextmanager
def _one_thread() -> Iterator[None]:
    """With several, sums are added up in another order: what is built must not depend on who builds it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
