"""Large reads of remote files, fetched once for all processes of a machine, and handed on through the cache folder.

What a process fetches it puts there as a file; the next one that wants the same bytes of the same version of the file
takes them from it. While one fetches, others that want the same wait. The files may be deleted at any time.
"""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slip.data.storage import remote
from slip.data.storage.files import File, RemoteFile, cache_folder, cache_name
from slip.data.storage.remote import Stat
from slip.files import whole_or_not

SMALLEST = 1 << 20
"""Bytes of a read from which on it is shared. Smaller ones cost a server little more than asking."""
SPOOL_BYTES = 8 << 30
"""Bytes that the shared reads of a machine take on the disk at most; the oldest make room for new ones."""
SPARE = 1 << 30
"""Bytes of the disk that are left free by all means."""
LEFT_ALONE = 60.0
"""Seconds for which a process keeps nothing after the disk has refused to hold it."""
_CHECKSUM = 4

_refused = -LEFT_ALONE  # when the disk last did


def shared(file: File, url: str, status: Stat) -> File:
    """Return `file`, opened at `url`, such that this machine's processes share its large reads.

    A local file comes back as it is; so does one whose versions the server does not tell apart.
    """
    if not isinstance(file, RemoteFile) or not status.version or url.startswith(("file:", "memory:")):
        return file
    return _SharedFile(file, f"{url} {status.size} {status.version}")


class _SharedFile:
    """A remote file that reads of SMALLEST bytes and more are shared of."""

    def __init__(self, file: File, identity: str) -> None:
        self.path, self.size = file.path, file.size
        self._file, self._identity = file, identity

    def read(self, offset: int, size: int) -> bytes:
        if size < SMALLEST:
            return self._file.read(offset, size)
        place = cache_folder() / "spans" / cache_name(f"{self._identity} {offset} {size}")
        return _load(place, size) or self._fetch(place, offset, size)

    def _fetch(self, place: Path, offset: int, size: int) -> bytes:
        if not _room(place.parent, size):
            return self._file.read(offset, size)
        with _turn(place.with_suffix(".lock"), remote.PATIENCE + size / remote.SLOWEST):
            data = _load(place, size)  # by whom this one waited for
            if data is None:
                data = self._file.read(offset, size)
                _keep(place, data)
        return data


def _load(place: Path, size: int) -> bytes | None:
    """Return the bytes that are kept at a place, None if there are none or they are damaged."""
    try:
        with open(place, "rb") as file:
            data, checksum = file.read(size), file.read()
    except OSError:
        return None
    return data if len(data) == size and checksum == _checksum(data) else None


def _keep(place: Path, data: bytes) -> None:
    global _refused
    try:
        # Not synced: that takes long, and what a power failure makes of it is noticed by the checksum.
        with whole_or_not(place, durable=False) as file:
            file.write(data)
            file.write(_checksum(data))
    except OSError:
        _refused = time.monotonic()


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM, "little")


def _room(folder: Path, size: int) -> bool:
    """Remove the oldest files until there is room for `size` more bytes; return whether there is.

    A file in use stays readable for its users. What killed processes have left is removed in its turn.
    """
    if time.monotonic() - _refused < LEFT_ALONE:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # another process has just removed it
                status = entry.stat()
                files.append((status.st_mtime_ns, status.st_size, entry.path))
        used = sum(length for _, length, _ in files)
        limit = min(SPOOL_BYTES, used + shutil.disk_usage(folder).free - SPARE) - size - _CHECKSUM
        if limit < 0:
            return False
        for _, length, path in sorted(files):
            if used <= limit:
                break
            Path(path).unlink(missing_ok=True)
            used -= length
    except OSError:
        return False
    return True


@contextmanager
def _turn(place: Path, seconds: float) -> Iterator[None]:
    """Be the one process within the block; or wait until another that is has left it, for so many seconds at most.

    Who has waited goes on beside others: what it waited for is there, or the other one has failed, which all should
    find out for themselves at once rather than one after the other. A process that dies has left. The lock's file is
    removed by who had it; who makes it anew meanwhile fetches the same at worst.
    """
    descriptor = _lock(place, seconds)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                place.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(place: Path, seconds: float) -> int | None:
    """Return the descriptor of the file, locked; None when another process had it, or files cannot be locked here."""
    try:
        import fcntl

        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except (OSError, ImportError):
        return None

    def taken() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    end, pause = time.monotonic() + seconds, 0.01
    with suppress(OSError):
        if not taken():
            return descriptor
        while time.monotonic() < end and taken():
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
    os.close(descriptor)
    return None
