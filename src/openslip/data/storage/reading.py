"""Read the bytes of a file on a disk of this machine or behind a URL, and keep some of them at hand."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from openslip.data.storage import remote
from openslip.data.storage.remote import Stat
from openslip.data.storage.retry import DiskError, NoRanges, is_url, shown
from openslip.errors import DataError
from openslip.files import check_regular, expand, open_descriptor, whole_or_not

WINDOW = 8 << 20
"""Bytes asked for at once when a remote file is read from its beginning to its end."""

V = TypeVar("V")


class File(Protocol):
    """A file that is read at random places; it closes with its last user."""

    path: str
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on. Raises DataError when they cannot be read."""
        ...


def stat(path: str) -> Stat:
    """Return a file's size and version. Raises DataError when there is none or it cannot be reached."""
    if not is_url(path):
        try:
            check_regular(path)
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise DataError("The file cannot be read", got=path, cause=str(error)) from None
        return Stat(status.st_size, str(status.st_mtime_ns))
    answer = remote.stat(path)
    if answer.size >= 0:
        return answer
    # The server does not say how long the file is: only a copy tells. Perhaps it does not say either if it has changed.
    return answer._replace(size=_copy(path, answer, again=not answer.version).stat().st_size)


def open_file(path: str, status: Stat) -> File:
    """Open a file whose `stat` is known. A file that a server gives only whole is fetched into the cache folder."""
    if not is_url(path):
        return LocalFile(path)
    return RemoteFile(path, status) if status.ranges else LocalFile(_copy(path, status), shown(path))


class LocalFile:
    """A file on a disk. `path`: where it is, or what to call it in messages.

    The descriptor closes with its last user: one thread cannot take it from under another's read.
    """

    def __init__(self, location: str | Path, path: str = "") -> None:
        self.path, self._descriptor = path or str(location), -1
        try:
            self._descriptor, self.size = open_descriptor(location)
        except (OSError, ValueError) as error:
            raise DataError("The file cannot be read", got=self.path, cause=str(error)) from None

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise DataError("The file cannot be read", got=self.path, cause=str(error)) from None
        if len(data) < size:
            raise DataError("The file has become shorter since it was opened", got=self.path)
        return data

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # A default value, because the interpreter empties modules, this one and `os`, before the last objects go.
        if self._descriptor >= 0:
            close(self._descriptor)


class RemoteFile:
    """A file behind a URL, read by ranges; fetched whole if its server stops serving ranges."""

    def __init__(self, url: str, status: Stat) -> None:
        self.path, self.size = shown(url), status.size
        self._url, self._status = url, status
        self._copy: LocalFile | None = None

    def read(self, offset: int, size: int) -> bytes:
        if self._copy is None:
            try:
                return remote.read(self._url, offset, size, self.size, self._status.version) if size else b""
            except NoRanges:
                self._copy = LocalFile(_copy(self._url, self._status), self.path)
        return self._copy.read(offset, size)


class ReadAhead:
    """A file read mostly forwards: small reads are served from the last WINDOW of bytes that was fetched."""

    def __init__(self, file: File) -> None:
        self.path, self.size, self._file = file.path, file.size, file
        self._start, self._window = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        if not self._start <= offset <= offset + size <= self._start + len(self._window):
            self._window = b""  # not two of them in memory
            self._window = self._file.read(offset, max(size, min(WINDOW, self.size - offset)))
            self._start = offset
        begin = offset - self._start
        return self._window[begin : begin + size]


class Stream(io.RawIOBase):
    """A file as Python's file objects are: with a position from which it is read on."""

    def __init__(self, file: File) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        data = self._file.read(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Spans:
    """Parts of a file held in memory, `spans` being their (first byte, byte after the last); one read for each."""

    def __init__(self, file: File, spans: list[tuple[int, int]]) -> None:
        self.path = file.path
        self.size = sum(end - start for start, end in spans)
        self._parts = [(start, file.read(start, end - start)) for start, end in spans]

    def read(self, offset: int, size: int) -> bytes:
        for start, data in self._parts:
            if start <= offset and offset + size <= start + len(data):
                return data[offset - start : offset - start + size]
        raise DataError("The index does not fit the file", got=self.path)


class Recent(Generic[V]):
    """The values that were used last: at most `count`, and at most `weight` bytes beside the `least` latest.

    Threads may share it. It is empty after pickling: what it holds belongs to this process.
    """

    def __init__(self, count: int = sys.maxsize, weight: int = 0, least: int = 1) -> None:
        self.count, self.weight, self.least = count, weight, least
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Recent, (self.count, self.weight, self.least)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held(self) -> int:
        """Bytes of the values that are here."""
        return sum(weight for _, weight in self._values.values())

    def get(self, key: Hashable, make: Callable[[], V], weigh: Callable[[V], int] = lambda value: 0) -> V:
        """Return the value of `key`, made if it is not here."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()  # may take long; two threads may make the same
        with self._lock:
            self._values[key] = value, weigh(value)
            while len(self) > self.least and (len(self) > self.count or self.held > self.weight):
                self._values.popitem(last=False)
        return value

    def drop(self, key: Hashable) -> None:
        """Forget the value of `key`, if it is here."""
        with self._lock:
            self._values.pop(key, None)


def cache_folder() -> Path:
    """Return the folder for what can be made again: OPENSLIP_CACHE, else `openslip` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("OPENSLIP_CACHE"):
        return expand(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openslip"


def cache_name(text: str) -> str:
    """Return a file name that stands for any text, such as a URL."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _copy(url: str, status: Stat, again: bool = False) -> Path:
    """Return the path of a whole copy of the file in the cache folder, fetched if it is not there or wanted `again`."""
    folder, name = cache_folder() / "files", cache_name(url)
    path = folder / f"{name}-{cache_name(status.version)[:8]}"
    try:
        if not again and path.exists() and status.size in (-1, path.stat().st_size):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not(path) as file:
            remote.download(url, file, status.size, status.version)
        for earlier in folder.glob(f"{name}-*"):
            if earlier != path:
                earlier.unlink(missing_ok=True)
    except (OSError, DiskError) as error:
        raise DataError(
            "A file cannot be kept in the cache folder",
            got=str(path),
            cause=f"{error}. The file is needed there because the server of {shown(url)} does not serve parts of files",
            fix="Make room, or name another folder in the environment variable OPENSLIP_CACHE",
        ) from None
    return path
