"""Build the batch at a position: it depends on the sources, the settings and the position alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openslip.config import ViewsConfig
from openslip.data.captions import WITHOUT_CAPTIONS, is_caption
from openslip.data.data import Data
from openslip.data.decode import decode
from openslip.data.kept import InTurn, Kept, Known, Records
from openslip.data.order import Order, Stream, Streams, stand_ins, stream_of
from openslip.data.own_tokenizer import OwnTokenizer
from openslip.data.record import Skipped, Source, Tally
from openslip.data.schedule import Schedule
from openslip.data.tokenizer import Tokenizer
from openslip.data.views import UNCHANGED, Parameter, crop, draw, smallest_crop
from openslip.errors import DataError
from openslip.needs import TEXT, View, joined

Early = Callable[[Tensor, Tensor], Tensor]
"""Takes views (N, 3, S, S) uint8 and their parameters (N, P), and returns the views with these parameters applied."""
Allocate = Callable[[int], Tensor]
"""Returns this many bytes of memory, as a tensor (bytes,) uint8."""


def private_memory(size: int) -> Tensor:
    """Return memory that only this process sees (see `Allocate`)."""
    return torch.empty(size, dtype=torch.uint8)


@dataclass(frozen=True)
class _Sample:
    """A record ready for its views, and the (epoch, index) whose streams draw them: the record's own or another's.

    record: the index of the record itself. image: None where no view is drawn. captions: those drawn of the record.
    caption_row: the row of the first caption's kept output. own: what is known of the record that the row belongs to.
    """

    epoch: int
    index: int
    record: int
    key: str
    image: np.ndarray | None
    captions: tuple[str, ...]
    caption_row: int
    label: int
    own: Known


class SampleReader:
    """Reads the records of one source in the run's order, and makes the `views` of each.

    Usually a run has one reader, whose records give the captions and all views. If the self-supervised views have
    images of their own, a run has two readers, which advance side by side. captions: how many to draw of each record;
    with 0 a record needs none. drop_words: the share of the captions' words to leave out. kept: which outputs of the
    views are kept; records: what is known of the source's records, if anything.
    """

    def __init__(
        self,
        source: Source,
        views: tuple[View, ...],
        config: ViewsConfig,
        seed: int,
        *,
        captions: int,
        drop_words: float = 0.0,
        labelled: bool = False,
        decoder: str = "auto",
        order: Stream = Stream.ORDER,
        replacement: Stream = Stream.REPLACEMENT,
        kept: Kept | None = None,
        records: Records | None = None,
    ) -> None:
        self.source, self.labelled, self.decoder = source, labelled, decoder
        self.captions, self.drop_words = captions, drop_words
        self.interpolation = config.interpolation
        self.kept, self.known = kept or Kept(), records
        self.configs = {view.name: config.of(view.kind, view.size) for view in views}
        self.numbers = {view.name: view.like or view.name for view in views}
        self.scheduled = frozenset(view.name for view in views if view.scheduled)
        self.drawn = tuple(view.name for view in views if view.name not in self.kept.undrawn)
        self.repeats = not self.kept.views.isdisjoint(self.configs)
        self.order = Order(source.parts, seed, order)
        self.replacement = replacement
        self._streams = Streams(seed)

    def min_side(self, names: Collection[str]) -> int:
        """Return the short side below which an image would be enlarged for one of these views.

        Larger pictures are decoded at a fraction of their size where no crop would need more.
        """
        configs = [self.configs[name] for name in names]
        return max((math.ceil(config.size / smallest_crop(config)) for config in configs), default=1)

    def view(self, image: np.ndarray, epoch: int, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a view of record `index`, (3, S, S) uint8 of the view's own size, and its parameters (P,)."""
        config, (height, width) = self.configs[name], image.shape[:2]
        epoch = self.repeated(epoch) if name in self.kept.repeated else epoch
        # The box does not depend on the view's size: for views that are alike, the same numbers make the same box.
        box, parameters = draw(config, height, width, self.stream(epoch, index, self.numbers[name]))
        return crop(image, box, config.size, self.interpolation), parameters

    def stream(self, epoch: int, index: int, view: str) -> np.random.Generator:
        """Return the generator of a view of record `index`; good until the next call."""
        return self._streams.at(epoch, index, stream_of(view))

    def sample(
        self, position: int, names: Collection[str], skipped: list[Skipped], tallies: Sequence[Tally]
    ) -> _Sample:
        """Return the record at `position`, decoded for these views; or add it to `skipped` and return a stand-in.

        `tallies`, one for each of the source's parts, count what happens.
        """
        epoch, index = self.order.locate(position)
        tally = tallies[self.order.part_number(index)]
        tally.read += 1
        sample = self._read(epoch, index, index, names)
        if isinstance(sample, _Sample):
            tally.used += 1
            return sample
        tally.skipped += 1
        skipped.append(sample)
        own, lost = sample, self._lost(index)
        drawn_in = self.repeated(epoch) if self.repeats else epoch
        others = stand_ins(self.order, self._streams, drawn_in, index, self.replacement)
        for other in others:
            tally = tallies[self.order.part_number(other)]
            # No output is kept of this row with a stand-in that is new; outputs are kept of the stand-in's own row.
            sample = self._read(epoch, other if lost else index, other, names)
            if isinstance(sample, _Sample):
                tally.stood_in += 1
                return replace(sample, own=own)
            tally.failed += 1
            lost = lost or self._lost(other)
        raise DataError(
            f"Record {index} of '{self.source.name}' and {len(others)} others drawn in its place cannot be used",
            cause=f"The last record, '{sample.key}': {sample.reason}",
            fix="Check that the source, data.image_root and the columns are right"
            + (f"; {WITHOUT_CAPTIONS} trains without captions" if self.captions else "")
            + ("; labels:FOLDER makes captions for pictures in folders of classes" if self.captions else ""),
        )

    def repeated(self, epoch: int) -> int:
        """Return the epoch whose views this epoch repeats, for views whose outputs are kept."""
        return epoch % self.kept.epochs

    def _lost(self, index: int) -> bool:
        """Whether a record that cannot be read now could be read when outputs were kept."""
        return self.known is not None and index not in self.known.unusable

    def _read(self, epoch: int, index: int, candidate: int, names: Collection[str]) -> _Sample | Skipped:
        """Read record `candidate` for the row of record `index`, whose streams draw the caption and the views.

        So a stand-in gives other views than in its own row of the epoch. What is known of the record is not read again.
        """
        if self.known is not None and candidate in self.known.unusable:
            return self.known.unusable[candidate]
        source, own = self.source.origin(candidate)
        key, name, image = f"#{own}", source.name, None
        try:
            if self.known is not None and self.kept.undrawn.issuperset(names):
                key, captions, label = self.known[candidate]
                numbers = self._draw_captions(captions, epoch, index)
            else:
                record = self.source[candidate]
                key, name = record.key, record.source
                captions = tuple(caption for caption in record.captions if is_caption(caption))
                numbers = self._draw_captions(captions, epoch, index)
                image = decode(record.image, self.min_side(names), self.decoder)
                found = self.source.label(candidate) if self.labelled else None
                label = -1 if found is None else found
        except DataError as error:
            return Skipped(self.source.whole_index(candidate), key, name, str(error))
        return _Sample(
            epoch,
            index,
            candidate,
            key,
            image,
            self._drop_words([captions[number] for number in numbers], epoch, index),
            self.known.caption_row(candidate, numbers[0]) if self.known is not None and numbers else 0,
            label,
            (key, captions if self.captions else (), label),
        )

    def _draw_captions(self, captions: Sequence[str], epoch: int, index: int) -> list[int]:
        """Return which of a record's captions the row of record `index` gets.

        The captions differ, as far as the record has enough. Otherwise all of its captions are repeated in turn.
        """
        if not self.captions:
            return []
        if not captions:
            raise DataError("The record has no caption")
        if len(captions) == 1:
            return [0] * self.captions
        generator = self._streams.at(epoch, index, Stream.CAPTION)
        first = int(generator.integers(len(captions)))
        if self.captions == 1:
            return [first]
        others = generator.permutation([number for number in range(len(captions)) if number != first])
        return list(itertools.islice(itertools.cycle([first, *map(int, others)]), self.captions))

    def _drop_words(self, captions: Sequence[str], epoch: int, index: int) -> tuple[str, ...]:
        """Return captions without the words drawn to be dropped for the row of record `index`; one word stays."""
        if not self.drop_words:
            return tuple(captions)
        generator, left = self._streams.at(epoch, index, Stream.WORDS), []
        for words in map(str.split, captions):
            stay = generator.random(len(words)) >= self.drop_words
            one = int(generator.integers(len(words)))
            left.append(
                " ".join(word for n, word in enumerate(words) if stay[n] or (n == one and not stay.any()))
            )
        return tuple(left)


