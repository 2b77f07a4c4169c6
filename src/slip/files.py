"""Files that are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".writing-"
"""Prefix of names that are not finished; safe to delete."""


@contextmanager
def whole_or_not(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` when it is complete. Any number of processes may do so at once.

    `durable`: it is on disk by then, so that it stays whole when the machine fails.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at `path` by one that holds `data`."""
    with whole_or_not(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sync(path: Path) -> None:
    """Force a file's or folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
