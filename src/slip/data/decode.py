"""From the bytes of an image file to upright RGB pixels, or a DataError that says why not."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from slip.errors import ConfigError, DataError, did_you_mean

MAX_PIXELS = 100_000_000
"""Larger images are refused: decoded, this one takes 300 MB, and a file of a few kilobytes can claim any size."""

DECODERS = ("auto", "pillow", "simplejpeg", "torchcodec")
"""What decodes plain JPEGs; auto: simplejpeg where it is installed, which takes half of Pillow's time."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What may be decoded. Pillow's others are rarities, some of which start other programs."""

_MODULES = {"simplejpeg": "simplejpeg", "torchcodec": "torchcodec.decoders"}
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    3: lambda pixels: np.ascontiguousarray(pixels[::-1, ::-1]),
    4: lambda pixels: np.ascontiguousarray(pixels[::-1]),
    5: lambda pixels: np.ascontiguousarray(pixels.swapaxes(0, 1)),
    6: lambda pixels: np.ascontiguousarray(pixels[::-1].swapaxes(0, 1)),
    7: lambda pixels: np.ascontiguousarray(pixels[::-1, ::-1].swapaxes(0, 1)),
    8: lambda pixels: np.ascontiguousarray(pixels[:, ::-1].swapaxes(0, 1)),
}
"""EXIF orientation → what turns the stored pixels upright (Exif 2.3, tag 274)."""


def decode(image: bytes | np.ndarray, min_side: int = 0, decoder: str = "auto") -> np.ndarray:
    """Return the image as an RGB array (height, width, 3), uint8.

    Rotated as its EXIF data says, transparency laid on white, 16 bits scaled to 8, the first frame of an animation.
    An array that is RGB uint8 already is returned as it is.

    `min_side`: a JPEG may come back smaller, by a whole factor of 2, 4 or 8 that the decoder takes for free, as long
    as its short side keeps at least this many pixels; 0 for full size.

    `decoder`: one of DECODERS, for plain JPEGs; all give the same pixels.

    Raises DataError for anything that is not one whole image of at most MAX_PIXELS.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if not image:
        raise DataError("The image file is empty (zero bytes)")
    try:
        with strict():
            opened = Image.open(io.BytesIO(image), formats=known_formats())
            _check_size(*opened.size)
            if min_side > 0:
                opened.draft(None, (min_side, min_side))
            pixels = _fast(image, opened, decoder)
            if pixels is None:
                opened.load()
                # An array of its own: np.asarray would be read-only, and tensors made of it warn.
                pixels = np.array(_rgb(opened))
            return _UPRIGHT.get(_orientation(opened), _as_it_is)(pixels)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            "The file is not an image of a known format, or its header is damaged",
            cause=f"It starts with {image[:12]!r}",
        ) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, where it is lower than ours
        raise DataError("The image is too large to decode", cause=str(error)) from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError("The image cannot be decoded", cause=str(error) or type(error).__name__) from None


@contextmanager
def strict() -> Iterator[None]:
    """Half an image is an error, whatever the program has told Pillow; what it would warn of, we ignore or refuse."""
    allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = allowed


@cache
def known_formats() -> tuple[str, ...]:
    """FORMATS, less those that this Pillow was built without."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            "The image is too large to decode",
            got=f"{width} × {height} pixels",
            cause=f"More than {MAX_PIXELS // 1_000_000} million pixels may be an attack on memory",
            fix="Store it smaller",
        )


def _rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to RGB."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Scale grey levels to uint8: floats from [0, 1], integers from 16 bits. Pillow's own conversion clips them."""
    scale = 1.0 if grey.dtype.kind == "f" else 65535.0
    if not (grey.min() >= 0 and grey.max() <= scale):
        raise DataError(
            "The image has no defined brightness",
            got=f"{grey.dtype} pixels from {grey.min()} to {grey.max()}",
            fix="Convert it to 8 or 16 bits a channel",
        )
    return np.rint(grey * (255.0 / scale)).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation. After loading: some formats turn themselves, then drop the tag."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _fast(image: bytes, opened: Image.Image, decoder: str) -> np.ndarray | None:
    """Decode a plain JPEG with a faster decoder than Pillow, if there is one.

    None for anything else, and for what it refuses: Pillow has the last word on what is damaged.
    """
    if decoder == "auto":
        decoder = "simplejpeg" if _library(_MODULES["simplejpeg"]) else "pillow"
    if decoder == "pillow" or opened.format != "JPEG" or opened.mode not in ("RGB", "L"):
        return None
    width, height = opened.size
    try:
        if decoder == "simplejpeg":
            pixels = _library(_MODULES[decoder]).decode_jpeg(image, "RGB", min_height=height, min_width=width)
        else:
            pixels = _library(_MODULES[decoder]).decode_jpeg(image).permute(1, 2, 0).numpy()
    except (ValueError, RuntimeError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None


@cache
def _library(name: str) -> Any:
    """Return the module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def check_decoder(decoder: str) -> None:
    """Raise ConfigError when there is no such decoder, or its library is not installed."""
    if decoder not in DECODERS:
        raise ConfigError("There is no such decoder", got=decoder, fix=did_you_mean(decoder, DECODERS))
    if decoder in ("simplejpeg", "torchcodec") and not _library(
        {"torchcodec": "torchcodec.decoders"}.get(decoder, decoder)
    ):
        raise ConfigError(
            f"The decoder {decoder} is not installed",
            fix=f"pip install {decoder}, or leave --data.decoder out",
        )


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    raise DataError(
        "An image given as an array must be RGB, uint8, of shape (height, width, 3)",
        got=f"{image.dtype}, shape {image.shape}",
    )
