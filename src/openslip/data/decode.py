"""From the bytes of an image file to upright RGB pixels, or a DataError that says why not."""

from __future__ import annotations

import importlib
import io
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from openslip.data import gif, jpeg, jpeg2000, limits, png, ppm, tiff
from openslip.data.formats import FORMATS
from openslip.data.limits import Budget
from openslip.data.sniff import looks_like
from openslip.errors import ConfigError, DataError, did_you_mean

DECODERS = ("auto", "pillow", "simplejpeg", "torchcodec")
"""The decoders of plain JPEGs; auto: simplejpeg, which takes half of Pillow's time."""

_BAND = 1 << 18
"""Pixels that are converted at once, so that no step needs a copy of the whole."""
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes that Pillow keeps for a pixel, by the image's mode; 4 for all other modes."""
_WORK = {"WEBP": 10, "AVIF": 8, "JPEG2000": 18}
"""Bytes a pixel that a format's decoder takes beside the results, rounded up from measurements."""
_RUN = 300
"""Values to visit that a run of a BMP (2 bytes or more) counts for: the cost of a Python loop. A pixel counts for a
tenth."""
_COPIES = {"WEBP": 4, "AVIF": 2}
"""How many copies of the file a format's decoder holds beside ours, rounded up from measurements."""
_TURNING = 6
"""Bytes a pixel that turning an image takes."""

_OURS = frozenset({*FORMATS, "WebP", "JPEG 2000"})
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
_YCBCR = 6
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

    The image is rotated as its EXIF data says, transparency is laid on white, 16 bits are scaled to 8, and the first
    frame of an animation is taken. An array that is RGB uint8 already is returned as it is.

    `min_side`: a JPEG may come back smaller, by a factor of 2, 4 or 8 that costs the decoder nothing, as long as its
    short side keeps at least this many pixels; 0 for full size. Such a JPEG may have more pixels than are accepted
    otherwise.

    `decoder`: one of DECODERS, for plain JPEGs; all give the same pixels.

    Raises DataError unless the file is one whole image, as far as its format can tell (for JPEGs see
    `openslip.data.jpeg.read`), has at most `limits.PIXELS` pixels, and can be decoded in at most `limits.MEMORY` bytes
    and by visiting at most `limits.SAMPLES` values.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if not image:
        raise DataError("The image file is empty (zero bytes)")
    try:
        with strict():
            budget = new_budget()
            held = jpeg.held(image, budget) if is_jpeg(image) else 0
            opened = open_image(image, budget)
            budget.got = _size(*opened.size)
            if opened.format in ("JPEG", "MPO"):
                pixels = _jpeg(image, opened, min_side, decoder, budget, held)
            else:
                pixels = _pillow(image, opened, budget)
            turn = orientation(opened)
            opened.close()  # Pillow's pixels are not needed any more, and turning takes a copy
            return turned(pixels, turn)
    except DataError:
        raise
    except (UnidentifiedImageError, SyntaxError):
        raise unknown(image) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, where it is lower than ours
        raise DataError("The image is too large to decode", cause=str(error)) from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise DataError("The image cannot be decoded", cause=str(error) or type(error).__name__) from None


def strict() -> AbstractContextManager[None]:
    """Make half an image an error, whatever the program has told Pillow, and silence Pillow's warnings.

    What Pillow would warn of, we ignore or refuse. Both are settings of the whole process: the first thread inside
    changes them, and the last thread puts them back.
    """
    return _STRICT


