"""A small set of pictures with everything that a check looks for."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from openslip.data.record import Record, Source
from openslip.errors import DataError


def pixels(seed: int, width: int = 90, height: int = 60) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (7, 8, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PLAIN = [(encoded(pixels(k), quality=95), (f"a plain picture, number {k}",)) for k in range(30)]
ODD: list[tuple[bytes | np.ndarray | None, tuple[str, ...]]] = [
    PLAIN[3],
    (PLAIN[3][0], ("the same bytes as number 3",)),
    (encoded(pixels(4).resize((180, 120)), quality=60), ("nearly the same as number 4",)),
    (PLAIN[5][0][:1500], ("cut off",)),
    (b"<html>", ("not an image",)),
    (None, ()),
    (encoded(pixels(50)), ("", "  ")),
    (encoded(pixels(51).convert("L")), ("grey",)),
    (encoded(pixels(52).convert("CMYK")), ("cmyk",)),
    (encoded(pixels(53).quantize(8), "PNG"), ("palette",)),
    (encoded(pixels(54).convert("RGBA"), "PNG"), ("alpha",)),
    (
        encoded(Image.fromarray(np.asarray(pixels(55).convert("L")).astype(np.uint16) * 257), "PNG"),
        ("deep",),
    ),
    (encoded(pixels(56), "WEBP", save_all=True, append_images=[pixels(57)]), ("animated",)),
    (encoded(pixels(58), exif=turned()), ("turned by EXIF",)),
    (encoded(Image.new("RGB", (70, 80), "teal")), ("one colour",)),
    (encoded(Image.new("RGB", (71, 80), "navy")), ("another colour",)),
    (encoded(pixels(59, 20, 10)), ("small",)),
    (encoded(pixels(60, 300, 200)), ("large",)),
    (np.asarray(pixels(61)), ("an array of pixels", "with two captions")),
    (encoded(pixels(62)), ("a plain picture, number 7",)),
    (encoded(pixels(63)), ("IMG_2034.JPG",)),
    (encoded(pixels(64)), ("собака бежит по пляжу",)),
    (encoded(pixels(65)), ("long " * 100,)),
]
"""The first comes twice; what is odd about the others is what their captions say. None: the source cannot read it."""


@dataclass(eq=False)
class Odds(Source):
    """The plain pictures, then the odd ones; only the first `count` of them."""

    count: int = len(PLAIN) + len(ODD)
    name: str = "odds"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        image, captions = [*PLAIN, *ODD][index]
        if image is None:
            raise DataError("The file is gone")
        return Record(image, captions, f"key/{index}", self.name)


def index_of(caption: str) -> int:
    return next(k for k, (_, captions) in enumerate([*PLAIN, *ODD]) if caption in captions)
