"""Where the processes that `torchrun` starts meet, and how they tell each other from those that were there before."""

from __future__ import annotations

import functools
import os
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from openslip.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import Store


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are, as `torchrun` says in the environment; 0 of 1 without.

    Raises ConfigError where that does not fit together.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return 0, 1
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError("RANK and WORLD_SIZE do not fit", got=f"RANK={rank} WORLD_SIZE={world}")
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if int(world) > 1 and not (address and port.isdecimal()):
        raise ConfigError(
            f"This is process {rank} of {world}, and is not told where they meet",
            got=f"MASTER_ADDR={address} MASTER_PORT={port}",
            fix="Start all by `torchrun`",
        )
    return int(rank), int(world)


def meet(rank: int, world: int, timeout: timedelta) -> Store:
    """Return a store that the processes of the environment share, and that is empty.

    torchrun's store still holds the addresses of the processes that it has started anew, and whoever reads one of them
    waits for the dead. So the first one hands out a fresh name, under which all that follows is kept, to whoever
    answers now: each asks by a number that no earlier one has had.

    Raises DistStoreError when one of them has not answered in time.
    """
    import torch.distributed as dist

    store = _rendezvous(rank, world, timeout)
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


@functools.cache
def _rendezvous(rank: int, world: int, timeout: timedelta) -> Store:
    """Return the store of the environment, kept: whoever meets again must find the same one, not one that is ending."""
    import torch.distributed as dist

    return next(iter(dist.rendezvous("env://", rank, world, timeout=timeout)))[0]
