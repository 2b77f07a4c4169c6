"""Pictures of every format, as Pillow writes them."""

from __future__ import annotations

import contextlib
import io
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.registry import Files, register
from openslip.errors import SlipError


def picture(width: int = 24, height: int = 20, seed: int = 0) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed=seed), "JPEG")


def _pictures() -> dict[str, tuple[str, dict[str, Any]]]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    frames: dict[str, Any] = {"save_all": True, "append_images": [picture(seed=1), picture(seed=2)]}
    text = {"pnginfo": _png_text()}
    return {
        "jpeg": ("RGB", {"format": "JPEG", "exif": exif}),
        "jpeg-progressive": ("RGB", {"format": "JPEG", "progressive": True}),
        "jpeg-cmyk": ("CMYK", {"format": "JPEG"}),
        "jpeg-mpo": ("RGB", {"format": "MPO"} | frames),
        "png": ("RGBA", {"format": "PNG", "exif": exif} | text),
        "png-palette": ("P", {"format": "PNG", "transparency": 3}),
        "png-grey-16": ("I;16", {"format": "PNG"}),
        "png-animated": ("RGB", {"format": "PNG"} | frames),
        "webp": ("RGB", {"format": "WEBP", "exif": exif}),
        "webp-animated": ("RGB", {"format": "WEBP", "lossless": True} | frames),
        "gif": ("P", {"format": "GIF"} | frames),
        "bmp": ("RGB", {"format": "BMP"}),
        "bmp-palette": ("P", {"format": "BMP"}),
        "tiff": ("RGB", {"format": "TIFF", "exif": exif}),
        "tiff-grey-16": ("I;16", {"format": "TIFF"}),
        "tiff-lzw": ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
        "tiff-deflate": ("RGBA", {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        "tiff-jpeg": ("RGB", {"format": "TIFF", "compression": "jpeg"}),
        "tiff-fax": ("1", {"format": "TIFF", "compression": "group4"}),
        "tiff-packbits-pages": ("RGB", {"format": "TIFF", "compression": "packbits"} | frames),
        "ppm": ("RGB", {"format": "PPM"}),
        "pgm-16": ("I;16", {"format": "PPM"}),
        "jpeg2000": ("RGB", {"format": "JPEG2000"}),
        "jpeg2000-tiled": ("RGB", {"format": "JPEG2000", "tile_size": (16, 16), "no_jp2": True}),
        "avif": ("RGB", {"format": "AVIF", "speed": 10, "exif": exif}),
        "avif-animated": ("RGB", {"format": "AVIF", "speed": 10} | frames),
    }


def _png_text() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a prompt", zip=True)
    info.add_itxt("Comment", "ein Bild", "de", "Kommentar", zip=True)
    return info


def _picture(mode: str, options: dict[str, Any]) -> Files:
    image = picture()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return {"picture": encoded(image.convert(mode), **options)}


def _ascii() -> Files:
    return {"picture": b"P3\n# a comment\n4 3\n255\n" + b" ".join(b"%d" % (7 * k) for k in range(36)) + b"\n"}


def _decode(folder: Path) -> None:
    from openslip.data.decode import decode
    from openslip.data.header import header
    from openslip.tools.check.fingerprints import of_image

    data = (folder / "picture").read_bytes()
    of_image(data)
    with contextlib.suppress(SlipError):
        header(data)
    for min_side in (8, 0):
        pixels = decode(data, min_side)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


def mend_png(data: bytes) -> bytes:
    """Put the checksums of a PNG's chunks right."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        size = min(int.from_bytes(data[position : position + 4], "big"), len(data) - position - 12)
        chunk = data[position + 4 : position + 8 + size]
        out += data[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        position += 12 + size
    return bytes(out)


for _name, (_mode, _options) in _pictures().items():
    register(
        _name, partial(_picture, _mode, _options), _decode, mend=mend_png if _name.startswith("png") else None
    )
register("ppm-ascii", _ascii, _decode)
