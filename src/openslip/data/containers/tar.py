"""Where the members of a tar file lie, found by walking over its headers.

The standard library's `tarfile` takes five times as long, and ends in silence where a file is cut off within a header
or lacks its end mark. Formats: POSIX.1-1988 (ustar) and POSIX.1-2001 (pax), and GNU's long names and large sizes.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from openslip.data.storage.reading import File
from openslip.data.storage.retry import is_url
from openslip.errors import DataError

BLOCK = 512
"""Headers and data start at multiples of this many bytes."""

MAX_EXTENDED = 1 << 20
"""Bytes of an extended header beyond which it is taken for damage, not read into memory."""

RECORD = 20 * BLOCK
"""The size up to which tar programs fill with zeros unless told otherwise."""
LONG_PADDING = 1 << 20
"""Bytes of zeros at a file's end from which on they are worth a remark."""

_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_HARD_LINK, _SYMBOLIC_LINK, _SPARSE = b"1", b"2", b"S"
_WITHOUT_DATA = (_HARD_LINK, _SYMBOLIC_LINK, b"3", b"4", b"5", b"6")  # devices, folders, pipes
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
    """A file: `size` bytes at `offset`. `extended`: its name is not the one in the header just before.

    link: for a hard or symbolic link, which has no data itself, the name of the member that has the data. sparse: the
    data lie in pieces, and cannot be read by `offset` and `size`.
    """

    name: str
    offset: int
    size: int
    extended: bool
    link: str = ""
    sparse: bool = False


