"""Files that are opened only where they are files, and replaced whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".writing-"
"""Prefix of names that are not finished; safe to delete."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading, as bytes.

    Raises OSError where there is none, also for a pipe or device, which might never answer or never end, and for what
    the kernel makes up under /proc and /sys; ValueError for a path that no file can have.
    """
    return os.fdopen(open_descriptor(path)[0], "rb")


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~user` at its beginning replaced; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def read_whole(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the bytes of a regular file. Raises OSError as `open_regular` does, and for more than `most` bytes."""
    descriptor, size = open_descriptor(path)
    try:
        parts, have = [], 0
        while have <= most:
            # A byte more than the file has tells its end in one go.
            asked = min(max(size, have) + 1 - have, most + 1 - have)
            part = os.read(descriptor, asked)
            parts.append(part)
            have += len(part)
            if not part or (have == size and len(part) < asked):
                return part if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"It has more than {most / 1e6:,.0f} MB", str(path))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError or ValueError as `open_regular` does: for libraries that open a path themselves."""
    os.close(open_descriptor(path)[0])


def open_descriptor(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Open a regular file; return the descriptor, and how many bytes it has. Raises as `open_regular` does."""
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "It is a folder", str(path))
        if not stat.S_ISREG(status.st_mode) or status.st_dev in _made_up():
            raise OSError(errno.EINVAL, "It is no regular file, but a pipe, a device or the like", str(path))
        return descriptor, status.st_size
    except BaseException:
        os.close(descriptor)
        raise


@cache
def _made_up() -> frozenset[int]:
    """Return the devices of file systems whose files are no files."""
    return frozenset(os.stat(path).st_dev for path in ("/proc", "/sys") if os.path.isdir(path)) - {
        os.stat("/").st_dev
    }


@contextmanager
def whole_or_not(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` when it is complete. Any number of processes may do so at once.

    `durable`: it is on disk by then, so that it stays whole when the machine fails.
    """
    try:
        if "\0" in os.fsdecode(os.fsencode(path)):
            raise ValueError("NUL")
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    except ValueError as error:
        raise OSError(errno.EINVAL, "No file can be called so", str(path)) from error
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
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    try:
        write_text(path, text)
    except UnicodeEncodeError:  # names of files that are no text
        write_text(path, json.dumps(value, indent=1) + "\n")


def sync(path: Path) -> None:
    """Force a file's or folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