class _Strict(AbstractContextManager[None]):
    """See `strict`."""

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()
        if hasattr(os, "register_at_fork"):  # the threads that are inside do not come along
            os.register_at_fork(after_in_child=self._begin_anew)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._undo.callback(
                    setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES
                )
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()

    def _begin_anew(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._undo.close()


_STRICT = _Strict()


def is_jpeg(image: bytes) -> bool:
    return image.startswith(b"\xff\xd8\xff")


def open_image(image: bytes, budget: Budget) -> ImageFile.ImageFile:
    """Read the header of an image file. Raises Pillow's errors; best called within `strict`.

    budget: pays for reading the header, except for a JPEG, where `jpeg.held` draws from it. Raises DataError if it does
    not suffice.
    """
    if is_jpeg(image):
        # This skips Pillow's limit on pixels: ours limits what a JPEG is decoded to, which can be much less.
        return JpegImagePlugin.jpeg_factory(io.BytesIO(image))
    if image.startswith(png.SIGNATURE):
        image = png.without_texts(image, budget)
    gif.check_blocks(image, budget)
    tiff.check_directory(image, budget)
    ppm.check_header(image, budget)
    return Image.open(io.BytesIO(image), formats=known_formats())


def unknown(image: bytes) -> DataError:
    """Return the error for a file that Pillow does not know. It says what the file looks like, but quotes nothing."""
    kind = looks_like(image)
    if kind.removeprefix("a ").removeprefix("an ").removesuffix(" picture") in _OURS:
        cause = f"It looks like {kind}: it is damaged, or of a kind that is not read"
        fix = "Get the file anew, or store it as RGB or grey of 8 or 16 bits a channel"
    else:
        cause = f"It looks like {kind}"
        fix = "Convert it to JPEG or PNG" if kind.endswith("picture") else ""
    return DataError(
        "The file is not an image of a known format, or its header is damaged", cause=cause, fix=fix
    )


def new_budget() -> Budget:
    """Return what decoding one image may take."""
    return Budget("The image", memory=limits.MEMORY, samples=limits.SAMPLES)


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


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Return upright pixels, given pixels that are stored in an EXIF orientation."""
    return _UPRIGHT[turn](pixels) if turn in _UPRIGHT else pixels


def check_decoder(decoder: str) -> None:
    """Raise ConfigError when there is no such decoder, or its library is not installed."""
    if decoder not in DECODERS:
        raise ConfigError("There is no such decoder", got=decoder, fix=did_you_mean(decoder, DECODERS))
    if decoder == "torchcodec" and not _torchcodec():
        raise ConfigError(
            "The decoder torchcodec is not installed",
            fix="pip install torchcodec, or leave --data.decoder out",
        )


def _jpeg(
    image: bytes, opened: Image.Image, min_side: int, decoder: str, budget: Budget, held: int
) -> np.ndarray:
    """Decode a JPEG. Whichever decoder is used, libjpeg-turbo judges whether the file is damaged: others do not."""
    full = opened.size
    if held:
        budget.draw(samples=jpeg.visited(image))
    if min_side > 0:
        opened.draft(None, (min_side, min_side))
    width, height = opened.size
    if opened.mode != "CMYK":
        _draw(width, height, 3 if orientation(opened) == 1 else _TURNING, budget, held)
    else:
        _draw_for_pillow(opened, budget, held)
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
    if opened.mode != "CMYK":
        _draw_for_pillow(opened, budget)
    return converted(opened)


def _with_torchcodec(image: bytes) -> np.ndarray | None:
    try:
        return _torchcodec().decode_jpeg(image).permute(1, 2, 0).numpy()
    except (ValueError, RuntimeError):
        return None


def _pillow(image: bytes, opened: ImageFile.ImageFile, budget: Budget) -> np.ndarray:
    """Decode what is no JPEG."""
    _draw_for_pillow(opened, budget, len(image) * _COPIES.get(opened.format or "", 0))
    if opened.format == "TIFF":
        tiff.prepare(opened, budget)
    elif opened.format == "JPEG2000":
        jpeg2000.draw_structure(image, budget)
    elif opened.format == "PNG":
        png.mend_transparency(opened)
    elif opened.format == "PPM" and (levels := ppm.read(image, opened, budget)) is not None:
        return converted(Image.fromarray(levels))
    elif opened.format == "BMP" and opened.tile[0][0] == "bmp_rle":
        budget.draw(samples=_RUN * len(image) // 2 + _RUN // 10 * opened.width * opened.height)
    return converted(opened)


def converted(opened: Image.Image) -> np.ndarray:
    """Load an image and convert it to RGB, a band of rows after the other."""
    opened.load()
    levels = tiff.levels(opened)
    if opened.format == "BMP" and opened.mode == "RGBA" and not any(opened.getextrema()[3]):  # type: ignore[arg-type]
        opened = opened.convert("RGB")  # programs that know no transparency leave zeros there
    width, height = opened.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(_rgb(opened.crop((0, top, width, bottom)), levels))
    return pixels


def _draw_for_pillow(opened: Image.Image, budget: Budget, held: int = 0) -> None:
    pixel = 3 + _STORED.get(opened.mode, 4) + _work(opened)
    _draw(*opened.size, max(pixel, _TURNING), budget, held)


def _work(opened: Image.Image) -> int:
    """Return the bytes a pixel that Pillow's decoder takes while it makes its result, less what ours takes after."""
    if opened.format == "TIFF":  # whose strips are decoded whole, and one may be all of the image
        tags = getattr(opened, "tag_v2", {})
        colours = 4 if tags.get(_PHOTOMETRIC) == _YCBCR else 0  # of which libtiff makes RGB and one more
        return max(0, sum(tags.get(_BITS_PER_SAMPLE, ())) // 8 - 3) + colours
    return _WORK.get(opened.format or "", 0)


def _draw(width: int, height: int, pixel: int, budget: Budget, held: int = 0) -> None:
    """Draw the memory of an image: `pixel` bytes a pixel, and `held`. Raises DataError for too many pixels or bytes."""
    budget.got = _size(width, height)
    if width * height > limits.PIXELS:
        raise DataError(
            "The image is too large to decode",
            got=budget.got,
            cause=f"More than {limits.PIXELS // 1_000_000} million pixels may be an attack on memory",
            fix="Store it smaller",
        )
    budget.draw(memory=width * height * pixel + held)


def _size(width: int, height: int) -> str:
    return f"{width} × {height} pixels"


def _rgb(image: Image.Image, levels: tuple[int, int]) -> Image.Image:
    """Convert a loaded image of any mode to RGB. levels: black and white, in images of more than 8 bits."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _of_deep(image, levels)
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _of_deep(image: Image.Image, levels: tuple[int, int]) -> Image.Image:
    """Convert grey of more than 8 bits."""
    deep = np.asarray(image)
    grey = _eight_bits(deep, levels)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's transparent level
        grey[deep == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _eight_bits(grey: np.ndarray, levels: tuple[int, int]) -> np.ndarray:
    """Scale grey levels to uint8: floats from [0, 1], integers from `levels`. Pillow's own conversion clips them."""
    black, white = levels
    most = max(levels)
    if grey.dtype.kind == "f":
        black, white, most = black // most, white // most, 1
    if not (grey.min() >= 0 and grey.max() <= most):
        raise DataError(
            "The image has no defined brightness",
            got=f"{grey.dtype} pixels from {grey.min()} to {grey.max()}",
            fix="Convert it to 8 or 16 bits a channel",
        )
    scaled = np.rint(grey * (255.0 / most)).astype(np.uint8)
    return 255 - scaled if white < black else scaled


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
