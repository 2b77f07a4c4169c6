"""The way of batches to the device: the next one travels while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from slip.data.record import Batch


def on_device(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """Return the batches with views and tokens on `device`; parameters stay on the CPU, which plans by them.

    For a CUDA device a thread takes the next batch and sends it while the caller works on the one before. It hands it
    over when it has arrived, so that whoever waits for a batch waits for all of it. For other devices they are the
    batches themselves. Closing the result closes `batches`.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)
    return _ahead(batches, partial(_send, stream=stream), partial(_keep, device=device))


def _ahead(
    batches: Generator[Batch], send: Callable[[Generator[Batch]], Batch | None], keep: Callable[[Batch], None]
) -> Generator[Batch]:
    """Yield what `send` makes of the batches, in a thread, one ahead; `keep` is called here for each."""
    # The thread may be in the midst of a batch, and it is waited for before `batches` is closed.
    with closing(batches), ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(send, batches)
        while (batch := coming.result()) is not None:
            coming = thread.submit(send, batches)
            keep(batch)
            yield batch
            del batch  # else its memory would be held until the next one is there


def _send(batches: Generator[Batch], stream: torch.cuda.Stream) -> Batch | None:
    """Take a batch and send it by a stream of its own; return it when it has arrived."""
    with torch.cuda.stream(stream):  # the thread's device, too
        batch = next(batches, None)
        if batch is None:
            return None
        sent = replace(
            batch,
            views={name: _to(view, stream.device) for name, view in batch.views.items()},
            tokens=None if batch.tokens is None else _to(batch.tokens, stream.device),
        )
    stream.synchronize()
    return sent


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _keep(batch: Batch, device: torch.device) -> None:
    """Tell the allocator which stream works on the batch: its memory must not be given to the next one before."""
    working = torch.cuda.current_stream(device)
    for tensor in [*batch.views.values(), *([] if batch.tokens is None else [batch.tokens])]:
        tensor.record_stream(working)
