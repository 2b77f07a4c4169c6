"""Requests for files elsewhere: over HTTP, and through fsspec for everything else.

Every request has an end: a server that is silent for PATIENCE seconds, or slower than SLOWEST, counts as failed, and
is asked again (see `retry`).

HTTP goes through the session of fsspec's file system, so that fsspec's configuration (headers, proxies, certificates)
applies. It does not go through fsspec's `cat_file`, which takes a whole file for the range that was asked for.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from openslip.data.storage.retry import Changed, DiskError, NoRanges, Status, forget, is_http, persist
from openslip.files import check_regular

if TYPE_CHECKING:
    from aiohttp import ClientResponse

PATIENCE = 30.0
"""Seconds that a server may be silent."""
SLOWEST = 250_000
"""Bytes a second that a server must send beside that."""
LONGEST_DOWNLOAD = 6 * 3600.0
"""Seconds for a file of which the server does not say the size."""
CHUNK = 1 << 20

T = TypeVar("T")
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)


class Stat(NamedTuple):
    """A file's size in bytes, the version of its content, and whether parts of the file can be asked for."""

    size: int
    version: str
    ranges: bool = True


def stat(url: str) -> Stat:
    """Ask for size and version, and whether ranges are served. A size of -1: the server does not say.

    Raises DataError when there is no such file, it may not be read, or the server fails.
    """
    forget(url)
    if is_http(url):
        # Not HEAD, which signed addresses refuse, and which promises ranges that GET then does not keep.
        return persist(url, lambda: _get(url, PATIENCE * 2, _stat_of, {"Range": "bytes=0-0"}))
    info = persist(url, lambda: _fsspec(url, PATIENCE * 2, _info))
    version = next((f"{key}={info[key]}" for key in _VERSIONS if info.get(key)), "")
    return Stat(int(info.get("size") or 0), version)


def read(url: str, offset: int, size: int, total: int, version: str = "", *, announce: bool = True) -> bytes:
    """Return `size` bytes from `offset` on of a file of `total` bytes, of this version if a web server tells versions.

    announce: whether to print a line when the file is given up, see `persist`.
    Raises DataError when the bytes cannot be read or the file has changed, NoRanges when the server does not serve
    parts of files.
    """
    seconds = PATIENCE + size / SLOWEST
    if not is_http(url):

        def ask() -> bytes:
            data = _fsspec(url, seconds, lambda system, path: system.cat_file(path, offset, offset + size))
            if len(data) != size:
                raise OSError(f"{len(data):,} bytes came instead of {size:,}")
            return data

        return persist(url, ask, announce=announce)

    async def take(response: ClientResponse) -> bytes:
        _check_version(response, version)
        part = _content_range(response)
        if part is None and (response.status != 200 or size < total):
            raise NoRanges
        if part and part[2] != total:
            raise Changed(f"It has {part[2]:,} bytes instead of {total:,}")
        if part and part[:2] != (offset, offset + size - 1):
            raise OSError(f"Bytes {part[0]:,} to {part[1]:,} came instead of {size:,} from {offset:,} on")
        return await _body(response, size)

    headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
    return persist(url, lambda: _get(url, seconds, take, headers), announce=announce)


def download(url: str, file: IO[bytes], size: int, version: str = "", *, announce: bool = True) -> int:
    """Write the whole of a web server's file into `file`; return its size, which is `size` unless that is -1.

    announce: as for `read`. Raises DataError when the file cannot be fetched or has another `version`, DiskError when
    it cannot be written.
    """

    async def take(response: ClientResponse) -> int:
        _check_version(response, version)
        announced = response.headers.get("Content-Length", "")
        if size >= 0 and announced.isdigit() and int(announced) != size:
            raise Changed(f"It has {int(announced):,} bytes instead of {size:,}")
        _on_disk(file.truncate, 0)
        _on_disk(file.seek, 0)
        have = 0
        async for chunk in response.content.iter_chunked(CHUNK):
            have += len(chunk)
            if 0 <= size < have:
                break
            _on_disk(file.write, chunk)
        if have != size >= 0:
            raise OSError(f"{have:,} bytes came instead of {size:,}")
        return have

    seconds = PATIENCE + size / SLOWEST if size >= 0 else LONGEST_DOWNLOAD
    return persist(url, lambda: _get(url, seconds, take, {}), announce=announce)


def glob(pattern: str) -> list[str]:
    """Return the URLs that a pattern on a file system other than a web server's matches, sorted."""

    def ask(system: Any, path: str) -> list[str]:
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))

    forget(pattern)
    return persist(pattern, lambda: _fsspec(pattern, PATIENCE * 4, ask))


