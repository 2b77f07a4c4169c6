"""What the header of an image file tells, before decoding."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from PIL import ImageFile

from openslip.data import gif, jpeg
from openslip.data.decode import is_jpeg, new_budget, open_image, orientation, strict, unknown
from openslip.errors import DataError

_BITS_PER_SAMPLE = 258
_GREY = ("1", "L", "LA", "La", "I", "F")


class Kind(IntFlag):
    """What is special about a picture; `decode` makes plain RGB of all of them."""

    GREY = 1
    DEEP = 2
    """More than 8 bits a channel."""
    CMYK = 4
    PALETTE = 8
    ALPHA = 16
    ANIMATED = 32
    TURNED = 64
    """Its EXIF data says to turn or mirror it."""
    DARK = 128
    """Nearly black, with more than 8 bits a channel. No header tells this; `check`, which has the pixels, does."""


@dataclass(frozen=True)
class Header:
    """Format (Pillow's name), size upright in pixels, and kinds."""

    format: str
    width: int
    height: int
    kinds: Kind


def header(image: bytes) -> Header:
    """Read the header of an image file. Raises DataError if the file has no known header."""
    if not image:
        raise DataError("The image file is empty (zero bytes)")
    try:
        with strict():
            budget = new_budget()
            if is_jpeg(image):
                jpeg.held(image, budget)
            gif.check_blocks(image, budget, pictures=2)  # to learn whether there is a second one
            return _read(open_image(image, budget))
    except DataError:
        raise
    except Exception:  # Pillow's readers raise almost anything on damaged files
        raise unknown(image) from None


def _read(image: ImageFile.ImageFile) -> Header:
    # Phones append a second picture (a preview, a depth map) to a JPEG: Pillow calls that MPO, and animated.
    format = "JPEG" if image.format == "MPO" else image.format or ""
    # A PNG's EXIF data might follow the pixels, all of which Pillow would decode to get there.
    turn = 1 if format == "PNG" and "exif" not in image.info else orientation(image)
    kinds = Kind(0)
    for kind, holds in (
        (Kind.GREY, image.mode in _GREY or image.mode.startswith("I;")),
        (Kind.DEEP, _is_deep(image)),
        (Kind.CMYK, image.mode in ("CMYK", "YCCK")),
        (Kind.PALETTE, image.mode in ("P", "PA")),
        (Kind.ALPHA, image.has_transparency_data),
        (Kind.ANIMATED, format != "JPEG" and getattr(image, "is_animated", False)),
        (Kind.TURNED, turn != 1),
    ):
        kinds |= kind if holds else 0
    width, height = image.size
    return Header(format, *((height, width) if turn in (5, 6, 7, 8) else (width, height)), kinds)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Return whether an opened image has more than 8 bits a channel, as far as Pillow says so."""
    if image.mode[0] in "IF":
        return True
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (1,))) > 8
    if image.format == "PPM":
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in image.tile)
    # `RGB;16B` are 16 bits a channel, `BGR;16` all three together.
    return any(str(tile[3]).endswith((";16B", ";16L", ";16N")) for tile in image.tile)