class Builder:
    """Builds the batch that starts at a position of the run's stream, or one process's rows of it.

    data: where the records come from. Scheduled views are made of the pictures of `data.ssl`, if there are any; all
    other views of the pictures of `data.train`. views: which views to make; config: how to make them. tokenizer: None
    loads no captions; with one, `captions` are drawn of each record, without the share `drop_words` of their words.
    labelled: whether to give classes. batch: rows of the whole batch, of which this builds the `rank`-th of `world`
    equal shares. schedule: which rows get the scheduled views; without a schedule all rows do. The pictures of
    `data.ssl` advance at the pace at which they are used, each once in an epoch. decoder: see `openslip.data.decode`.
    early: applies the parameters to the views right here, which leaves parameters that change nothing. kept: which
    outputs of the views are kept. in_turn: `train` or `ssl`, the source to go through in stored order, epoch after
    epoch, to keep its outputs; "" builds the batches to train on.

    Raises ConfigError if a view's kind is unknown, or if two different views share a name.
    """

    def __init__(
        self,
        data: Data,
        views: tuple[View, ...],
        config: ViewsConfig,
        tokenizer: Tokenizer | OwnTokenizer | None,
        batch: int,
        seed: int,
        *,
        captions: int = 1,
        drop_words: float = 0.0,
        labelled: bool = False,
        rank: int = 0,
        world: int = 1,
        schedule: Schedule | None = None,
        decoder: str = "auto",
        early: Early | None = None,
        kept: Kept | None = None,
        in_turn: str = "",
    ) -> None:
        self.early, self.labelled, self.in_turn, self.kept = early, labelled, in_turn, kept or Kept()
        self.tokenizer, self.captions, self.batch = tokenizer, captions, batch
        self.schedule = schedule or Schedule(batch)
        self.rows = range(rank * batch // world, (rank + 1) * batch // world)
        views = joined(views)
        apart = tuple(view for view in views if view.scheduled) if data.ssl is not None else ()
        joint = tuple(view for view in views if view not in apart)
        options: dict[str, Any] = {"decoder": decoder, "kept": kept}
        known = self.kept.records
        wanted: dict[str, Any] = {"labelled": labelled, "records": known.get("train")}
        wanted |= {"captions": 0 if tokenizer is None else captions, "drop_words": drop_words}
        readers = {"train": SampleReader(data.train, joint, config, seed, **wanted, **options)}
        if data.ssl is not None:
            options |= {"order": Stream.SSL_ORDER, "replacement": Stream.SSL_REPLACEMENT}
            wanted = {"captions": 0, "records": known.get("ssl")}
            readers["ssl"] = SampleReader(data.ssl, apart, config, seed, **wanted, **options)
        self.readers = list(readers.values())
        if in_turn:
            reader = readers[in_turn]
            reader.order = InTurn(reader.source.parts, seed)
            self.readers = [reader]

    def cut(self, position: int, size: int) -> list[range]:
        """Cut this process's rows of the batch at `position` into worker batches of at most `size` rows.

        Where records lie in blocks, a worker batch ends with a block if it can: a block cut in two is fetched twice.
        """
        order, cut, start = self.readers[0].order, [], self.rows.start
        while self.rows.stop - start > size:
            stop = start + size
            if len(order.parts) == 1:  # the blocks of a mixture are interleaved
                whole = stop - order.since_block(position + stop)
                stop = whole if whole > start else stop
            cut.append(range(start, stop))
            start = stop
        return [*cut, range(start, self.rows.stop)]

    def build(
        self, position: int, rows: range | None = None, allocate: Allocate = private_memory
    ) -> dict[str, Any]:
        """Return the fields of the `Batch` that starts at `position`, for this process's rows or some of them.

        rows: the rows of a worker batch; None: all rows of this process, in one. allocate: gives memory for the
        views. Raises DataError when the batch cannot be filled.
        """
        rows = self.rows if rows is None else rows
        views = self.empty(position, rows, allocate)
        parameters = {name: np.empty((len(view), len(Parameter)), np.float32) for name, view in views.items()}
        arrays = {name: view.numpy() for name, view in views.items()}
        next_row = {name: itertools.count() for name in views}
        numbers: dict[str, list[int]] = {name: [] for name in sorted(self.kept.views)}
        keys, captions, labels, records, skipped, own_records = [], [], [], [], [], []
        tallies = [[Tally() for _ in reader.order.parts] for reader in self.readers]
        for at in range(position + rows.start, position + rows.stop):
            for number, (reader, own, names) in enumerate(self._reads(at)):
                sample = reader.sample(own, names, skipped, tallies[number])
                if number == 0:
                    keys.append(sample.key)
                    captions += sample.captions
                    labels.append(sample.label)
                    records.append(sample.record)
                    own_records.append(sample.own)
                    if TEXT in numbers:
                        numbers[TEXT].append(sample.caption_row)
                for name in names:
                    if name in numbers:
                        numbers[name].append(
                            reader.repeated(sample.epoch) * reader.order.records + sample.index
                        )
                    if name in views and sample.image is not None:
                        row = next(next_row[name])
                        made = reader.view(sample.image, sample.epoch, sample.index, name)
                        arrays[name][row], parameters[name][row] = made
        drawn = {name: torch.from_numpy(array) for name, array in parameters.items()}
        if self.early is not None:
            with _one_thread():
                for name, view in views.items():
                    view.copy_(self.early(view, drawn[name]))
            unchanged = torch.tensor(UNCHANGED, dtype=torch.float32)
            drawn = {name: unchanged.repeat(len(view), 1) for name, view in views.items()}
        return {
            "views": views,
            "parameters": drawn,
            "tokens": self._tokens(self.tokenizer, captions)
            if self.tokenizer and self.tokens_needed
            else None,
            "labels": torch.tensor(labels, dtype=torch.int64) if self.labelled else None,
            "records": torch.tensor(records, dtype=torch.int64),
            "keys": keys,
            "skipped": skipped,
            "tallies": [tally for of_reader in tallies for tally in of_reader],
            "position": position + self.batch,
            "rows": {name: np.array(of, np.int64) for name, of in numbers.items()},
            "own_records": own_records if self.in_turn else [],
        }

    def _tokens(self, tokenizer: Tokenizer | OwnTokenizer, captions: Sequence[str]) -> Tensor:
        """Return the tokens of the rows' captions: (N, L), or (N, captions, L) of several a row."""
        tokens = tokenizer(captions)
        return tokens if self.captions == 1 else tokens.unflatten(0, (-1, self.captions))

    @property
    def tokens_needed(self) -> bool:
        """Whether anything is computed from captions, where there are some."""
        return not self.in_turn and TEXT not in self.kept.undrawn

    def empty(self, position: int, rows: range, allocate: Allocate = private_memory) -> dict[str, Tensor]:
        """Return memory for the views of these rows, all of it in one tensor; views that no row gets are left out."""
        before = self.schedule.before
        supervised = (
            len(rows) if self.in_turn else before(position + rows.stop) - before(position + rows.start)
        )
        shapes: dict[str, tuple[int, int, int, int]] = {}
        for reader in self.readers:
            for name in reader.drawn:
                config = reader.configs[name]
                if count := supervised if name in reader.scheduled else len(rows):
                    shapes[name] = (count, 3, config.size, config.size)
        sizes = [math.prod(shape) for shape in shapes.values()]
        memory = allocate(sum(sizes)).split(sizes)
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), memory)}

    def _reads(self, position: int) -> Iterator[tuple[SampleReader, int, tuple[str, ...]]]:
        """Yield each read for one sample of the run: a reader, the position in its order, the views to make."""
        reader, *apart = self.readers
        if self.in_turn:
            yield reader, position, tuple(reader.configs)
            return
        number = self.schedule.before(position)
        supervised = self.schedule.before(position + 1) > number
        yield (
            reader,
            position,
            tuple(name for name in reader.configs if supervised or name not in reader.scheduled),
        )
        for other in apart if supervised else ():
            yield other, number, tuple(other.configs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: several add up sums in another order, and a batch must not depend on who builds it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
