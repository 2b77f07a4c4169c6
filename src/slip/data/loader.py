"""Batches of views and tokens, built in other processes: the same ones whatever the number of processes.

A batch is a function of the source, the settings and its position in the run's stream of records
(`slip.data.order`) alone. Each loader process builds whole batches; torch's DataLoader hands out the positions and
keeps the order.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from slip.config import VIEWS, ViewConfig, ViewsConfig
from slip.data.decode import decode
from slip.data.order import Stream, Streams, check_seed, locate
from slip.data.record import Batch, Record, Skipped, Source
from slip.data.tokenizer import Tokenizer
from slip.data.views import Parameter, check, crop, draw, smallest_crop
from slip.errors import ConfigError, DataError, SlipError, did_you_mean

MAX_WORKERS = 8
ATTEMPTS = 20
"""Other records tried in place of one that cannot be used."""

_LESS = "--data.workers, --data.prefetch or the batch size"
_MORE_SHARED = f"Give the container more of /dev/shm (docker run --shm-size=8g), or lower {_LESS}"


class Loader:
    """An endless stream of batches; each `iter` starts anew at `position`.

    source: the records. views: size and kinds of the views; names: which of VIEWS to draw. tokenizer: None
    loads no captions; with one, each record's caption is drawn among its non-empty ones, anew every epoch.
    batch: records in a batch. seed, position: of the run's stream; a batch's own `position` is where to go on.
    workers: loader processes; 0 builds batches in this process, -1 one fewer than there are cores, at most 8.
    prefetch: batches that each process keeps ready; workers · prefetch batches are held in shared memory.

    A record that cannot be used (unreadable, or without a caption where one is needed) is replaced by another and
    listed in the batch's `skipped`.

    Raises ConfigError for settings out of range; while iterating, DataError when a record and 20 drawn in its
    place cannot be used, or when a loader process dies.
    """

    def __init__(
        self,
        source: Source,
        *,
        views: ViewsConfig,
        names: tuple[str, ...],
        tokenizer: Tokenizer | None,
        batch: int,
        seed: int,
        position: int = 0,
        workers: int = -1,
        prefetch: int = 4,
    ) -> None:
        for what, value, least in [
            ("The size of a view", views.size, 1),
            ("A batch", batch, 1),
            ("The position in the stream of records", position, 0),
            ("The number of loader processes", workers, -1),
            ("The number of batches kept ready", prefetch, 1),
        ]:
            if value < least:
                raise ConfigError(f"{what} must be at least {least}", got=value)
        for name in names:
            if name not in VIEWS:
                raise ConfigError("There is no such view", got=name, fix=did_you_mean(name, VIEWS))
        check(views.image, "image")
        check(views.ssl, "ssl")
        if not len(source):
            raise DataError("The source has no records", got=source.name)
        self.position, self.prefetch = position, prefetch
        self.workers = default_workers() if workers < 0 else workers
        configs = {name: views.image if name == "image" else views.ssl for name in names}
        self._builder = _Builder(source, configs, views.size, tokenizer, batch, check_seed(seed))

    def __iter__(self) -> Generator[Batch]:
        batch = self._builder.batch
        built_batches = iter(
            DataLoader(
                self._builder,
                batch_size=None,
                sampler=itertools.count(self.position, batch),
                collate_fn=_unchanged,
                pin_memory=torch.cuda.is_available(),
                num_workers=self.workers,
                prefetch_factor=self.prefetch if self.workers else None,
                multiprocessing_context=_context() if self.workers else None,
                worker_init_fn=_start_worker,
                # Without one of its own it draws from the global one, and a resumed run would not go on the same.
                generator=torch.Generator(),
            )
        )
        try:
            for position in itertools.count(self.position + batch, batch):
                yield Batch(**_next(built_batches), position=position)
        finally:
            # At once rather than by the garbage collector, which may find the processes' handles already closed and
            # then waits for each of them in vain. DataLoader has no public way.
            getattr(built_batches, "_shutdown_workers", lambda: None)()


def default_workers() -> int:
    """Return the number of loader processes for this machine: one core is left to training, at most 8 are used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores - 1)


@dataclass(frozen=True)
class _Sample:
    """A record ready for its views."""

    index: int
    key: str
    image: np.ndarray
    caption: str


