"""Batches of views and tokens, built in other processes: the same ones whatever the number of processes.

A batch is a function of the source, the settings and its position in the run's stream of records
(`slip.data.order`) alone. Each loader process builds whole batches; torch's DataLoader hands out the positions and
keeps the order.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Generator, Iterator
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from slip.config import VIEWS, ViewsConfig
from slip.data.builder import Builder, Early
from slip.data.decode import check_decoder
from slip.data.fanout import default_processes, end_with_parent, start_context
from slip.data.order import check_seed
from slip.data.record import Batch, Source
from slip.data.schedule import Schedule
from slip.data.tokenizer import Tokenizer
from slip.data.views import check_views
from slip.errors import ConfigError, DataError, SlipError, did_you_mean

MAX_WORKERS = 8

_LESS = "--data.workers, --data.prefetch or the batch size"
_MORE_SHARED = f"Give the container more of /dev/shm (docker run --shm-size=8g), or lower {_LESS}"


class Loader:
    """An endless stream of batches; each `iter` starts anew at `position`.

    source: the records; ssl: where the self-supervised views come from, if not from the same pictures. views: size
    and kinds of the views; names: which of VIEWS to make. tokenizer: None loads no captions; with one, each record's
    caption is drawn among its non-empty ones, anew every epoch. batch: rows of a batch; with `world` processes this
    one, number `rank`, gets an equal share of each. seed, position: of the run's stream; a batch's own `position` is
    where to go on. schedule, decoder, early: see `Builder`. workers: loader processes; 0 builds batches in this
    process, -1 one fewer than there are cores, at most 8. prefetch: batches that each process keeps ready;
    workers · prefetch batches are held in shared memory.

    A record that cannot be used (unreadable, or without a caption where one is needed) is replaced by another and
    listed in the batch's `skipped`.

    Raises ConfigError for settings out of range; while iterating, DataError when a record and 20 drawn in its
    place cannot be used, or when a loader process dies.
    """

    def __init__(
        self,
        source: Source,
        *,
        ssl: Source | None = None,
        views: ViewsConfig,
        names: tuple[str, ...],
        tokenizer: Tokenizer | None,
        batch: int,
        seed: int,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        schedule: Schedule | None = None,
        decoder: str = "auto",
        early: Early | None = None,
        workers: int = -1,
        prefetch: int = 4,
    ) -> None:
        for what, value, least in [
            ("A batch", batch, 1),
            ("The position in the stream of records", position, 0),
            ("The number of loader processes", workers, -1),
            ("The number of batches kept ready", prefetch, 1),
        ]:
            if value < least:
                raise ConfigError(f"{what} must be at least {least}", got=value)
        if batch % world:
            raise ConfigError(f"A batch must be divisible among {world} processes", got=batch)
        for name in names:
            if name not in VIEWS:
                raise ConfigError("There is no such view", got=name, fix=did_you_mean(name, VIEWS))
        check_views(views)
        check_decoder(decoder)
        for records in (source, ssl):
            if records is not None and not len(records):
                raise DataError("The source has no records", got=records.name)
        self.position, self.prefetch = position, prefetch
        self.workers = default_workers() if workers < 0 else workers
        self._builder = Builder(
            source,
            ssl,
            views,
            names,
            tokenizer,
            batch,
            check_seed(seed),
            rank=rank,
            world=world,
            schedule=schedule,
            decoder=decoder,
            early=early,
        )

    def __iter__(self) -> Generator[Batch]:
        batch = self._builder.batch
        built_batches = iter(
            DataLoader(
                _Positions(self._builder),
                batch_size=None,
                sampler=itertools.count(self.position, batch),
                collate_fn=_unchanged,
                pin_memory=torch.cuda.is_available(),
                num_workers=self.workers,
                prefetch_factor=self.prefetch if self.workers else None,
                multiprocessing_context=start_context([__name__]) if self.workers else None,
                worker_init_fn=_start_worker,
                # Without one of its own it draws from the global one, and a resumed run would not go on the same.
                generator=torch.Generator(),
            )
        )
        try:
            while True:
                yield Batch(**_next(built_batches))
        finally:
            # At once rather than by the garbage collector, which may find the processes' handles already closed and
            # then waits for each of them in vain. DataLoader has no public way.
            getattr(built_batches, "_shutdown_workers", lambda: None)()


def default_workers() -> int:
    """Return the number of loader processes for this process's share of the machine: one core is left to training."""
    return min(MAX_WORKERS, default_processes() - 1)


class _Positions(Dataset):
    """A dataset for torch's DataLoader whose indices are positions and whose items are whole batches' fields."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a Batch's fields, or an error to raise in the main process, without the worker's stack."""
        try:
            built = self.builder.build(index)
            return _share(built) if get_worker_info() else built
        except SlipError as error:
            return {"error": (type(error), str(error))}


def _next(built_batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the next batch's fields; raise the error it holds, or DataError when the process that had it is dead."""
    try:
        built = next(built_batches)
    except (RuntimeError, OSError, EOFError):
        workers = getattr(built_batches, "_workers", ())
        # A pipe may break before its process has ended.
        connection.wait([worker.sentinel for worker in workers], timeout=1)
        codes = [worker.exitcode for worker in workers]
        dead = [code for code in codes if code is not None]
        if not dead:
            raise  # an error of the source's own
        raise _death(dead[0]) from None
    if "error" in built:
        kind, message = built["error"]
        raise kind(message)
    return built


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


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the training process decides what it means and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


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
