"""Read the lines of text files: UTF-8 with any line ends. Another encoding is an error that names it, not a guess."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from openslip.data.limits import TEXT_BYTES
from openslip.errors import DataError
from openslip.files import open_regular

_LOOK = 1 << 20
"""Bytes that are looked at to tell the line ends and the encoding."""
_RUN = re.compile(rb"[\x80-\xff]+")
_NO_TEXT = {
    b"PK\x03\x04": (
        "It is a zip archive, as Excel's workbooks are",
        "Save it as 'CSV UTF-8', or name it .xlsx",
    ),
    b"\xd0\xcf\x11\xe0": ("It is a workbook of an old version of Excel", "Save it as 'CSV UTF-8'"),
    b"\x1f\x8b": ("It is compressed with gzip", "Unpack it: gunzip"),
    b"PAR1": ("It is a Parquet file", "Name it .parquet"),
}
"""First bytes of files that are not text → what such a file is, and what to do."""
_OTHER_SCRIPTS = {
    "CP1251": "[а-яё]",  # in lower case, as most letters are; other encodings' bytes give a mixture
    "KOI8-R": "[а-яё]",
    "CP1253": "[Α-ώ]",
    "CP1255": "[א-ת]",
    "CP1256": "[ء-ي]",
    "SHIFT_JIS": "[\u3040-\u30ff\u4e00-\u9fff]",
    "EUC-KR": "[\uac00-\ud7a3]",
    "GB18030": "[\u4e00-\u9fff]",
    "BIG5": "[\u4e00-\u9fff]",
}
"""Encodings without a mark of their own → the letters that make up most of a text in one."""


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends, with or without byte order mark.

    All lines end as the first one does: with a line feed, perhaps after a carriage return, or, as on old Macs, with
    only a carriage return. Raises DataError when the file cannot be read, and for a line that is not UTF-8 or is too
    long to be a row of a table; the error names the line.
    """
    try:
        with open_regular(path) as raw:
            end = _line_end(raw, path)
            file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline=end)
            number = 0
            while line := file.readline(TEXT_BYTES):
                number += 1
                if len(line) >= TEXT_BYTES and not line.endswith(end):
                    raise DataError(
                        f"Line {number} of {path} is too long",
                        got=line[:200],
                        cause=f"It has more than {TEXT_BYTES // 2**20} million characters",
                        fix="Pictures do not belong in text tables: store them as files, or in Parquet",
                    )
                yield line
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (OSError, ValueError) as error:  # ValueError: no path can have a NUL
        raise DataError("The table cannot be read", got=str(path), cause=str(error)) from None


def _line_end(raw: IO[bytes], path: Path) -> str:
    """Return the line end of a file, and leave the file at its beginning."""
    head = raw.read(_LOOK)
    raw.seek(0)
    for magic, (cause, fix) in _NO_TEXT.items():
        if head.startswith(magic):
            raise DataError("The table is not a text file", got=str(path), cause=cause, fix=fix)
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and head[:1000].count(0) > len(head[:1000]) // 4:
        raise _encoded("Line 1", path, head[:60], ["UTF-16"])
    quoted = False
    for found in re.finditer(rb'[\r\n"]', head):
        if found[0] == b'"':
            quoted = not quoted
        elif not quoted:
            return "\r" if found[0] == b"\r" and head[found.end() : found.end() + 1] not in b"\r\n" else "\n"
    return "\n"


def _not_utf8(path: Path) -> DataError:
    """Return the error that names the first line that is not UTF-8, and the likely encoding."""
    with open_regular(path) as raw:
        end = _line_end(raw, path).encode()
        data = raw.read(_LOOK)
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return _encoded("Line 1", path, data[:60], ["UTF-16"])
        number, bad, start = 0, b"", 0
        raw.seek(0)
        rest = b""
        while not bad and (block := raw.read(_LOOK)):
            *whole, rest = (rest + block).split(end)
            for line in whole:
                number += 1
                if (start := _broken(line)) >= 0:
                    bad = line
                    break
            if len(rest) > TEXT_BYTES:
                break
        if not bad:
            number, bad, start = number + 1, rest, max(0, _broken(rest))
        data = data if _broken(data) >= 0 else bad
        around = bad[max(0, start - 30) : start + 40]
        return _encoded(f"Line {number}", path, around, _likely(data, old_mac=end == b"\r"))


def _broken(line: bytes) -> int:
    """Return where a line stops being UTF-8, -1 if nowhere."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1


def _likely(data: bytes, *, old_mac: bool) -> list[str]:
    """Return the encodings that a text may be in, likeliest first; none if most of the text is UTF-8."""
    runs = _RUN.findall(data)
    if sum(_broken(run) < 0 for run in runs) > len(runs) / 2:
        return []
    if sum(len(run) <= 2 for run in runs) > 0.8 * len(runs):  # accents and quotes among plain letters
        return [
            name
            for name in ("MACINTOSH", "CP1252")
            if name == "CP1252" or old_mac or not _reads(data, "CP1252")
        ]
    shares = {}
    for name, letters in _OTHER_SCRIPTS.items():
        text = "".join(run.decode(name, "ignore") for run in runs)
        share = len(re.findall(letters, text)) / max(1, len(text))
        if share > 0.7 and (_reads(data, name) or len(data) >= _LOOK):
            shares[name] = share
    return sorted(shares, key=lambda name: -round(shares[name], 1)) or ["CP1252"]


def _reads(data: bytes, name: str) -> bool:
    try:
        data.decode({"MACINTOSH": "mac_roman"}.get(name, name))
    except UnicodeDecodeError:
        return False
    return True


def _encoded(where: str, path: Path, around: bytes, names: list[str]) -> DataError:
    what, got = f"{where} of {path} is not UTF-8", str(around)
    if not names:
        return DataError(
            what,
            got=got,
            cause="Most of the file is UTF-8: this line comes from a file in another encoding, or is damaged",
            fix="Correct or remove the line; converting the whole file would spoil the other lines",
        )
    name = names[0]
    if name == "UTF-16":
        fix = "Save it as UTF-8, for example with: iconv -f UTF-16 -t UTF-8 OLD > NEW"
        return DataError(what, got=got, cause="It is UTF-16", fix=fix)
    read = around.decode({"MACINTOSH": "mac_roman"}.get(name, name), "replace").strip()
    others = f" or {', '.join(names[1:])}" if names[1:] else ""
    return DataError(
        what,
        got=got,
        cause=f"It may be {name}{others}: read that way, it says '{read}'",
        fix=f"Save it as UTF-8 (Excel: 'CSV UTF-8'), or: iconv -f {name} -t UTF-8 OLD > NEW. If the text above reads "
        "wrong, name the code page of the system that wrote it instead, such as CP1250 or CP1251",
    )
