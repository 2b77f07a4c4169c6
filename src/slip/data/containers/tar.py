"""Where the members of a tar file lie, found by walking over its headers.

The standard library's `tarfile` takes five times as long, and ends in silence where a file is cut off within a header
or lacks its end mark. Formats: POSIX.1-1988 (ustar) and POSIX.1-2001 (pax), and GNU's long names and large sizes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from slip.data.storage.files import File
from slip.data.storage.retry import is_url
from slip.errors import DataError

BLOCK = 512
"""Headers and data start at multiples of this many bytes."""

MAX_EXTENDED = 1 << 20
"""Bytes of an extended header beyond which it is taken for damage, not read into memory."""

_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_EXTENDED = (
    b"L",
    b"K",
    b"x",
    b"g",
)  # about the member that follows: GNU's long name and link, pax, pax for all
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}


class Member(NamedTuple):
    """A regular file: `size` bytes at `offset`. `extended`: its name is not the one in the header just before."""

    name: str
    offset: int
    size: int
    extended: bool


def members(file: File) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar file. Several tar files one after the other count as one.

    Raises DataError when the file cannot be read, is no tar file, is cut off or damaged (after the members before).
    """
    total = file.size
    if total < BLOCK:
        raise _damaged(file.path, file.read(0, total), 0, 0)
    offset = count = 0
    ended = False
    pax: dict[str, str] = {}  # from extended headers, for the member that follows
    while offset + BLOCK <= total:
        header = file.read(offset, BLOCK)
        if header == _ZEROS:
            ended, offset = True, _after_zeros(file, offset)
            continue
        if not is_header(header):
            if ended:  # what follows the end mark and is no further tar file is none of our business
                return
            raise _damaged(file.path, header, offset, count)
        ended, kind, start = False, header[156:157], offset + BLOCK
        try:
            size = 0 if kind in _WITHOUT_DATA else int(pax["size"]) if "size" in pax else header_size(header)
            if size < 0:
                raise ValueError
            if start + size > total:
                raise _cut_off(file.path, offset, total, count)
            if kind in b"Lx" and size > MAX_EXTENDED:
                raise ValueError
            if kind == b"L":
                pax["path"] = file.read(start, size).split(b"\0", 1)[0].decode("utf-8", "replace")
            elif kind == b"x":
                pax |= _pax(file.read(start, size))
        except (ValueError, IndexError):
            raise _damaged(file.path, header, offset, count) from None
        if kind in _REGULAR:
            yield Member(pax.get("path") or header_name(header), start, size, "path" in pax)
            count += 1
        if kind not in _EXTENDED:
            pax = {}
        offset = start + -(-size // BLOCK) * BLOCK
    if not ended:
        raise _cut_off(file.path, min(offset, total), total, count)


def header_name(header: bytes) -> str:
    """Return the member name that a header holds, its first 256 characters at most."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:  # GNU's "ustar " uses the prefix field for other things
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "replace")


def is_header(header: bytes) -> bool:
    """Whether the block's checksum is that of a tar header: the sum of its bytes, the checksum's own as spaces.

    The sum comes from Adler-32, whose low half is 1 + the sum of the bytes, modulo 65521: many times faster than `sum`.
    """
    field = header[148:156]
    try:
        stated = int(field.strip(b" \0"), 8)
    except ValueError:
        return False
    return (zlib.adler32(header) & 0xFFFF) == (1 + stated + sum(field) - 8 * ord(" ")) % 65521


def header_size(header: bytes) -> int:
    """Return the size that a header states. Raises ValueError when it is no number."""
    if header[124] == 0x80:  # GNU: too large for the octal field
        return int.from_bytes(header[125:136], "big")
    return int(header[124:136].strip(b" \0") or b"0", 8)


def _pax(data: bytes) -> dict[str, str]:
    """Parse the records of an extended header, each `length key=value`, the length its own digits included."""
    records, start, data = {}, 0, data.rstrip(b"\0")
    while start < len(data):
        space = data.index(b" ", start)
        end = start + int(data[start:space])
        if end <= space:
            raise ValueError
        key, _, value = data[space + 1 : end].partition(b"=")
        records[key.decode()] = value[:-1].decode("utf-8", "replace")
        start = end
    return records


def _after_zeros(file: File, offset: int) -> int:
    """Return where the first block from `offset` on lies that is not all zeros, or the end of the file."""
    while size := min(1 << 20, file.size - offset):
        if rest := file.read(offset, size).lstrip(b"\0"):
            return (offset + size - len(rest)) // BLOCK * BLOCK
        offset += size
    return offset


def _cut_off(path: str, offset: int, total: int, count: int) -> DataError:
    return DataError(
        "The tar shard is cut off",
        got=path,
        cause=f"It is readable up to byte {offset:,} of {total:,}, which gives {count:,} whole files; then "
        + ("its end mark is missing" if offset == total else "a file begins that does not end"),
        fix="Fetch it again, or remove it"
        + (
            f"; if you know it to be whole, add an end mark: truncate -s +1024 {path}"
            if offset == total and not is_url(path)
            else ""
        ),
    )


def _damaged(path: str, header: bytes, offset: int, count: int) -> DataError:
    if not header:
        return DataError("The tar shard is empty", got=path, fix="Fetch it again, or remove it")
    if offset:
        return DataError(
            f"The tar shard is damaged at byte {offset:,}",
            got=path,
            cause=f"The {count:,} files before it are readable; there is no tar header there",
            fix="Fetch it again, or remove it",
        )
    for magic, (name, command) in _COMPRESSED.items():
        if header.startswith(magic):
            return DataError(
                f"The tar shard is compressed ({name})",
                got=path,
                cause="Records are read from the middle of a shard, which only an uncompressed one allows",
                fix=f"Unpack it to a plain .tar, for example with {command}; JPEGs hardly shrink anyway",
            )
    return DataError("The file is not a tar file", got=path, cause=f"It starts with {header[:40]!r}")
