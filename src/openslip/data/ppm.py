"""PPMs: read with NumPy the levels that Pillow reads one by one in Python, which takes minutes for large files."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import ImageFile

from openslip.data.limits import Budget
from openslip.errors import DataError

HELD = 4
"""Bytes a level that reading it takes: as a number of up to 16 bits, and what is made of it."""
BLOCK = 1 << 20
"""Bytes of text that are read at once, and levels that are scaled at once."""
_BLANKS = b" \t\n\r\x0b\x0c"
BYTE = 100
"""Values to visit that a byte of a header counts for: the cost of a Python loop."""
_BLANK, _COMMENT, _NUMBER = (
    re.compile(pattern) for pattern in (rb"[ \t\n\r\x0b\x0c]*", rb"#[^\r\n]*", rb"-?[0-9][0-9.eE+-]*")
)
_NO_NUMBER = re.compile(rb"[^-0-9 \t\n\r\x0b\x0c]|[-0-9]-|-(?![0-9])")
_LAST = re.compile(rb"[^ \t\n\r\x0b\x0c]*\Z")


def check_header(image: bytes, budget: Budget) -> None:
    """Draw the blanks and comments of a header, which Pillow reads byte by byte.

    Raises DataError for far too many, and if the header holds other than numbers, which Pillow would quote.
    """
    if not re.match(rb"P[1-6f]", image):
        return
    position = 2
    for _ in range(
        2 if image[1:2] in b"14" else 3
    ):  # width, height and, but for black and white, the largest level
        while True:
            start, position = position, _BLANK.match(image, position).end()  # type: ignore[union-attr]
            if image[position : position + 1] == b"#":
                position = _COMMENT.match(image, position).end()  # type: ignore[union-attr]
            budget.draw(samples=BYTE * (position - start + 10))
            if position == start:
                break
        if not (number := _NUMBER.match(image, position)):
            raise _damaged("Its header is not made of numbers")
        position = number.end()


def read(image: bytes, opened: ImageFile.ImageFile, budget: Budget) -> np.ndarray | None:
    """Return the levels of a PPM as Pillow has them, (H, W) uint8 or uint16 or (H, W, 3) uint8; None for one that
    Pillow copies as it is.

    Raises DataError where levels are missing, too large, or none; draws the memory and the values.
    """
    decoder, _, start, arguments = opened.tile[0]
    options: Any = arguments
    if decoder not in ("ppm", "ppm_plain"):
        return None
    width, height = opened.size
    colours = 3 if opened.mode == "RGB" else 1
    count = width * height * colours
    # A text may hold little but blanks and comments: each of its bytes is visited, and may be copied twice.
    length = len(image) - start
    budget.draw(memory=count * HELD + 2 * length * (decoder == "ppm_plain"), samples=count + length)
    data = memoryview(image)[start:]
    if opened.mode == "1":
        most, white, levels = 1, 255, _bits(data, count)
    else:
        most, white = int(options[-1]), 65535 if opened.mode == "I" else 255
        levels = _plain(data, count, most) if decoder == "ppm_plain" else _binary(data, count, most)
    if len(levels) < count:
        raise _damaged(f"It has {len(levels):,} of {count:,} levels")
    table = np.rint(np.arange(most + 1) / most * white).astype(np.uint16 if opened.mode == "I" else np.uint8)
    scaled = np.empty(count, table.dtype)
    for start in range(0, count, BLOCK):
        scaled[start : start + BLOCK] = table[levels[start : start + BLOCK]]
    return scaled.reshape((height, width, 3) if colours == 3 else (height, width))


def _bits(data: memoryview, count: int) -> np.ndarray:
    """Return levels of black and white, written as 0s and 1s; 1 is black."""
    bits = np.frombuffer(_without_comments(data).translate(None, _BLANKS), np.uint8, -1)[:count]
    if not np.isin(bits, (48, 49)).all():
        raise _damaged("It holds other values than 0 and 1")
    return 49 - bits


def _plain(data: memoryview, count: int, most: int) -> np.ndarray:
    """Return levels that are written in decimals."""
    text = _without_comments(data)
    levels, filled, rest = np.empty(count, np.uint16), 0, b""
    for start in range(0, len(text), BLOCK):
        part = rest + text[start : start + BLOCK]
        rest = b""
        if start + BLOCK < len(text):  # a number may go on in the next part
            start = _LAST.search(part).start()  # type: ignore[union-attr]
            part, rest = part[:start], part[start:]
        numbers = _numbers(part, most)[: count - filled]
        levels[filled : filled + len(numbers)] = numbers
        filled += len(numbers)
        if filled == count:
            break
    return levels[:filled]


def _numbers(text: bytes, most: int) -> np.ndarray:
    """Return the numbers in a text. Raises DataError for what is none, and for those beyond 0 to `most`."""
    text = text.strip(_BLANKS)
    if not text:
        return np.empty(0, np.int64)
    if _NO_NUMBER.search(text):  # of which NumPy would warn
        raise _damaged("It holds levels that are no whole numbers")
    numbers = np.fromstring(text, np.int64, sep=" ")
    if numbers.min() < 0 or numbers.max() > most:
        raise _damaged(f"It holds levels from {numbers.min()} to {numbers.max()}, beyond 0 to {most}")
    return numbers


def _binary(data: memoryview, count: int, most: int) -> np.ndarray:
    """Return levels of one or two bytes. Levels beyond the largest count as the largest, as in Pillow."""
    kind = np.dtype(np.uint8 if most < 256 else ">u2")
    return np.minimum(np.frombuffer(data, kind, min(count, len(data) // kind.itemsize)), most)


def _without_comments(data: memoryview) -> bytes:
    return re.sub(rb"#[^\r\n]*", b"", data)


def _damaged(cause: str) -> DataError:
    return DataError("The PPM is damaged", cause=cause, fix="Get the file anew, or leave it out")
