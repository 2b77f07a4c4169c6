"""One file out of a zip archive of many.

Python's zipfile makes an object of every member before it gives one: with a thousand members that takes longer than
decoding a photograph. In the plain archives that sets of images come in, a member is found by a search of the directory
for its name. All else is left to zipfile.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import IO

from openslip.data.limits import FILE_BYTES
from openslip.errors import DataError
from openslip.files import open_regular

_END = struct.Struct("<4s4H2LH")
"""The end record: signature, disks, entries, directory's size and offset, length of the comment."""

_ENTRY = struct.Struct("<4s6H3L5H2L")
"""A directory entry: signature, versions, flags, method, time, date, CRC, sizes, lengths, disk, attributes, offset."""

_LOCAL = struct.Struct("<4s5H3L2H")
"""What stands before a member's data: … and the lengths of its name and extra field."""

_TAIL = 1 << 16
"""Bytes read from the end at first: the directory of a thousand short names fits."""

_DIRECTORY = 32 << 20
"""Bytes of the longest directory that is read. zipfile makes half a GB of objects of a directory of this length."""

_STEP = 1 << 20
"""Bytes of a large member that are packed or unpacked at a time."""

# What zipfile raises; RuntimeError: an encrypted member, or (NotImplementedError) one compressed in an unknown way.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, LookupError, RuntimeError)


def read_member(path: str, name: str) -> bytes:
    """Return the member `name` of the zip file at `path`, whole and its checksum verified.

    Raises DataError when there is no such archive or member, it cannot be read, or unpacks to more than FILE_BYTES.
    """
    try:
        with open_regular(path) as file:
            data = _plain(file.fileno(), name)
            if data is None:
                with zipfile.ZipFile(_Guarded(file)) as archive, archive.open(name) as member:
                    data = _all(member)
    except FileNotFoundError:
        raise DataError("The zip file does not exist", got=path) from None
    except KeyError:
        raise DataError(f"The zip file has no member '{name}'", got=path) from None
    except (*_DAMAGE, OSError, MemoryError) as error:
        raise DataError(
            f"Member '{name}' of the zip file cannot be read", got=path, cause=str(error)
        ) from None
    return data


def _plain(descriptor: int, name: str) -> bytes | None:
    """Read a stored or deflated member; None when there is anything unusual about the archive or the member."""
    entry = _entry(descriptor, name.encode())
    if entry is None:
        return None
    flags, method, checksum, packed, size, offset = entry
    local = os.pread(descriptor, _LOCAL.size, offset)
    if (
        flags & 1
        or packed > os.fstat(descriptor).st_size
        or len(local) < _LOCAL.size
        or local[:4] != b"PK\3\4"
    ):
        return None
    offset += _LOCAL.size + sum(_LOCAL.unpack(local)[-2:])
    if max(packed, size) > _STEP:  # by zipfile, in steps
        return None
    data = os.pread(descriptor, packed, offset)
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(size, 1))  # 0: no limit
    elif method != zipfile.ZIP_STORED:
        return None
    return data if len(data) == size and zlib.crc32(data) == checksum else None


def _all(member: IO[bytes]) -> bytes:
    """Return a member unpacked, whatever size the archive states. Raises ValueError if it is too large."""
    whole = io.BytesIO()
    while part := member.read(_STEP):
        if whole.tell() + len(part) > FILE_BYTES:
            raise ValueError(
                f"It unpacks to more than {FILE_BYTES // 1_000_000:,} MB, which no picture needs"
            )
        whole.write(part)
    return whole.getvalue()  # not copied


class _Guarded:
    """A file for zipfile, which reads the directory with one call. The call raises if the directory is too long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_DIRECTORY + 1 if size < 0 else min(size, _DIRECTORY + 1))
        if len(data) > _DIRECTORY:
            raise ValueError(f"The archive's directory has more than {_DIRECTORY >> 20} MiB")
        return data


def _entry(descriptor: int, name: bytes) -> tuple[int, int, int, int, int, int] | None:
    """Return the flags, method, checksum, packed size, size and offset that the directory has for a member."""
    length = os.fstat(descriptor).st_size
    tail_start = max(0, length - _TAIL)
    tail = os.pread(descriptor, length - tail_start, tail_start)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < _END.size:
        return None
    *_, size, start, _ = _END.unpack_from(tail, end)
    if start + size != tail_start + end or size > _DIRECTORY:  # something before it, more than 4 GB, too long
        return None
    directory = tail[start - tail_start : end] if start >= tail_start else os.pread(descriptor, size, start)
    at = directory.rfind(name)  # of members with one name the last counts
    while at >= 0:
        if at >= _ENTRY.size and directory.startswith(b"PK\1\2", at - _ENTRY.size):
            *fields, name_length, _, _, _, _, _, offset = _ENTRY.unpack_from(directory, at - _ENTRY.size)
            if name_length == len(name):
                _, _, _, flags, method, _, _, checksum, packed, unpacked = fields
                return flags, method, checksum, packed, unpacked, offset
        at = directory.rfind(name, 0, at + len(name) - 1)
    return None
