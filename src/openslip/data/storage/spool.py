"""Large reads of remote files, fetched once for all processes of a machine, and handed on through the cache folder.

A process puts what it fetches there as a file. The next process that wants the same bytes of the same version takes
them from this file. While one process fetches, others that want the same bytes wait. The files may be deleted at any
time.
"""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openslip.data.storage import remote
from openslip.data.storage.reading import File, RemoteFile, cache_folder, cache_name
from openslip.data.storage.remote import Stat
from openslip.files import whole_or_not

SMALLEST = 1 << 20
"""Reads of at least this many bytes are shared. Smaller reads cost a server little more than the request."""
SPOOL_BYTES = 8 << 30
"""Bytes that the shared reads of a machine take on the disk at most; the oldest are removed for new ones."""
SPARE = 1 << 30
"""Bytes of the disk that are left free in any case."""
LEFT_ALONE = 60.0
"""Seconds for which a process keeps nothing after something could not be written."""
WRITERS = 10.0
"""Seconds to wait for other processes that write there. What cannot be written by then is not kept. If files cannot be
locked, nothing is kept."""
_CHECKSUM = 4

_refused = -LEFT_ALONE  # when that was


def shared(file: File, url: str, status: Stat) -> File:
    """Return `file`, opened at `url`, such that this machine's processes share its large reads.

    A local file comes back as it is; so does one whose versions the server does not tell apart.
    """
    if not isinstance(file, RemoteFile) or not status.version or url.startswith(("file:", "memory:")):
        return file
    return _SharedFile(file, f"{url} {status.size} {status.version}")


class _SharedFile:
    """A remote file whose reads of SMALLEST bytes and more are shared."""

    def __init__(self, file: File, identity: str) -> None:
        self.path, self.size = file.path, file.size
        self._file, self._identity = file, identity

    def read(self, offset: int, size: int) -> bytes:
        if size < SMALLEST:
            return self._file.read(offset, size)
        path = cache_folder() / "spans" / cache_name(f"{self._identity} {offset} {size}")
        return _load(path, size) or self._fetch(path, offset, size)

    def _fetch(self, path: Path, offset: int, size: int) -> bytes:
        if _surplus(path.parent, size) is None:
            return self._file.read(offset, size)
        with only_fetcher(path.with_suffix(".lock"), remote.PATIENCE + size / remote.SLOWEST):
            data = _load(path, size)  # by the process that this one waited for
            if data is None:
                data = self._file.read(offset, size)
                _keep(path, data)
        return data


def _load(path: Path, size: int) -> bytes | None:
    """Return the bytes that are kept at `path`, None if there are none or they are damaged."""
    try:
        with open(path, "rb") as file:
            data, checksum = file.read(size), file.read()
    except OSError:
        return None
    return data if len(data) == size and checksum == _checksum(data) else None


def _keep(path: Path, data: bytes) -> None:
    """Keep the bytes at `path`, if there is space for them.

    A file that is removed for it stays readable for its users. Files that killed processes left are removed alike.
    """
    global _refused
    try:
        with _only_writer(path.parent.with_suffix(".lock"), WRITERS):  # or several would take the same space
            surplus = _surplus(path.parent, len(data))
            if surplus is None:
                return
            for old in surplus:
                Path(old).unlink(missing_ok=True)
            # Not synced: that takes long, and the checksum reveals what a power failure makes of the file.
            with whole_or_not(path, durable=False) as file:
                file.write(data)
                file.write(_checksum(data))
    except OSError:
        _refused = time.monotonic()


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM, "little")


def _surplus(folder: Path, size: int) -> list[str] | None:
    """Return the oldest files to remove so that `size` more bytes fit; None when they do not fit even then."""
    if time.monotonic() - _refused < LEFT_ALONE:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # another process has just removed it
                status = entry.stat()
                files.append((status.st_mtime_ns, status.st_size, entry.path))
        used = sum(length for _, length, _ in files)
        limit = min(SPOOL_BYTES, used + shutil.disk_usage(folder).free - SPARE) - size - _CHECKSUM
    except OSError:
        return None
    surplus = []
    for _, length, path in sorted(files):
        if used <= limit:
            break
        surplus.append(path)
        used -= length
    return surplus if limit >= 0 else None


@contextmanager
def only_fetcher(path: Path, seconds: float) -> Iterator[None]:
    """Be the only process within the block, or wait at most `seconds` until the process within it has left.

    A process that has waited goes on beside others. What it waited for is there; or the other process has failed, and
    all should find that out for themselves at once rather than one after the other. A process that dies has left. The
    process that had the lock removes its file. At worst, a process that makes the file anew meanwhile fetches the same.
    """
    descriptor = _lock(path, seconds)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def _only_writer(path: Path, seconds: float) -> Iterator[None]:
    """Be the only one within the block, of all processes and threads. Raises OSError when that takes longer than so
    many seconds, or files cannot be locked here. Unlike that of `only_fetcher`, the lock's file stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _acquire(descriptor, seconds):
            raise TimeoutError(f"{path} cannot be locked")
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, seconds: float) -> int | None:
    """Return the descriptor of the file, locked; None when another process had it, or files cannot be locked here."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None
    if _acquire(descriptor, 0):
        return descriptor
    _acquire(descriptor, seconds)
    os.close(descriptor)
    return None


def _acquire(descriptor: int, seconds: float) -> bool:
    """Lock the file, waiting at most `seconds`; return whether it is locked. Closing the file releases the lock."""
    end, pause = time.monotonic() + seconds, 0.01
    while True:
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except (OSError, ImportError):  # files cannot be locked here
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.25)