class _Builder(Dataset):
    """Builds the batch that starts at a position; a dataset for torch's DataLoader, whose indices are positions."""

    def __init__(
        self,
        source: Source,
        configs: dict[str, ViewConfig],
        size: int,
        tokenizer: Tokenizer | None,
        batch: int,
        seed: int,
    ) -> None:
        self.source, self.configs, self.size = source, configs, size
        self.tokenizer, self.batch, self.seed = tokenizer, batch, seed
        # Large pictures are decoded at a fraction of their size where no crop would need more.
        self.min_side = math.ceil(size / min(map(smallest_crop, configs.values()), default=1.0))
        self._streams = Streams(seed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a Batch's fields, or an error to raise in the main process, without the worker's stack."""
        try:
            return _share(self._build(index)) if get_worker_info() else self._build(index)
        except SlipError as error:
            return {"error": (type(error), str(error))}

    def _build(self, position: int) -> dict[str, Any]:
        shape = (self.batch, 3, self.size, self.size)
        views = {name: np.empty(shape, dtype=np.uint8) for name in self.configs}
        parameters = {name: np.empty((self.batch, len(Parameter)), dtype=np.float32) for name in self.configs}
        keys, captions, skipped = [], [], []
        for row in range(self.batch):
            epoch, index = locate(self.seed, position + row, len(self.source))
            sample = self._usable(epoch, index, skipped)
            keys.append(sample.key)
            captions.append(sample.caption)
            height, width = sample.image.shape[:2]
            for name, config in self.configs.items():
                stream = self._streams.at(epoch, sample.index, Stream[name.upper()])
                box, parameters[name][row] = draw(config, height, width, stream)
                views[name][row] = crop(sample.image, box, self.size)
        return {
            "views": _tensors(views),
            "parameters": _tensors(parameters),
            "tokens": self.tokenizer(captions) if self.tokenizer else None,
            "keys": keys,
            "skipped": skipped,
        }

    def _usable(self, epoch: int, index: int, skipped: list[Skipped]) -> _Sample:
        """Return record `index`, or add it to `skipped` and return another one in its place."""
        sample = self._read(epoch, index)
        if isinstance(sample, _Sample):
            return sample
        skipped.append(sample)
        # Drawn at once: reading a caption moves the shared generator to another stream.
        drawn = self._streams.at(epoch, index, Stream.REPLACEMENT).integers(len(self.source), size=ATTEMPTS)
        for other in drawn.tolist():
            sample = self._read(epoch, other)
            if isinstance(sample, _Sample):
                return sample
        raise DataError(
            f"Record {index} of '{self.source.name}' and {ATTEMPTS} others drawn in its place cannot be used",
            cause=f"The last one, '{sample.key}': {sample.reason}",
            fix="Check that data.train, data.image_root and the columns are right"
            + ("; an objective without text, such as simclr, needs no captions" if self.tokenizer else ""),
        )

    def _read(self, epoch: int, index: int) -> _Sample | Skipped:
        key, source = f"#{index}", self.source.name
        try:
            record = self.source[index]
            key, source = record.key, record.source
            caption = self._caption(record, epoch, index) if self.tokenizer else ""
            return _Sample(index, key, decode(record.image, self.min_side), caption)
        except DataError as error:
            return Skipped(index, key, source, str(error))

    def _caption(self, record: Record, epoch: int, index: int) -> str:
        captions = [caption for caption in record.captions if caption.strip()]
        if not captions:
            raise DataError("The record has no caption")
        if len(captions) == 1:
            return captions[0]
        return captions[int(self._streams.at(epoch, index, Stream.CAPTION).integers(len(captions)))]


def _next(built_batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the next batch's fields; raise the error it holds, or DataError when the process that had it is dead."""
    try:
        built = next(built_batches)
    except (RuntimeError, OSError, EOFError):
        codes = [worker.exitcode for worker in getattr(built_batches, "_workers", ())]
        dead = [code for code in codes if code is not None]
        if not dead:
            raise  # an error of the source's own
        raise _death(dead[0]) from None
    if "error" in built:
        kind, message = built["error"]
        raise kind(message)
    return built


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _share(built: dict[str, Any]) -> dict[str, Any]:
    """Move the tensors to shared memory. Left to the queue, a full one would be noticed by nobody: a hang."""
    tokens = [] if built["tokens"] is None else [built["tokens"]]
    try:
        for tensor in [*built["views"].values(), *built["parameters"].values(), *tokens]:
            tensor.share_memory_()
    except RuntimeError as error:
        raise DataError(
            "A batch cannot be put into shared memory", cause=str(error), fix=_MORE_SHARED
        ) from None
    return built


def _unchanged(built: Any) -> Any:
    return built


def _context() -> Any:
    """Return how processes are started: from a server that has torch loaded, never by forking this process."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # without it, each process spends 2 s importing torch
    return context


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when training's is gone, killed perhaps; torch looks for the fork server's end instead."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _death(code: int) -> DataError:
    """Return the error for a loader process that ended with this exit code (negative: the signal that killed it)."""
    if code == -signal.SIGBUS:
        cause = "Shared memory (/dev/shm), through which batches are handed over, is full"
        fix = _MORE_SHARED
    elif code < 0:
        cause, fix = "The system killed it, most likely because memory ran out", f"Lower {_LESS}"
    else:
        cause = "It failed before it could work; what it printed is above"
        fix = (
            "A script that trains must do so under `if __name__ == '__main__':`. "
            "--data.workers 0 loads without further processes"
        )
    return DataError("A loader process ended unexpectedly", got=f"exit code {code}", cause=cause, fix=fix)
