"""Large arrays that the processes of a run share, in place of a copy for each process."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from contextlib import suppress

import numpy as np

SMALL = 4 << 20
"""Bytes up to which a copy for each process is cheaper than a file."""


class SharedArray:
    """An array that is pickled as the path of a file which all processes map into their memory.

    On Linux the file has no name: it is memory of the process that pickled first. Elsewhere it is a temporary file.
    The file is gone when that process ends. So a pickle is for the processes that it starts, not for keeping.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._path = ""

    def __len__(self) -> int:
        return len(self.array)

    def __reduce__(self) -> tuple:
        if self.array.nbytes <= SMALL:
            return SharedArray, (self.array,)
        if not self._path:
            descriptor, self._path = _file()
            weakref.finalize(self, _forget, os.getpid(), descriptor, self._path)
            with open(descriptor, "wb", closefd=False) as file:
                np.ascontiguousarray(self.array).tofile(file)
            self.array = _map(self._path, self.array.dtype.str, self.array.shape)
        return _from_path, (self._path, self.array.dtype.str, self.array.shape)


def _from_path(path: str, dtype: str, shape: tuple[int, ...]) -> SharedArray:
    shared = SharedArray(_map(path, dtype, shape))
    shared._path = path  # to be handed on as it came
    return shared


def _map(path: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype).reshape(shape)


def _file() -> tuple[int, str]:
    """Return a new file's descriptor, and where other processes find it."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("openslip")
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"
    return tempfile.mkstemp(prefix="openslip-")


def _forget(process: int, descriptor: int, path: str) -> None:
    if os.getpid() == process:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            with suppress(OSError):
                os.unlink(path)
