"""Batches of views and tokens, built in other processes. The number of processes does not change the batches.

A batch depends only on the source, the settings and the batch's position in the run's stream of records
(`openslip.data.order`). Loader processes build worker batches in shared memory; torch's DataLoader hands them out in
order. A batch of one worker batch is used where it was built. Several worker batches are copied together. A batch for a
GPU is copied into page-locked memory, and sent while the GPU computes.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from openslip.config import ViewsConfig
from openslip.data.builder import Allocate, Builder, Early, private_memory
from openslip.data.data import Data
from openslip.data.decode import check_decoder
from openslip.data.kept import Kept
from openslip.data.order import check_seed
from openslip.data.own_tokenizer import OwnTokenizer
from openslip.data.prefetch import choose_prefetch, sample_bytes
from openslip.data.record import Batch, Tally
from openslip.data.schedule import Schedule
from openslip.data.tokenizer import Tokenizer
from openslip.data.views import check_views
from openslip.data.workers import default_processes, settle, start_context
from openslip.errors import ConfigError, DataError, SlipError
from openslip.needs import View

MAX_WORKERS = 8
_TENSORS = ("tokens", "labels", "records")
"""Fields of a worker batch that are a tensor, or None."""

_LESS = "--data.workers, --data.prefetch or the batch size"
_MORE_SHARED = f"Give the container more of /dev/shm (docker run --shm-size=8g), or lower {_LESS}"


class Loader:
    """An endless stream of batches; each `iter` starts anew at `position`.

    data: where the records come from. views: which views to make of each record; config: how to make them. tokenizer:
    None loads no captions. captions: how many of a record's non-empty captions to draw, anew every epoch. drop_words:
    the share of the captions' words to leave out. labelled: whether to give the records' classes. batch: rows of a
    batch, of which each of `world` processes gets an equal share; this process is number `rank`. seed, position: of the
    run's stream; each batch holds the `position` to continue from. schedule, decoder, early: see `Builder`. workers:
    loader processes; 0 builds batches in this process, -1 takes one fewer than there are cores, at most 8. prefetch:
    batches that the loader processes keep ready in all; -1 keeps as many as are of use and fit into memory
    (`openslip.data.prefetch.choose_prefetch`). pinned: whether to put the views into page-locked memory, from which a
    GPU fetches them by itself. kept, in_turn: see `Builder`. positions: where the batches begin, if not one after the
    other from `position` on.

    A record that cannot be used (unreadable, or without a caption where one is needed) is replaced by another and
    listed in the batch's `skipped`.

    Raises ConfigError for settings out of range. While iterating, raises DataError when a record and all of its
    stand-ins (`openslip.data.order.stand_ins`) cannot be used, or when a loader process dies.
    """

    def __init__(
        self,
        data: Data,
        *,
        views: tuple[View, ...],
        config: ViewsConfig,
        tokenizer: Tokenizer | OwnTokenizer | None,
        batch: int,
        seed: int,
        captions: int = 1,
        drop_words: float = 0.0,
        labelled: bool = False,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        schedule: Schedule | None = None,
        decoder: str = "auto",
        early: Early | None = None,
        workers: int = -1,
        prefetch: int = -1,
        pinned: bool = False,
        kept: Kept | None = None,
        in_turn: str = "",
        positions: Sequence[int] | None = None,
    ) -> None:
        for what, value, least in [
            ("A batch", batch, 1),
            ("The position in the stream of records", position, 0),
            ("The number of loader processes", workers, -1),
            ("The number of batches kept ready", prefetch, -1),
        ]:
            if value < least:
                raise ConfigError(f"{what} must be at least {least}", got=value)
        if batch % world:
            raise ConfigError(f"A batch must be divisible among {world} processes", got=batch)
        check_views(config, drawn=True)
        check_decoder(decoder)
        for source in data.sources.values():
            if not len(source):
                raise DataError("The source has no records", got=source.name)
        self.position, self.pinned, self.positions = position, pinned, positions
        self.workers = default_workers() if workers < 0 else workers
        self._builder = Builder(
            data,
            views,
            config,
            tokenizer,
            batch,
            check_seed(seed),
            captions=captions,
            drop_words=drop_words,
            labelled=labelled,
            rank=rank,
            world=world,
            schedule=schedule,
            decoder=decoder,
            early=early,
            kept=kept,
            in_turn=in_turn,
        )
        drawn = tuple(view for view in views if kept is None or view.name not in kept.undrawn)
        size = sample_bytes(drawn, config, self._builder.schedule.rows / batch)
        self.prefetch = choose_prefetch(batch // world, size, self.workers, prefetch, data.longest_block)

    def __iter__(self) -> Generator[Batch]:
        """Start the loader processes, and return the batches."""
        builder, allocate = self._builder, _pinned_memory if self.pinned else private_memory
        worker_batches = _Loading(
            _WorkerBatches(builder, allocate),
            batch_size=None,
            sampler=((at, rows) for at in self._starts() for rows in builder.cut(at, self.prefetch.rows)),
            collate_fn=_unchanged,
            num_workers=self.workers,
            prefetch_factor=self.prefetch.each or None,
            multiprocessing_context=start_context([__name__]) if self.workers else None,
            worker_init_fn=_start_worker,
            # Without its own generator, DataLoader draws from the global one, and a resumed run would differ.
            generator=torch.Generator(),
        )
        return self._batches(iter(worker_batches), allocate)

    def _starts(self) -> Iterator[int]:
        """Return the positions at which the batches begin."""
        endless = itertools.count(self.position, self._builder.batch)
        return endless if self.positions is None else iter(self.positions)

    def _batches(self, worker_batches: Iterator[dict[str, Any]], allocate: Allocate) -> Generator[Batch]:
        builder = self._builder
        try:
            for position in self._starts():
                count = len(builder.cut(position, self.prefetch.rows))
                if count == 1 and not (self.workers and self.pinned):
                    yield Batch(**_next(worker_batches))
                else:
                    # The batch gets no name here: a name would keep its memory beyond the step.
                    parts = (_next(worker_batches) for _ in range(count))
                    yield _joined(builder.empty(position, builder.rows, allocate), parts)
        finally:
            getattr(worker_batches, "_shutdown_workers", lambda: None)()


def default_workers() -> int:
    """Return the number of loader processes for this process's share of the machine: one core is left to training."""
    return min(MAX_WORKERS, default_processes() - 1)


