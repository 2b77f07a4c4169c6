"""The way of batches to the device: the next one travels while a step computes."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openslip.data.record import Batch

PATIENCE = 5.0
"""Seconds that closing waits for the batch in progress. A source that hangs must not keep a run from ending."""


def on_device(batches: Generator[Batch], device: torch.device, count: int) -> Generator[Batch]:
    """Return batches, of which `count` are wanted, with views, tokens, labels and records on `device`.

    Parameters stay on the CPU.

    For a CUDA device, a thread takes the next batch and sends it while the caller works on the previous batch. The
    thread hands a batch over when all of it has arrived. For other devices the batches are returned as they are.
    Closing the result closes `batches`.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)
    return _ahead(batches, partial(_send, stream=stream), partial(_keep, device=device), count)


def _ahead(
    batches: Generator[Batch],
    send: Callable[[Iterator[Batch]], Batch | None],
    keep: Callable[[Batch], None],
    count: int,
) -> Generator[Batch]:
    """Yield `count` batches that `send` sends in a thread, one ahead; `keep` is called in this thread for each."""
    wanted, arrived, closed = (
        threading.Semaphore(),
        queue.SimpleQueue[Batch | BaseException](),
        threading.Event(),
    )

    def work() -> None:
        try:
            with closing(batches):
                for _ in range(count):
                    wanted.acquire()
                    if closed.is_set() or (batch := send(batches)) is None:
                        break
                    arrived.put(batch)
                    del batch
            arrived.put(StopIteration())
        except BaseException as error:  # for whoever waits for the batch
            arrived.put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while not isinstance(batch := arrived.get(), BaseException):
            wanted.release()
            keep(batch)
            yield batch
            del batch  # else its memory would be held until the next batch is there
        if not isinstance(batch, StopIteration):
            raise batch
    finally:
        closed.set()
        wanted.release()
        thread.join(PATIENCE)


def _send(batches: Iterator[Batch], stream: torch.cuda.Stream) -> Batch | None:
    """Take a batch and send it by a stream of its own; return it when it has arrived."""
    with torch.cuda.stream(stream):  # the thread's device, too
        batch = next(batches, None)
        if batch is None:
            return None
        sent: dict[str, Any] = {
            name: None if rows is None else _to(rows, stream.device) for name, rows in _rows(batch).items()
        }
        sent["views"] = {name: _to(view, stream.device) for name, view in batch.views.items()}
    stream.synchronize()
    return replace(batch, **sent)


def _rows(batch: Batch) -> dict[str, Any]:
    """Return what travels of a batch beside its views, by the name of the field: tensors, or None."""
    return {name: getattr(batch, name) for name in ("tokens", "labels", "records")}


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _keep(batch: Batch, device: torch.device) -> None:
    """Tell the allocator which stream works on the batch, so that it does not give the memory away too early."""
    working = torch.cuda.current_stream(device)
    for tensor in (*batch.views.values(), *_rows(batch).values()):
        if tensor is not None:
            tensor.record_stream(working)


def run_ahead(device: torch.device, steps: int = 2) -> Callable[[], None]:
    """Return a function to call after each step, so that this process is never more than `steps` ahead of a GPU.

    Nothing in a step waits for the GPU. Without a bound, the views of all steps that were begun would be in its memory.
    """
    if device.type != "cuda":
        return lambda: None
    begun: deque[torch.cuda.Event] = deque()

    def after_step() -> None:
        begun.append(torch.cuda.Event())
        begun[-1].record()
        if len(begun) > steps:
            begun.popleft().synchronize()

    return after_step
