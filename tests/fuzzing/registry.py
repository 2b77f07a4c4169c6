"""What the fuzz knows of a reader, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """files: the sample, by path. read: reads all of it, below a folder; raises SlipError for what cannot be read.

    damaged: a pattern of the paths that are damaged. mend: puts checksums right after the damage, half of the time, so
    that it reaches what is behind them. megabytes, seconds: of memory and of a core, that reading may take; the
    slowest machine that tests run on needs a tenth.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], object]
    damaged: str = ""
    mend: Callable[[bytes], bytes] | None = None
    megabytes: int = 900
    seconds: int = 20


READERS: dict[str, Reader] = {}


def register(name: str, files: Callable[[], Files], read: Callable[[Path], object], **options: Any) -> None:
    READERS[name] = Reader(name, cache(files), read, **options)
