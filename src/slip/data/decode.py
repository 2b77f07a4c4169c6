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
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from slip.data import jpeg
from slip.data.formats import FORMATS
from slip.errors import ConfigError, DataError, did_you_mean

MAX_PIXELS = 100_000_000
"""Images that come out larger are refused; a file of a few kilobytes can claim any size."""

MAX_MEMORY = 750_000_000
"""Bytes beside the file's own that decoding an image may take at its peak: RGB files of MAX_PIXELS just fit."""

DECODERS = ("auto", "pillow", "simplejpeg", "torchcodec")
"""What decodes plain JPEGs; auto: simplejpeg, which takes half of Pillow's time."""

_BAND = 1 << 18
"""Pixels that are converted at once, so that no step needs a copy of the whole."""
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes a pixel of an image of some mode as Pillow keeps it; 4 of all others."""
_WORK = {"WEBP": 10, "AVIF": 8, "JPEG2000": 18}
"""Bytes a pixel that the decoder of some format takes beside the results, rounded up from measurements."""
_TURNING = 6
"""Bytes a pixel that turning an image takes."""

_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102
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
    as its short side keeps at least this many pixels; 0 for full size. It can then be larger than what is refused
    otherwise.

    `decoder`: one of DECODERS, for plain JPEGs; all give the same pixels.

    Raises DataError for anything that is not one whole image, as far as its format can tell (`slip.data.jpeg.read`
    says how far JPEGs can), of at most MAX_PIXELS pixels, that can be decoded in at most MAX_MEMORY bytes.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if not image:
        raise DataError("The image file is empty (zero bytes)")
    try:
        with strict():
            opened = open_image(image)
            if opened.format in ("JPEG", "MPO"):
                pixels = _jpeg(image, opened, min_side, decoder)
            else:
                pixels = _pillow(opened)
            turn = orientation(opened)
            opened.close()  # Pillow's pixels are not needed any more, and turning takes a copy
            return _UPRIGHT.get(turn, _as_it_is)(pixels)
    except DataError:
        raise
    except (UnidentifiedImageError, SyntaxError):
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


def open_image(image: bytes) -> Image.Image:
    """Read the header of an image file. Raises Pillow's errors; they are best met within `strict`."""
    file = io.BytesIO(image)
    if image.startswith(b"\xff\xd8\xff"):
        # Past Pillow's limit on pixels: ours is on what a JPEG is decoded to, which can be much less.
        return JpegImagePlugin.jpeg_factory(file)
    return Image.open(file, formats=known_formats())


@cache
def known_formats() -> tuple[str, ...]:
    """FORMATS, less those that this Pillow was built without."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none that counts.

    Best asked after loading: some formats turn themselves, then drop the tag.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1
    return value if value in _UPRIGHT else 1


def check_decoder(decoder: str) -> None:
    """Raise ConfigError when there is no such decoder, or its library is not installed."""
    if decoder not in DECODERS:
        raise ConfigError("There is no such decoder", got=decoder, fix=did_you_mean(decoder, DECODERS))
    if decoder == "torchcodec" and not _torchcodec():
        raise ConfigError(
            "The decoder torchcodec is not installed",
            fix="pip install torchcodec, or leave --data.decoder out",
        )


def _jpeg(image: bytes, opened: Image.Image, min_side: int, decoder: str) -> np.ndarray:
    """Decode a JPEG. Whatever does, libjpeg-turbo judges whether it is damaged: the others do not say so."""
    full, held = opened.size, jpeg.held(image)
    if min_side > 0:
        opened.draft(None, (min_side, min_side))
    width, height = opened.size
    if opened.mode != "CMYK":
        _check_size(width, height, 3 if orientation(opened) == 1 else _TURNING, held)
    else:
        _check_for_pillow(opened, held)
    pixels = None
    if opened.mode == "CMYK":
        jpeg.read(image, "CMYK")
    elif decoder in ("auto", "simplejpeg"):
        pixels = jpeg.read(image, "RGB", height, width)
    else:
        jpeg.read(image)
        if decoder == "torchcodec" and opened.size == full:
            pixels = _with_torchcodec(image)
    if pixels is not None and pixels.shape == (height, width, 3):
        return pixels
    return _pillow(opened, held)


def _with_torchcodec(image: bytes) -> np.ndarray | None:
    try:
        return _torchcodec().decode_jpeg(image).permute(1, 2, 0).numpy()
    except (ValueError, RuntimeError):
        return None


def _pillow(opened: Image.Image, held: int = 0) -> np.ndarray:
    """Load an image and convert it to RGB, a band of rows after the other."""
    _check_for_pillow(opened, held)
    opened.load()
    width, height = opened.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(_rgb(opened.crop((0, top, width, bottom))))
    return pixels


def _check_for_pillow(opened: Image.Image, held: int) -> None:
    pixel = 3 + _STORED.get(opened.mode, 4) + _work(opened)
    _check_size(*opened.size, max(pixel, _TURNING), held)


def _work(opened: Image.Image) -> int:
    """Return the bytes a pixel that Pillow's decoder takes while it makes its result, less what ours takes after."""
    if opened.format == "TIFF":  # whose strips are decoded whole, and one may be all of the image
        return max(0, sum(getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())) // 8 - 3)
    return _WORK.get(opened.format or "", 0)


def _check_size(width: int, height: int, pixel: int, held: int = 0) -> None:
    """Raise DataError for too many pixels, or too many bytes: `pixel` of each, and `held` beside them."""
    needed = width * height * pixel + held
    if width * height <= MAX_PIXELS and needed <= MAX_MEMORY:
        return
    raise DataError(
        "The image is too large to decode",
        got=f"{width} × {height} pixels, {needed / 1e6:,.0f} MB",
        cause=f"More than {MAX_PIXELS // 1_000_000} million pixels or {MAX_MEMORY // 1_000_000} MB of memory "
        "may be an attack on it",
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


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


@cache
def _torchcodec() -> Any:
    """Return its module of decoders, or None if it is not installed."""
    try:
        return importlib.import_module("torchcodec.decoders")
    except ImportError:
        return None


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    raise DataError(
        "An image given as an array must be RGB, uint8, of shape (height, width, 3)",
        got=f"{image.dtype}, shape {image.shape}",
    )
