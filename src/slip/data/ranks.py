"""The processes that `torchrun` starts, perhaps on many machines, as far as work on records needs them."""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from slip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # for the slowest rank; one that dies is noticed at once
_PART = 2**26  # bytes sent at a time
_CALLS = itertools.count()  # torchrun's store still holds the addresses of the group before


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world` of them; by default the only one."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """Return what `torchrun` says in the environment; one process where it does not. Raises ConfigError."""
        rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if rank is None or world is None:
            return cls()
        if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
            raise ConfigError("RANK and WORLD_SIZE do not fit", got=f"RANK={rank} WORLD_SIZE={world}")
        return cls(int(rank), int(world))

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks to people and has the result."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """Return this rank's parts: neighbours, so that what lies together is read by one rank."""
        count = len(parts)
        return parts[count * self.rank // self.world : count * (self.rank + 1) // self.world]

    def gather(self, payload: bytes) -> list[bytes]:
        """Return every rank's bytes, by rank, on rank 0; nothing on the others. All ranks must call it.

        Uses torch.distributed's gloo, which is set up for it and torn down after, unless the program has its own.
        Raises DataError when another rank is gone.
        """
        if self.world == 1:
            return [payload]
        import numpy as np
        import torch
        import torch.distributed as dist

        own = not dist.is_initialized()
        try:
            if own:
                store = dist.PrefixStore(f"slip-{next(_CALLS)}", _store(self.rank, self.world))
                dist.init_process_group(
                    "gloo", store=store, rank=self.rank, world_size=self.world, timeout=_LONGEST_WAIT
                )
            group: Any = None if own else dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(payload)]), group=group)
            if self.first:
                received = [torch.empty(int(size), dtype=torch.uint8) for size in sizes[1:]]
                for rank, tensor in enumerate(received, 1):
                    for part in _parts(tensor):
                        dist.recv(part, src=rank, group=group)
                gathered = [payload, *(tensor.numpy().tobytes() for tensor in received)]
            else:
                for part in _parts(torch.from_numpy(np.frombuffer(bytearray(payload), np.uint8))):
                    dist.send(part, dst=0, group=group)
                gathered = []
            dist.barrier(group=group)
            return gathered
        except RuntimeError as error:  # what torch.distributed raises for anything between machines
            raise DataError(
                "The results of all ranks cannot be put together",
                cause=f"Another rank has ended, or cannot be reached: {str(error).splitlines()[0]}",
                fix="Look at what the other ranks printed",
            ) from None
        finally:
            if own and dist.is_initialized():
                dist.destroy_process_group()


@functools.cache
def _store(rank: int, world: int) -> Store:
    return meet(rank, world, _LONGEST_WAIT)


def meet(rank: int, world: int, timeout: timedelta) -> Store:
    """Return a store that the ranks of the environment share, and that is empty.

    torchrun's store still holds the addresses of the processes that it has started anew, and whoever reads one of them
    waits for the dead. So the first rank hands out a fresh name, under which all that follows is kept, to whoever
    answers now: each rank asks by a number that no earlier one has had.

    Raises DistStoreError when one of them has not answered in time.
    """
    import torch.distributed as dist

    store = next(iter(dist.rendezvous("env://", rank, world, timeout=timeout)))[0]
    number = secrets.token_hex(8)
    if rank:
        store.set(f"slip/asks/{rank}", number)
        name = store.get(f"slip/name for/{number}").decode()
        store.set(f"slip/has/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    missing, end = set(range(1, world)), time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > end:
            raise dist.DistStoreError(f"Nothing has been heard of rank {min(missing)} for {timeout}")
        for other in sorted(missing):
            if store.check([f"slip/asks/{other}"]):  # perhaps of a process that is gone, so again and again
                store.set(f"slip/name for/{store.get(f'slip/asks/{other}').decode()}", number)
            if store.check([f"slip/has/{number}/{other}"]):
                missing.remove(other)
        time.sleep(0.02)
    return dist.PrefixStore(number, store)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    return tensor.split(_PART) if len(tensor) else ()
