"""JPEGs: their pixels by way of libjpeg-turbo, which says what is wrong with them, where Pillow keeps silent."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from slip.errors import DataError

SURPLUS = 8
"""Bytes that may be left between the picture's last block and its end. Decoders read about as many ahead, so that
they notice fewer by chance only; some cameras pad with a few. After damage there are hundreds or thousands."""

_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_DAMAGED = ("Corrupt JPEG data", "Premature end of JPEG file")
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN = 0xDA


def read(image: bytes, colours: str = "RGB", height: int = 1, width: int = 1) -> np.ndarray | None:
    """Decode a JPEG to (H, W, C) uint8 as stored, not turned: C is 3 for RGB and 4 for CMYK, which only CMYK files can.

    The result has at least `height` × `width` pixels, at an eighth, a quarter, … of the picture's size. Small ones
    are the way to judge a file: all of its data are read, but hardly any pixels are made.

    Raises DataError where data of the picture are missing or wrong, as far as the code in which they are written
    shows it: it breaks off, holds what means nothing, or holds more or less than the picture's blocks. What follows
    the picture's end, and SURPLUS bytes before it, do not matter. A few flipped bits can make another valid picture:
    no decoder notices these.

    Returns None for what libjpeg-turbo, as simplejpeg uses it, does not know or only wonders about (uncommon
    subsampling, an unknown JFIF version, …): whether that is a picture is for others to say.
    """
    try:
        return simplejpeg.decode_jpeg(image, colours, min_height=height, min_width=width)
    except ValueError as error:  # its message is the first warning, or what made it give up
        message = str(error)
    left_over = _LEFT_OVER.match(message)
    if not message.startswith(_DAMAGED) or (left_over and int(left_over[1]) <= SURPLUS):
        return None
    raise DataError(
        "The JPEG is damaged or truncated: a part of its picture is missing or wrong",
        cause=f"libjpeg-turbo says: {message}",
        fix="Get the file anew from where it came from, or leave it out",
    )


def held(image: bytes) -> int:
    """Return the bytes that any decoder must hold beside the pixels, whatever size it decodes at.

    Where a picture comes in several scans (progressive ones do), these are all its coefficients, 2 bytes each; the
    usual single scan is decoded as it is read, 0 bytes. 0 as well for a header that cannot be followed.
    """
    position, frame, progressive = 2, b"", False
    while position + 4 <= len(image) and image[position] == 0xFF:
        marker = image[position + 1]
        if marker == 0xFF:  # fill bytes
            position += 1
            continue
        length = int.from_bytes(image[position + 2 : position + 4], "big")
        segment = image[position + 4 : position + 2 + length]
        if marker == _SCAN:
            several = progressive or segment[:1] < frame[5:6]  # fewer components than the picture has
            return 2 * _samples(frame) if several else 0
        if marker in _FRAMES:
            frame, progressive = segment, marker in _PROGRESSIVE
        position += 2 + length
    return 0


def _samples(frame: bytes) -> int:
    """Return how many samples the components of a frame header have together (ITU T.81, B.2.2)."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    across, down = [byte >> 4 for byte in frame[7::3]], [byte & 15 for byte in frame[7::3]]
    shares = sum(x * y for x, y in zip(across, down)) / max(1, max(across, default=1) * max(down, default=1))
    return int(height * width * shares)
