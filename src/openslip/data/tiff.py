"""TIFFs: those that Pillow would read wrongly are read in another way or refused, and none takes too much.

Numbers of tags, compressions and so on are those of TIFF 6.0.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from PIL import Image, ImageFile, ImagePalette, features

from openslip.data.limits import Budget
from openslip.errors import DataError

STRIP_OR_TILE = 5000
"""Values to visit that a strip or tile counts for, beside its pixels: the cost of a Python loop."""
NUMBER = 160
"""Bytes that a number in a directory takes in Python, with what Pillow makes of a strip's."""
FEW = 1 << 16
"""Numbers that are not counted."""

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 258, 259, 262, 277
_ROWS, _PLANAR, _COLORMAP, _EXTRA, _FORMAT = 278, 284, 320, 338, 339
_STRIPS, _TILES, _TILE_WIDTH, _TILE_LENGTH = 273, 324, 322, 323
_WIDTH, _LENGTH = 256, 257
_WHITE_IS_ZERO = 0
_SIGNED = 2
_MULTIPLIED = 1
_TEXT_TYPES = (1, 2, 6, 7)
"""Types that are kept as bytes."""

Tags = Any
"""Pillow's directory: tag → value, a tuple where it may be several."""


def check_directory(image: bytes, budget: Budget) -> None:
    """Draw the numbers of the first directory, all of which Pillow would hold. Raises DataError for too many.

    A directory that cannot be followed is left to Pillow.
    """
    order = {b"II": "<", b"MM": ">"}.get(image[:2])
    try:
        if not order or (version := struct.unpack_from(order + "H", image, 2)[0]) not in (42, 43):
            return
        big = version == 43
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), image, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), image, start)
        entry, start = (20, start + 8) if big else (12, start + 2)
        for at in range(start, min(start + entry * count, len(image)), entry):
            budget.draw(samples=STRIP_OR_TILE)
            _, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), image, at)
            if kind not in _TEXT_TYPES and values > FEW:
                budget.draw(memory=NUMBER * min(values, len(image)))
    except struct.error:
        return


def prepare(opened: ImageFile.ImageFile, budget: Budget) -> None:
    """Prepare an opened TIFF so that it loads correctly, and draw what its strips or tiles take.

    Raises DataError for a kind of TIFF that Pillow loads wrongly, or if parts of the file are missing.
    """
    tags = opened.tag_v2  # type: ignore[attr-defined]
    planar = tags.get(_PLANAR, 1) == 2
    raw = tags.get(_COMPRESSION, 1) == 1
    if _SIGNED in tags.get(_FORMAT, ()) and max(tags.get(_BITS, (1,))) < 32:
        raise _refused("It holds numbers with a sign, which have no black and no white")
    if planar and opened.mode in ("LA", "La", "PA"):
        raise _refused("Its brightness and its transparency are stored apart")
    _draw_strips_or_tiles(opened, tags, planar, budget)
    if planar and raw and max(tags.get(_BITS, (1,))) > 8:
        _load_with_libtiff(opened, tags)
    if opened.mode in ("P", "PA") and (colours := tags.get(_COLORMAP)) and max(colours) < 256:
        # They should have 16 bits; some programs write 8, of which Pillow makes black.
        opened.palette = ImagePalette.raw("RGB;L", bytes(colours))


def levels(opened: Image.Image) -> tuple[int, int]:
    """Return the stored levels of black and white in a grey picture of more than 8 bits; Pillow tells neither."""
    tags = getattr(opened, "tag_v2", {})
    bits = min(16, max(tags.get(_BITS, (16,))))
    most = (1 << bits) - 1
    return (most, 0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (0, most)


def _draw_strips_or_tiles(opened: ImageFile.ImageFile, tags: Tags, planar: bool, budget: Budget) -> None:
    """Draw what the strips or tiles take. Raises DataError where there are fewer than the picture has."""
    width, height = tags[_WIDTH], tags[_LENGTH]
    bits = tags.get(_BITS, (1,))
    pixel = math.ceil((sum(bits) if len(bits) > 1 else bits[0] * tags.get(_SAMPLES, 1)) / 8)
    if _TILES in tags:
        across, down = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        offsets = tags[_TILES]
    else:
        across, down = width, min(height, tags.get(_ROWS, height))
        offsets = tags.get(_STRIPS, ())
    if not (isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0):
        raise DataError("The TIFF is damaged: its strips or tiles have no size", got=f"{across} × {down}")
    planes = tags.get(_SAMPLES, 1) if planar else 1
    count = math.ceil(width / across) * math.ceil(height / down) * planes
    # A decoder makes a whole tile, even where most of it lies beyond the picture; and colours of it, 4 bytes a pixel.
    budget.draw(samples=count * (STRIP_OR_TILE + across * down))
    if _TILES in tags:
        budget.draw(memory=across * down * (pixel + 4))
    if len(offsets) < count:
        raise DataError(
            "The TIFF is damaged: a part of its picture is missing",
            got=f"{len(offsets)} of {count} strips or tiles",
            fix="Get the file anew from where it came from, or leave it out",
        )


def _load_with_libtiff(opened: ImageFile.ImageFile, tags: Tags) -> None:
    """Have libtiff load what Pillow would load itself, and wrongly: levels of 16 bits, each colour for itself."""
    raw = "RGBa" if tags.get(_EXTRA) == (_MULTIPLIED,) else opened.mode
    if not features.check("libtiff") or raw not in ("RGB", "RGBA", "RGBa", "CMYK"):
        raise _refused("Its colours of more than 8 bits are stored apart")
    first = opened.tile[0]
    whole = ("libtiff", (0, 0, tags[_WIDTH], tags[_LENGTH]), 0, (f"{raw};16N", False, tags.offset))
    opened.tile = [first._make(whole)] if hasattr(first, "_make") else [whole]  # type: ignore[list-item]
    opened.use_load_libtiff = True  # type: ignore[attr-defined]


def _refused(cause: str) -> DataError:
    return DataError(
        "The TIFF is of a kind that cannot be read",
        cause=cause,
        fix="Store it as grey or RGB of 8 or 16 bits a channel, without a sign, with its colours side by side",
    )
