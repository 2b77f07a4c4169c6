"""The C library's heap while a run trains on a CPU: memory that a step frees is kept for the next step."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

# Of <malloc.h>; the values are those of mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
MIB = 2**20
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 * MIB}
"""No tensor gets a mapping of its own, and nothing goes back to the system."""
USUAL = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * MIB, TRIM_THRESHOLD: 64 * MIB, TOP_PAD: 128 * 1024}
"""What the GNU C library comes to by itself in a process that frees large tensors."""


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep memory that is freed in the process, where it trains on a CPU and its C library is GNU's.

    The library gives each large tensor a mapping of its own, and gives the mapping back when the tensor is freed. In
    the next step the system fills every page with zeros once more, which costs more than the arithmetic of small
    tensors (benchmarks/heap.py). The process is no larger at its peak. It stays at its peak until the end, when all
    that is free goes back.
    """
    libc = _libc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _set(libc, KEEPING)
    try:
        yield
    finally:
        _set(libc, USUAL)
        libc.malloc_trim(0)


def _set(libc: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


@cache
def _libc() -> Any:
    """Return the GNU C library of this process; None where the library is another."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
