"""Turn a record's image into the bytes to store: unchanged where possible, else encoded anew."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from openslip.data.decode import decode
from openslip.data.formats import FORMATS
from openslip.data.header import header
from openslip.errors import ConfigError

STORED = frozenset({"JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"})
"""Formats that are stored as they come. The others are encoded anew: fewer programs read them, or they are needlessly
large."""


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    format, quality: for arrays and for pictures encoded anew. short_side: pictures whose short side has more pixels
    are shrunk to this many, keeping their shape; 0 shrinks none. verify: whether to decode pictures that are stored as
    they come, to find damaged ones. Raises ConfigError for values out of range.
    """

    format: Literal["jpg", "png"] = "jpg"
    quality: int = 92
    short_side: int = 0
    verify: bool = True

    def __post_init__(self) -> None:
        if self.format not in ("jpg", "png"):
            raise ConfigError("Pictures can be encoded as 'jpg' or 'png'", got=self.format)
        if not 1 <= self.quality <= 100:
            raise ConfigError("The JPEG quality must be from 1 to 100", got=self.quality)
        if self.short_side < 0:
            raise ConfigError("The short side must be at least 1, or 0 for no change", got=self.short_side)

    def __call__(self, image: bytes | np.ndarray) -> tuple[str, bytes]:
        """Return (file extension, encoded bytes).

        An image that is encoded anew is upright RGB, so its EXIF data, which would turn it again, are dropped.
        Raises DataError when the image is damaged or of no known format.
        """
        if isinstance(image, np.ndarray):
            pixels = decode(image)
            return self._encoded(pixels, *self._size(pixels.shape[1], pixels.shape[0]))
        head = header(image)
        width, height = self._size(head.width, head.height)
        if head.format not in STORED or (width, height) != (head.width, head.height):
            # Twice the size that is needed leaves the resampling enough to work on.
            return self._encoded(decode(image, 2 * self.short_side), width, height)
        if self.verify:
            decode(image, 1)  # every byte is read, but a JPEG's pixels are made at an eighth of their size
        return FORMATS[head.format][0], image

    def _size(self, width: int, height: int) -> tuple[int, int]:
        short = min(width, height)
        if not 0 < self.short_side < short:
            return width, height
        return round(width * self.short_side / short), round(height * self.short_side / short)

    def _encoded(self, pixels: np.ndarray, width: int, height: int) -> tuple[str, bytes]:
        image = Image.fromarray(pixels)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        if self.format == "png":
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=self.quality, subsampling=0 if self.quality >= 90 else 2)
        return self.format, buffer.getvalue()
