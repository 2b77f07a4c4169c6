"""The RGB pixels of a picture as a Python program has it: a path, bytes of a file, a Pillow image or an array."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageFile

from openslip.data.decode import converted, decode, new_budget, open_image, orientation, strict, turned
from openslip.data.limits import FILE_BYTES
from openslip.data.storage.retry import is_url
from openslip.errors import DataError
from openslip.files import read_whole

Picture = Image.Image | np.ndarray | bytes | bytearray | memoryview | str | os.PathLike[str]


def pixels_of(picture: Picture, min_side: int = 0) -> np.ndarray:
    """Return a picture as an upright RGB array (height, width, 3), uint8; `min_side` as in `decode`.

    A file, its bytes and the Pillow image opened from it give the same pixels.

    Raises DataError for anything but a usable picture; the error does not name the picture.
    """
    if isinstance(picture, np.ndarray):
        check_array(picture)
        return picture
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), min_side=min_side)
    if isinstance(picture, str | os.PathLike):
        return decode(_content(picture), min_side=min_side)
    if isinstance(picture, Image.Image):
        return _of_pillow(picture, min_side)
    raise not_a_picture(picture)


def not_a_picture(thing: object) -> DataError:
    """Return the error for a thing that is not a picture, with what to pass instead."""
    kind = type(thing).__name__
    fix = "Pass a path, the bytes of an image file, a PIL image or an RGB uint8 array; or a list of these"
    if kind == "DataFrame":
        fix = "Pass the column that holds the paths, such as `frame['path']`"
    elif hasattr(thing, "keys"):
        fix = "Pass the pictures that it holds: `list(pictures.values())`, or the field of a row that has the image"
    elif hasattr(thing, "read"):
        fix = "Pass the content of the file: `file.read()`"
    return DataError("This is not a picture", got=kind, fix=fix)


def check_array(array: np.ndarray, *, several: bool = False) -> None:
    """Raise DataError, which says what to do, unless an array is RGB uint8 (H, W, 3); several: (N, H, W, 3)."""
    right = array.dtype == np.uint8 and array.ndim == 3 + several and array.shape[-1] == 3
    if right and 0 not in array.shape[-3:]:
        return
    numbers = array.dtype.kind in "buif" and array.size > 0
    limits = (
        f", values from {array.min():.6g} to {array.max():.6g}" if numbers and array.dtype != np.uint8 else ""
    )
    raise DataError(
        "Images given as one array must be RGB, uint8, of shape (number, height, width, 3)"
        if several
        else "An image given as an array must be RGB, uint8, of shape (height, width, 3)",
        got=f"{array.dtype}, shape {array.shape}{limits}",
        fix=_advice(array) if numbers else "",
    )


def _advice(array: np.ndarray) -> str:
    """Return the sentence that says how to make pictures of an array of numbers: one picture, or several stacked."""
    if array.dtype == np.uint16 and array.ndim == 2:
        return "If 65535 is white, pass `PIL.Image.fromarray(array)`"
    if not (levels := _levels(array)):
        tensor = array.ndim > 2 and array.shape[-3] == 3 and array.dtype.kind == "f"
        return "Scale the values to whole numbers from 0 (black) to 255 (white), as uint8" + (
            "; if the array is preprocessed already, pass `torch.from_numpy(array)`" if tensor else ""
        )
    picture = _laid_out(levels, array.shape)
    return f"Pass `{picture}`" if picture else ""


def _levels(array: np.ndarray) -> str:
    """Return the expression that makes uint8 of an array's values; "" where they do not tell what is white."""
    if array.dtype == np.uint8:
        return "array"
    if array.dtype.kind == "b":
        return "(array * np.uint8(255))"
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # also where one is not a number
        return ""
    if array.dtype.kind != "f":
        return "array.astype(np.uint8)"
    return "(array * 255).round().astype(np.uint8)" if high <= 1 else "array.round().astype(np.uint8)"


def _laid_out(levels: str, shape: tuple[int, ...]) -> str:
    """Return the expression that puts uint8 levels of some shape into the order of an RGB picture, or of several."""
    last, first = shape[-1:], shape[-3:-2]
    if last == (3,) and len(shape) > 2:
        return levels
    if last in ((2,), (4,)) and len(shape) > 2:  # with transparency, which Pillow's images know of
        one = f"PIL.Image.fromarray({levels})"
        return one if len(shape) == 3 else f"[PIL.Image.fromarray(one) for one in {levels}]"
    if last == (1,) and len(shape) > 2:
        return f"{levels}.repeat(3, axis=-1)"
    if first in ((1,), (3,), (4,)) and len(shape) <= 4:
        return _laid_out(f"np.moveaxis({levels}, -3, -1)", (*shape[:-3], *shape[-2:], *first))
    return f"np.stack([{levels}] * 3, axis=-1)" if len(shape) in (2, 3) else ""


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_whole(path, FILE_BYTES)
    except (OSError, ValueError) as error:
        fix = _instead(str(path)) if isinstance(error, FileNotFoundError | IsADirectoryError) else ""
        raise DataError("The image cannot be read", cause=str(error), fix=fix) from None


def _instead(path: str) -> str:
    """Return what to pass in place of a path that is no file's."""
    if os.path.isdir(path):
        return "Pass the files in the folder: `openslip.find_pictures(folder)`"
    if is_url(path):
        return "Fetch the file first, and pass its bytes: addresses are for `openslip.open_source`"
    if path.startswith("~"):
        return "Pass `os.path.expanduser(path)`"
    return (
        "Pass the files that the pattern stands for: `openslip.find_pictures(pattern)`" if "*" in path else ""
    )


def _of_pillow(image: Image.Image, min_side: int) -> np.ndarray:
    """Return a Pillow image's pixels. One that has only been opened is read as its file is."""
    with strict():
        content = _unread(image)
    if content is not None:
        return decode(content, min_side=min_side)
    if 0 in image.size:
        raise DataError("The image has no pixels", got=f"{image.width} × {image.height}")
    try:
        with strict():
            pixels = converted(image)
            return turned(pixels, orientation(image))
    except DataError:
        raise
    except Exception as error:  # nothing of it may have been decoded until now, and Pillow raises anything
        raise DataError("The image cannot be decoded", cause=str(error) or type(error).__name__) from None


def _unread(image: Image.Image) -> bytes | None:
    """Return the file of an image of which Pillow has read only the header; None if the image has changed since.

    Pillow reads some files wrongly. `decode` puts that right, but not once they are loaded.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None:
        return None
    try:
        if image.tell():  # another picture of the file
            return None
        position = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read(FILE_BYTES + 1)
        image.fp.seek(position)
        if len(content) > FILE_BYTES:
            return None
        opened = open_image(content, new_budget())
    except Exception:  # loading the image tells what is wrong with it
        return None
    same = (opened.mode, opened.size) == (image.mode, image.size)  # `draft` may have asked for less
    return content if same else None
