"""Pictures that clients send, and pictures of the index as the page shows them."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from openslip.data.given import pixels_of
from openslip.data.header import header
from openslip.data.preprocess import Preprocess
from openslip.errors import DataError, SlipError
from openslip.search.app.refusals import UNKNOWN, UNREADABLE, Refusal
from openslip.search.index import Index

MOST_PIXELS = 50_000_000
"""The most pixels of a picture that a client sends."""
SHOWN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that every browser shows. They are sent as they are; pictures in other formats are encoded again."""
SHORT, LONG = 256, 768
"""The short side of a thumbnail in pixels, and the most of its long side: of a long picture the middle is shown."""
KEPT = 64 << 20
"""Bytes of thumbnails that are kept."""


class Shown(NamedTuple):
    """A picture as it is sent, and its media type."""

    content: bytes
    kind: str

    @property
    def tag(self) -> str:
        """The ETag of the picture."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:24]}"'


def prepared(preprocess: Preprocess, content: bytes) -> Tensor:
    """Return a picture from a client as the model takes it, (3, S, S) float32.

    Raises Refusal for bytes that are no picture, for a damaged picture, and for a picture of too many pixels.
    """
    try:
        head = header(content)
        if head.width * head.height > MOST_PIXELS:
            raise DataError(
                f"The picture has more than {MOST_PIXELS / 1e6:,.0f} million pixels",
                got=f"{head.width:,} × {head.height:,} pixels",
                fix="Send a smaller picture",
            )
        return preprocess.unnamed(content)
    except DataError as error:
        raise Refusal(UNREADABLE, error.what, got=error.got, cause=error.cause, fix=error.fix) from None


class Pictures:
    """The pictures of an index, by their rows alone; any number of threads may use them."""

    def __init__(self, index: Index, kept: int = KEPT) -> None:
        self.index, self.kept = index, kept
        self._thumbnails: OrderedDict[int, Shown] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def whole(self, row: int) -> Shown:
        """Return a picture in full size. Raises Refusal if there is no such row, or the picture is gone."""
        picture = self._of(row)
        if isinstance(picture, bytes):
            with _missing():
                kind = SHOWN.get(header(picture).format)
            if kind:
                return Shown(picture, kind)
        with _missing():
            return _encoded(Image.fromarray(pixels_of(picture)), "PNG" if _small(picture) else "JPEG")

    def thumbnail(self, row: int) -> Shown:
        """Return a picture in the size of a tile, a JPEG. Raises as `whole` does."""
        with self._lock:
            if row in self._thumbnails:
                self._thumbnails.move_to_end(row)
                return self._thumbnails[row]
        picture = self._of(row)
        with _missing():
            made = _encoded(_tile(pixels_of(picture, min_side=SHORT)), "JPEG")
        with self._lock:
            if row not in self._thumbnails:
                self._thumbnails[row] = made
                self._bytes += len(made.content)
            while self._bytes > self.kept:
                self._bytes -= len(self._thumbnails.popitem(last=False)[1].content)
        return made

    def _of(self, row: int) -> bytes | np.ndarray:
        if not 0 <= row < len(self.index):
            raise no_row(self.index, row)
        with _missing():
            return self.index.picture(row)


def no_row(index: Index, got: object) -> Refusal:
    """Return the refusal for a row that the index does not have."""
    fix = f"Rows: 0 to {len(index) - 1:,}"
    return Refusal(UNKNOWN, "There is no such row in the index", got=got, fix=fix)


class _missing:
    """In the block, the error of a picture that cannot be read becomes a Refusal with the same message."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: object, __: object) -> None:
        if isinstance(error, SlipError) and not isinstance(error, Refusal):
            raise Refusal(UNKNOWN, error.what, got=error.got, cause=error.cause, fix=error.fix) from None


def _small(picture: bytes | np.ndarray) -> bool:
    """Whether a picture is an array of pixels, as rendered ones are, and small enough to be sent without loss."""
    return isinstance(picture, np.ndarray) and picture.size <= 3 << 18


def _tile(pixels: np.ndarray) -> Image.Image:
    """Return a picture whose short side has SHORT pixels, or its own number of pixels if that is smaller."""
    height, width = pixels.shape[:2]
    scale = min(1.0, SHORT / min(height, width))
    image = Image.fromarray(pixels)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
    left, top = (max(0, (side - LONG) // 2) for side in image.size)
    return image.crop((left, top, left + min(LONG, image.width), top + min(LONG, image.height)))


def _encoded(image: Image.Image, format: str) -> Shown:
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 88} if format == "JPEG" else {}))
    return Shown(buffer.getvalue(), SHOWN[format])