class _Loading(DataLoader):
    """A DataLoader whose processes end at once."""

    def _get_iterator(self) -> Any:
        return _Workers(self) if self.num_workers else super()._get_iterator()


class _Workers(_MultiProcessingDataLoaderIter):
    """The loader processes. They end at once when nobody wants their batches any more; DataLoader has no public way.

    DataLoader itself would wait five seconds for each process, and forever if one is killed while it holds what they
    share. DataLoader would also fail at its end if Ctrl-C has kept it from starting all processes.
    """

    def __init__(self, loader: DataLoader) -> None:
        try:
            super().__init__(loader)
        except (EOFError, ConnectionError) as error:
            raise DataError(
                "The loader processes could not be started",
                cause=f"The process that starts them has ended ({type(error).__name__}), most likely killed",
                fix="Start again, or pass --data.workers 0 to load without further processes",
            ) from None

    def _shutdown_workers(self) -> None:
        if sys is None or sys.is_finalizing() or getattr(self, "_shutdown", True):
            return  # the interpreter ends, and the processes with it
        self._shutdown = True
        if self._worker_pids_set:  # else their end would be taken for a failure
            _remove_worker_pids(id(self))
            self._worker_pids_set = False
        workers = getattr(self, "_workers", ())
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(timeout=1)  # one that waits for a disk may take longer
        for pipe in (*getattr(self, "_index_queues", ()), self._worker_result_queue):
            pipe.cancel_join_thread()
            pipe.close()


