"""PNGs: drop what does not belong to the picture before decoding, and put transparent colours right."""

from __future__ import annotations

import re
import zlib

from PIL import ImageFile

from openslip.data.limits import Budget

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = 3000
"""Values to visit that a chunk counts for: the cost of a Python loop."""
ORIENTATION_BYTES = 1 << 20
"""Bytes of a text, unpacked, that may say how a picture is turned."""

_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
"""Chunks that Pillow unpacks and keeps; if they are too large, it refuses the picture. We use none of them."""
_TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Except these, which may say how the picture is turned."""


def without_texts(image: bytes, budget: Budget) -> bytes:
    """Return a PNG without its texts and colour profile, however large or damaged; a PNG without any is unchanged.

    Texts that may hold the orientation are kept, unless they unpack to more than ORIENTATION_BYTES. Draws the cost of
    the chunks and the copy. Raises DataError if there are more than the budget allows.
    """
    kept, start, position = [], 0, len(SIGNATURE)
    while position + 12 <= len(image):
        end = position + 12 + int.from_bytes(image[position : position + 4], "big")
        kind = image[position + 4 : position + 8]
        budget.draw(samples=CHUNK)
        if kind in _TEXTS and not _has_orientation(
            kind, image[position + 8 : min(end - 4, position + 8 + ORIENTATION_BYTES)]
        ):
            kept.append(image[start:position])
            start = end
        if kind == b"IEND":
            break
        position = end
    if not kept:
        return image
    budget.draw(memory=len(image))
    return b"".join([*kept, image[start:]])


def _has_orientation(kind: bytes, text: bytes) -> bool:
    """Return whether a text may say how the picture is turned, and is small."""
    name = next((name for name in _TURNING if text.startswith(name)), b"")
    if not name or kind == b"iCCP":
        return False
    if kind == b"iTXt" and text[len(name) : len(name) + 1] == b"\0":
        return True  # as it is
    packed = text[len(name) + 1 :] if kind == b"zTXt" else text[len(name) + 2 :].split(b"\0", 2)[-1]
    if kind == b"tEXt":
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, ORIENTATION_BYTES)
    except zlib.error:
        return False
    return unpacker.eof


def mend_transparency(opened: ImageFile.ImageFile) -> None:
    """Convert a transparent colour from the levels of the PNG file to the levels that Pillow has after loading.

    Grey of 2 or 4 bits becomes 8 bits, and colours of 16 bits keep their upper 8. Grey of 16 bits stays as it is.
    """
    colour = opened.info.get("transparency")
    raw = next((str(tile[3]) for tile in opened.tile), "")
    bits = re.search(r"L;([24])\b", raw)
    if isinstance(colour, int) and bits and opened.mode == "L":
        most = (1 << int(bits[1])) - 1
        opened.info["transparency"] = (colour & most) * 255 // most
    elif isinstance(colour, tuple) and ";16B" in raw:
        opened.info["transparency"] = tuple(level >> 8 for level in colour)
