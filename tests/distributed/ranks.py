"""A function run by several processes of a gloo group on this machine; what it returns comes back by rank."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import forked


def run_on(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return `function(*arguments)` of each of `world` processes; of this process itself where one is enough."""
    if world == 1:
        return [function(*arguments)]
    context = forked.context()
    results: Any = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(
                target=_run, args=(rank, world, folder, function, arguments, results), daemon=True
            )
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        try:
            found = dict(results.get() for _ in range(world))
        finally:
            for worker in workers:
                worker.join(60)
                worker.kill()
    for value in found.values():
        if isinstance(value, _Failed):
            raise AssertionError(value)
    return [found[rank] for rank in range(world)]


class _Failed(str):
    pass


def _run(
    rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...], results: Any
) -> None:
    torch.set_num_threads(1)
    forked.uncounted()
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        value: Any = function(*arguments)
    except BaseException:
        value = _Failed(f"rank {rank}: {traceback.format_exc()}")
    results.put((rank, value))
    if not isinstance(value, _Failed):
        dist.barrier()
    dist.destroy_process_group()