def members(file: File, remark: Callable[[str], None] = lambda text: None) -> Iterator[Member]:
    """Yield the files and links of an uncompressed tar file. Several tar files one after the other count as one.

    The end mark is two blocks of zeros. At the end, `remark` is called with what is odd behind an end mark, but no sure
    damage. Raises DataError when the file cannot be read, is no tar file, is cut off or damaged (after the members
    before the damage).
    """
    total = file.size
    if total < BLOCK:
        raise _damaged(file.path, file.read(0, total), 0, 0)
    offset = count = begin = 0
    joined: list[int] = []  # where further tar files begin
    ended = False
    pax: dict[str, str] = {}  # from extended headers, for the member that follows
    while offset + BLOCK <= total:
        header = file.read(offset, BLOCK)
        if header == _ZEROS:
            end = _after_zeros(file, offset)
            if end < total or pax:
                _refuse_lost_sector(file, offset, end, begin, count, pending=bool(pax))
            elif end - offset > LONG_PADDING:
                remark(
                    f"{end - offset:,} bytes of zeros end {file.path}: so does a download that was not finished"
                )
            ended, offset = True, end
            continue
        if not is_header(header):
            if ended:
                remark(f"{total - offset:,} bytes after the end mark of {file.path} are no members")
                break
            raise _damaged(file.path, header, offset, count)
        if ended:
            joined.append(offset)
            begin = offset
        ended, kind, start = False, header[156:157], offset + BLOCK
        try:
            if pax or kind not in _REGULAR:
                start, size = _data(file, header, start, pax)
            elif (size := header_size(header)) < 0:
                raise ValueError
        except (ValueError, IndexError):
            raise _damaged(file.path, header, offset, count) from None
        if start + size > total:
            raise _cut_off(file.path, offset, total, count)
        if kind in _REGULAR:
            yield _file(pax, header, start, size) if pax else Member(header_name(header), start, size, False)
            count += 1
        elif kind in (_HARD_LINK, _SYMBOLIC_LINK, _SPARSE):
            yield _link(pax, header, start, size)
            count += 1
        if kind not in _EXTENDED:
            pax = {}
        offset = start + -(-size // BLOCK) * BLOCK
    if not ended:
        raise _cut_off(file.path, min(offset, total), total, count)
    if joined:
        remark(
            f"{file.path} goes on after an end mark, at byte {joined[0]:,}: {len(joined) + 1} archives one after the "
            "other, or sectors lost to zeros"
        )


def _data(file: File, header: bytes, start: int, pax: dict[str, str]) -> tuple[int, int]:
    """Return where the data of a header lie, and their size; an extended header's are read into `pax`.

    Raises ValueError or IndexError where the header makes no sense.
    """
    kind = header[156:157]
    size = 0 if kind in _WITHOUT_DATA else int(pax["size"]) if "size" in pax else header_size(header)
    if kind == _SPARSE:
        start = _after_map(file, header, start)
    if size < 0:
        raise ValueError
    if kind in b"LKx" and start + size <= file.size:
        if size > MAX_EXTENDED:
            raise ValueError
        data = file.read(start, size)
        if kind == b"x":
            pax |= _pax(data)
        else:
            pax["path" if kind == b"L" else "linkpath"] = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    return start, size


def _file(pax: dict[str, str], header: bytes, start: int, size: int) -> Member:
    """Return a regular file that extended headers describe."""
    sparse = "GNU.sparse.major" in pax or "GNU.sparse.map" in pax
    name = pax.get("GNU.sparse.name") or pax.get("path")
    return Member(name or header_name(header), start, size, name is not None, sparse=sparse)


def _link(pax: dict[str, str], header: bytes, start: int, size: int) -> Member:
    """Return a link, or what is stored as a sparse file."""
    name, kind = pax.get("path") or header_name(header), header[156:157]
    if kind == _SPARSE:
        return Member(name, start, size, "path" in pax, sparse=True)
    target = pax.get("linkpath") or header[157:257].split(b"\0", 1)[0].decode("utf-8", "replace")
    if kind == _SYMBOLIC_LINK:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return Member(name, start, size, "path" in pax, target or "?")


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


def _after_map(file: File, header: bytes, start: int) -> int:
    """Return where the data of GNU's old sparse files begin: after the blocks of their map."""
    more = header[482]
    while more:
        if start + BLOCK > file.size:
            raise ValueError
        more, start = file.read(start, BLOCK)[504], start + BLOCK
    return start


def _after_zeros(file: File, offset: int) -> int:
    """Return where the first block from `offset` on lies that is not all zeros, or the end of the file."""
    while size := min(1 << 20, file.size - offset):
        if rest := file.read(offset, size).lstrip(b"\0"):
            return (offset + size - len(rest)) // BLOCK * BLOCK
        offset += size
    return offset


def _refuse_lost_sector(file: File, offset: int, end: int, begin: int, count: int, *, pending: bool) -> None:
    """Raise DataError when zeros from `offset` to `end` are no end mark, but replace headers and data.

    Zeros are no end mark after an extended header (`pending`), nor is a single block of zeros before anything else, nor
    are zeros that a header follows later but not at once. If a header follows at once, an end mark has as many zeros as
    some program writes at the end of a tar file, which began at `begin`: two blocks, or a fill up to whole records.
    """
    blocks = (end - offset) // BLOCK
    follows = end if end < file.size and is_header(file.read(end, min(BLOCK, file.size - end))) else -1
    usual = blocks == 2 or 0 in ((end - begin) % RECORD, end % RECORD)
    if follows < 0:
        follows = _next_header(file, end)
    if not pending and blocks > 1 and (follows < 0 or (follows == end and usual)):
        return
    after = f"; members follow at byte {follows:,}" if follows >= 0 else ""
    raise DataError(
        f"The tar shard is damaged at byte {offset:,}",
        got=file.path,
        cause=f"The {count:,} files before it are readable; then {end - offset:,} bytes of zeros replace "
        f"what was there{after}",
        fix="Fetch it again, or remove it"
        + ("; if these are archives joined with cat, join them with tar --concatenate" if blocks > 1 else ""),
    )


def _next_header(file: File, offset: int) -> int:
    """Return where the next block lies that is a header, from `offset` on; -1 if there is none."""
    while (size := min(1 << 20, file.size - offset)) >= BLOCK:
        data = file.read(offset, size)
        for at in range(0, size - BLOCK + 1, BLOCK):
            if is_header(data[at : at + BLOCK]):
                return offset + at
        offset += size
    return -1


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