class _WorkerBatches(Dataset):
    """A dataset for torch's DataLoader whose indices are positions and rows, and whose items are a `Batch`'s fields."""

    def __init__(self, builder: Builder, allocate: Allocate) -> None:
        self.builder, self.allocate = builder, allocate

    def __getitem__(self, index: tuple[int, range]) -> dict[str, Any]:
        """Return the fields, or an error to raise in the main process, without the worker's stack.

        A loader process returns the views in shared memory. The rest is small and comes as arrays, through a pipe:
        each tensor would take a file, and a process may not have many files open.
        """
        worker = get_worker_info()
        try:
            built = self.builder.build(*index, allocate=_shared_memory if worker else self.allocate)
        except SlipError as error:
            return {"error": (type(error), str(error))}
        if worker:
            built["parameters"] = {name: drawn.numpy() for name, drawn in built["parameters"].items()}
            for name in _TENSORS:
                built[name] = None if built[name] is None else built[name].numpy()
        return built


def _shared_memory(size: int) -> Tensor:
    """Return memory that all processes see. Raises DataError for a lack of it, at which torch's queue would hang."""
    if not size:
        return private_memory(size)
    try:
        memory = torch.UntypedStorage._new_shared(
            size
        )  # as torch's own default_collate makes it, to be written once
    except RuntimeError as error:
        raise DataError(
            "A batch cannot be put into shared memory", cause=str(error), fix=_MORE_SHARED
        ) from None
    return private_memory(0).set_(memory)


def _pinned_memory(size: int) -> Tensor:
    """Return page-locked memory. PyTorch keeps it for the next batch once this one is gone."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _next(worker_batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the next worker batch's fields; raise its error, or DataError when its process is dead."""
    try:
        built = next(worker_batches)
    except (RuntimeError, OSError, EOFError):
        workers = getattr(worker_batches, "_workers", ())
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
    built["parameters"] = {name: torch.as_tensor(drawn) for name, drawn in built["parameters"].items()}
    for name in _TENSORS:
        built[name] = None if built[name] is None else torch.as_tensor(built[name])
    return built


def _joined(views: dict[str, Tensor], worker_batches: Iterable[dict[str, Any]]) -> Batch:
    """Return the batch of consecutive worker batches, copying the views of each to their rows as soon as it arrives."""
    filled, parts = dict.fromkeys(views, 0), []
    for built in worker_batches:
        parts.append(built)
        for name, part in built.pop("views").items():
            start, filled[name] = filled[name], filled[name] + len(part)
            views[name][start : filled[name]] = part
    tokens = [part["tokens"] for part in parts if part["tokens"] is not None]
    labels = [part["labels"] for part in parts if part["labels"] is not None]
    longest = max((part.shape[-1] for part in tokens), default=0)
    return Batch(
        views,
        {
            name: torch.cat([p["parameters"][name] for p in parts if name in p["parameters"]])
            for name in views
        },
        torch.cat([F.pad(part, (0, longest - part.shape[-1])) for part in tokens]) if tokens else None,
        keys=[key for part in parts for key in part["keys"]],
        position=parts[-1]["position"],
        skipped=[skipped for part in parts for skipped in part["skipped"]],
        tallies=[sum(tallies, Tally()) for tallies in zip(*(part["tallies"] for part in parts))],
        labels=torch.cat(labels) if labels else None,
        records=torch.cat([part["records"] for part in parts]),
        rows={name: np.concatenate([part["rows"][name] for part in parts]) for name in parts[0]["rows"]},
        own_records=[record for part in parts for record in part["own_records"]],
    )


def _unchanged(built: Any) -> Any:
    return built


def _start_worker(worker: int) -> None:
    settle()


def _death(code: int) -> DataError:
    """Return the error for a loader process that ended with this exit code (negative: the signal that killed it)."""
    if code == -signal.SIGBUS:
        cause = "Shared memory (/dev/shm), which hands batches over, is full"
        fix = _MORE_SHARED
    elif code < 0:
        cause, fix = "The system killed the process, most likely because memory ran out", f"Lower {_LESS}"
    else:
        cause = "The process failed before it could work; its output is above"
        fix = (
            "Write a script that trains to a file, and let it train under `if __name__ == '__main__':`. "
            "Or pass --data.workers 0 to load without further processes"
        )
    return DataError("A loader process ended unexpectedly", got=f"exit code {code}", cause=cause, fix=fix)