def is_folder(url: str) -> bool:
    """Whether the URL, not a web server's, is that of a folder."""
    forget(url)
    return persist(url, lambda: _fsspec(url, PATIENCE * 2, lambda system, path: system.isdir(path)))


# HTTP


@cache
def _http_system(process: int) -> Any:
    """Return fsspec's file system for HTTP, one a process: its event loop does not survive a fork."""
    import fsspec
    from fsspec.config import conf

    client = {"trust_env": True} | conf.get("http", {}).get("client_kwargs", {})  # proxies of the environment
    return fsspec.filesystem("http", skip_instance_cache=True, client_kwargs=client)


def _get(
    url: str, seconds: float, take: Callable[[ClientResponse], Awaitable[T]], headers: dict[str, str]
) -> T:
    """Send one request; return what `take` makes of the response, or raise what went wrong, within `seconds`."""
    from aiohttp import ClientTimeout
    from fsspec.asyn import sync

    system = _http_system(os.getpid())

    async def send() -> T:
        session = await system.set_session()
        timeout = ClientTimeout(total=seconds, sock_connect=PATIENCE, sock_read=PATIENCE)
        options = dict(system.kwargs)
        # A tar compressed on the way would have other offsets.
        asked = options.pop("headers", {}) | {"Accept-Encoding": "identity"} | headers
        async with session.get(system.encode_url(url), **options, headers=asked, timeout=timeout) as response:
            if response.status not in (200, 206) and not _is_empty(response):
                after = response.headers.get("Retry-After", "")
                raise Status(response.status, response.reason or "", float(after) if after.isdigit() else 0.0)
            return await take(response)

    # A second later than aiohttp's own, which tells more; it also ends what hangs outside of a request.
    answer: Any = sync(system.loop, send, timeout=seconds + 1)
    return answer


async def _stat_of(response: ClientResponse) -> Stat:
    version = next(_versions(response), "")
    if _is_empty(response):
        return Stat(0, version)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return Stat(-1, version, ranges=False)  # sizes and places would be those of the compressed file
    if part := _content_range(response):
        return Stat(part[2], version)
    length = response.headers.get("Content-Length", "")
    return Stat(int(length) if length.isdigit() and response.status == 200 else -1, version, ranges=False)


def _versions(response: ClientResponse) -> Iterator[str]:
    """Return what the server tells of the content's version, the best first."""
    return filter(None, (response.headers.get(name, "") for name in ("ETag", "Last-Modified")))


def _check_version(response: ClientResponse, version: str) -> None:
    """Raise Changed when the answer is of another version, if the version is known."""
    versions = list(_versions(response))
    # A proxy may call the same ETag a weak one.
    if version and versions and version.removeprefix("W/") not in (v.removeprefix("W/") for v in versions):
        raise Changed(f"It is version {versions[0]} instead of {version}")


def _on_disk(write: Callable[[Any], Any], what: Any) -> None:
    try:
        write(what)
    except OSError as error:
        raise DiskError(str(error)) from None


async def _body(response: ClientResponse, size: int) -> bytes:
    """Return the body, which must have `size` bytes; no more are read, whatever the server sends."""
    chunks, have = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        have += len(chunk)
        if have > size:
            break
    if have != size:
        raise OSError(f"{have:,} bytes came instead of {size:,}")
    return b"".join(chunks)


def _content_range(response: ClientResponse) -> tuple[int, int, int] | None:
    """Return first byte, last byte and total size that a partial answer states."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    if response.status != 206 or match is None:
        return None
    first, last, total = map(int, match.groups())
    return first, last, total


def _is_empty(response: ClientResponse) -> bool:
    """Whether the first byte cannot be had because there is none."""
    return response.status == 416 and response.headers.get("Content-Range", "").endswith("*/0")


# Everything else


def _info(system: Any, path: str) -> dict[str, Any]:
    """Return what a file system says of a file. Raises ValueError for a pipe or device of this machine."""
    inner = getattr(system, "fs", None) or system  # of a chain, such as simplecache::file:///…
    if "file" in (protocols := getattr(inner, "protocol", ())) or protocols == "file":
        try:
            check_regular(path)
        except OSError as error:
            if error.errno == errno.EINVAL:  # it will be no file the next time either
                raise ValueError(error.strerror) from None
            raise
    return system.info(path)


def _fsspec(url: str, seconds: float, ask: Callable[[Any, str], T]) -> T:
    """Return `ask(file system, path)`; TimeoutError after `seconds`, which not every file system has by itself."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)  # not in the thread below: fsspec keeps one for each process and thread
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, ask(system, path)))
        except BaseException as error:
            answers.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"No answer within {seconds:.0f} s") from None
    if not good:
        raise answer
    return answer
