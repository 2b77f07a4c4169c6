"""All readers that the fuzz knows: a new one joins by `register` or `source` in the module that is about its kind.

What is imported inside a function there fails only its own reader where it is gone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from fuzzing import labelled, ours, pictures, published, sources
from fuzzing.registry import READERS, Reader
from openslip.errors import DataError

__all__ = ["BROKEN", "READERS", "Reader", "labelled", "ours", "pictures", "published", "sources"]


# Readers that do what none may, for a test of the fuzz itself.


def _raise(folder: Path) -> None:
    raise ValueError("a traceback")


def _refuse(folder: Path) -> None:
    raise DataError("It is refused, though it is whole")


def _die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _leave(folder: Path) -> None:
    os._exit(3)


def _loop(folder: Path) -> None:
    while True:
        pass


def _eat(folder: Path) -> None:
    np.ones(60_000_000, np.uint8).sum()


BROKEN = {
    name: Reader(name, lambda: {"a": b"a"}, read, megabytes=30, seconds=1)
    for name, read in (
        *(("raises", _raise), ("refuses", _refuse), ("dies", _die)),
        *(("leaves", _leave), ("loops", _loop), ("eats", _eat)),
    )
}
