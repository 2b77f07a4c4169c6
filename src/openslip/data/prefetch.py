"""How many rows a worker batch has, and how many worker batches are kept ready.

A worker batch is what one loader process builds at a time: a batch of the run, or some of its rows.

Nothing here changes what is in a batch (`openslip.data.builder`), only how soon it is ready and how much memory waits.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from openslip.config import ViewsConfig
from openslip.needs import View

WORKER_BATCH = 256
"""Most rows of a worker batch: 115 MB of three views at 224 px, four blocks of remote records. A process builds that in
about half a second; handing it over takes next to no time."""
SMALLEST = 8
"""A lack of memory makes a worker batch no smaller than this. While BLOCK_SHARE allows, it also makes a worker batch no
smaller than a block of records that are fetched at once, or several processes would fetch the block."""
WORKER_BATCHES_EACH, BATCHES = 4, 2
"""Kept ready by default: so many worker batches by each process, or so many batches in all, whichever is more."""
MEMORY_SHARE = 1 / 4
"""The share of the free memory that worker batches may take."""
BLOCK_SHARE = 1 / 2
"""The share that they may take to avoid cutting a block."""

_SHARED = Path("/dev/shm")
_LIMITS = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Prefetch:
    """How batches are built: each of `workers` processes has up to `each` worker batches of `rows` rows ready.

    sample_bytes: bytes of a row. scarce: whether a lack of free memory keeps less ready than would be of use.
    """

    workers: int
    each: int
    rows: int
    sample_bytes: int
    scarce: bool = False

    @property
    def samples(self) -> int:
        """Rows of all worker batches together, at most."""
        return self.workers * self.each * self.rows

    @property
    def bytes(self) -> int:
        """The most shared memory of all worker batches, with the worker batch that has just been taken."""
        return (self.samples + self.rows) * self.sample_bytes if self.workers else 0


def choose_prefetch(
    share: int, sample_bytes: int, workers: int, prefetch: int = -1, block: int = 1
) -> Prefetch:
    """Choose the worker batches of a process's `share` of a batch, whose samples take `sample_bytes` each.

    prefetch: batches to keep ready in all, but at least one worker batch for each of the `workers`, whatever memory
    they take. -1: enough that training need not wait, within a quarter of the free memory; up to half of it if that
    avoids cutting a `block`, the number of records that are fetched at once. Without loader processes a batch is built
    whole, and nothing is kept.
    """
    if not workers:
        return Prefetch(0, 0, share, sample_bytes)
    count = math.ceil(share / WORKER_BATCH)
    rows = math.ceil(share / count)
    if prefetch >= 0:
        return Prefetch(workers, max(1, math.ceil(prefetch * count / workers)), rows, sample_bytes)
    each = max(WORKER_BATCHES_EACH, math.ceil(BATCHES * count / workers))
    free = free_memory() // max(1, sample_bytes)  # rows
    fitting = int(free * MEMORY_SHARE) // workers
    if each * rows <= fitting:
        return Prefetch(workers, each, rows, sample_bytes)
    # Two at least, of which one is built while the other waits to be taken.
    whole = min(block, rows)
    smallest = max(SMALLEST, whole) if (workers + 1) * whole <= int(free * BLOCK_SHARE) else SMALLEST
    rows = min(rows, max(smallest, fitting // 2))
    return Prefetch(workers, max(1, min(each, fitting // rows)), rows, sample_bytes, scarce=True)


def sample_bytes(views: tuple[View, ...], config: ViewsConfig, share: float = 1.0) -> int:
    """Return the mean bytes of a sample's views, if only `share` of the samples get the scheduled views."""
    sizes = ((view, 3 * config.of(view.kind, view.size).size ** 2) for view in views)
    return math.ceil(sum(size * (share if view.scheduled else 1) for view, size in sizes))


def free_memory() -> int:
    """Return the free bytes for a process of this machine: of memory, or of shared memory if less of that is free.

    The processes of a run on one machine have equal parts. If a system does not tell what is free, all of its memory
    counts as free; if it tells nothing, the result is more than anyone has.
    """
    free = [_available(), _below_limit()]
    if _SHARED.is_dir():
        free.append(shutil.disk_usage(_SHARED).free)
    return min(free) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _available() -> int:
    """Return what the machine has free, pages of files that it can drop included."""
    if kilobytes := re.search(r"^MemAvailable: +(\d+)", _read(_MEMORY), re.MULTILINE):
        return 1024 * int(kilobytes[1])
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def _below_limit() -> int:
    """Return what is left of a container's limit (cgroup v2), pages of files that it can drop included."""
    limit, used = _read(_LIMITS / "memory.max").strip(), _read(_LIMITS / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return sys.maxsize
    droppable = re.search(r"^inactive_file (\d+)", _read(_LIMITS / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(droppable[1]) if droppable else 0))


def _read(path: Path) -> str:
    """Return a file's text, nothing where there is no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
