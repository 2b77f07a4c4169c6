"""The meeting point of the processes that `torchrun` starts, which separates them from processes of earlier starts."""

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
    """Return this process's rank and the world size, from `torchrun`'s environment variables; (0, 1) without them.

    Raises ConfigError if the variables do not fit together.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return 0, 1
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError("RANK and WORLD_SIZE do not fit", got=f"RANK={rank} WORLD_SIZE={world}")
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if int(world) > 1 and not (address and port.isdecimal()):
        raise ConfigError(
            f"This is process {rank} of {world}, and the environment does not say where they meet",
            got=f"MASTER_ADDR={address} MASTER_PORT={port}",
            fix="Start all processes by `torchrun`",
        )
    return int(rank), int(world)


def meet(rank: int, world: int, timeout: timedelta) -> Store:
    """Return an empty store that the processes of the environment share.

    After a restart torchrun's store still holds the addresses of the earlier processes, and whoever reads such an
    address waits for a dead process. So rank 0 gives a fresh name to every process that asks now, and all later keys
    are kept under that name. Each process asks with a number that no earlier process has had.

    Raises DistStoreError when a process has not answered in time.
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
            if store.check([f"slip/asks/{other}"]):  # perhaps from a process that is gone, so again and again
                store.set(f"slip/name for/{store.get(f'slip/asks/{other}').decode()}", number)
            if store.check([f"slip/has/{number}/{other}"]):
                missing.remove(other)
        time.sleep(0.02)
    return dist.PrefixStore(number, store)


@functools.cache
def _rendezvous(rank: int, world: int, timeout: timedelta) -> Store:
    """Return the store of the environment. It is cached: a second meeting must use this store, not a closing one."""
    import torch.distributed as dist

    return next(iter(dist.rendezvous("env://", rank, world, timeout=timeout)))[0]
