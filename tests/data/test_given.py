"""Pictures as Python programs have them: by path, as a Pillow image or as an array, they are the same picture."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from openslip.data.decode import decode, strict
from openslip.data.given import pixels_of
from openslip.errors import DataError

HEIGHT, WIDTH = 21, 34
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = RGB[..., 1]


def _palette(kind: str) -> Image.Image:
    image = Image.fromarray(RGB).quantize(16)
    image.info["transparency"] = {"number": 3, "bytes": bytes(range(0, 256, 16))}[kind]
    return image


def _with(image: Image.Image, **info: Any) -> Image.Image:
    image.info |= info
    return image


def _16_bits(kind: str) -> Image.Image:
    return Image.frombytes(
        kind,
        (WIDTH, HEIGHT),
        (GREY * np.uint16(257)).astype(">u2" if kind.endswith("B") else "<u2").tobytes(),
    )


SAVED = {
    "1": ("png", Image.fromarray(GREY).convert("1")),
    "L": ("png", Image.fromarray(GREY)),
    "L with a transparent level": ("png", _with(Image.fromarray(GREY), transparency=int(GREY[0, 0]))),
    "LA": ("png", Image.fromarray(np.dstack([GREY, ALPHA]))),
    "P": ("gif", Image.fromarray(RGB).quantize(64)),
    "P with a transparent colour": ("png", _palette("number")),
    "P with transparencies": ("png", _palette("bytes")),
    "P in a GIF": ("gif", _palette("number")),
    "PA": ("tif", Image.fromarray(RGB).quantize(16).convert("PA")),
    "RGB": ("png", Image.fromarray(RGB)),
    "RGB with a transparent colour": (
        "png",
        _with(Image.fromarray(RGB), transparency=tuple(RGB[0, 0].tolist())),
    ),
    "RGBA": ("png", Image.fromarray(np.dstack([RGB, ALPHA]))),
    "RGBX": ("tif", Image.fromarray(np.dstack([RGB, ALPHA])).convert("RGBX")),
    "CMYK": ("tif", Image.fromarray(np.dstack([RGB, ALPHA]), "CMYK")),
    "CMYK in a JPEG": ("jpg", Image.fromarray(RGB).convert("CMYK")),
    "YCbCr": ("tif", Image.fromarray(RGB).convert("YCbCr")),
    "YCbCr in a JPEG": ("jpg", Image.fromarray(RGB).convert("YCbCr")),
    "LAB": ("tif", Image.fromarray(RGB, "LAB")),
    "I;16": ("png", _16_bits("I;16")),
    "I;16 in a TIFF": ("tif", _16_bits("I;16")),
    "I;16B in a TIFF": ("tif", _16_bits("I;16B")),
    "I": ("tif", Image.fromarray(GREY.astype(np.int32) * 257)),
    "I in a PGM": ("pgm", Image.fromarray(GREY.astype(np.int32) * 257)),
    "F": ("tif", Image.fromarray((GREY / 255).astype(np.float32))),
    "turned": ("jpg", Image.fromarray(RGB)),
    "WebP": ("webp", Image.fromarray(np.dstack([RGB, ALPHA]))),
    "BMP": ("bmp", Image.fromarray(RGB)),
}


def _saved(folder: Path, name: str) -> Path:
    kind, image = SAVED[name]
    path = folder / f"a.{kind}"
    options: dict[str, Any] = {"exif": _turned(), "quality": 95} if name == "turned" else {}
    if kind == "webp":
        options = {"lossless": True, "exact": True}
    image.save(path, **options)
    return path


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", SAVED)
def test_a_file_and_the_pillow_image_opened_from_it_are_the_same_picture(tmp_path: Path, name: str) -> None:
    """Whether it has been loaded or not, and also as a copy that knows nothing of its file."""
    path = _saved(tmp_path, name)
    right = pixels_of(path)
    assert np.array_equal(right, decode(path.read_bytes()))
    assert right.std() > 20  # neither black nor white
    opened, loaded = Image.open(path), Image.open(path)
    loaded.load()
    again = Image.open(path)
    for image in (opened, loaded, again, again, loaded.copy()):
        before = image.mode, image.size
        assert np.array_equal(pixels_of(image), right)
        assert (image.mode, image.size) == before
    opened.load()  # as it would have been without us
    assert opened.tobytes() == loaded.tobytes()


@pytest.mark.parametrize("name", ["I", "I;16", "I;16 in a TIFF", "I;16B in a TIFF", "F", "I in a PGM", "L"])
def test_grey_of_any_depth_is_that_grey(tmp_path: Path, name: str) -> None:
    right = np.repeat(GREY[..., None], 3, axis=2)
    assert np.array_equal(pixels_of(SAVED[name][1]), right)
    assert np.array_equal(pixels_of(Image.open(_saved(tmp_path, name))), right)


@pytest.mark.parametrize(
    "mode", ["HSV", "YCbCr", "CMYK", "RGBX", "RGBA", "RGBa", "La", "LA", "PA", "1", "L", "P", "LAB"]
)
def test_modes_that_are_made_in_memory(mode: str) -> None:
    """What Pillow's own conversion makes of them; colours that the mode can hold come back."""
    start = Image.fromarray(RGB)
    through = {"RGBa": "RGBA", "La": "LA"}.get(mode)
    if mode in ("LA", "La"):
        start = start.convert("L")
    image = (
        Image.fromarray(RGB, "LAB")
        if mode == "LAB"
        else (start.convert(through) if through else start).convert(mode)
    )
    assert image.mode == mode
    found = pixels_of(image).astype(int)
    right = np.asarray(
        start.convert("RGB")
        if mode in ("HSV", "YCbCr", "CMYK", "RGBX", "RGBA", "RGBa", "LA", "La")
        else image.convert("RGB")
    )
    assert np.abs(found - right).max() <= (8 if mode == "HSV" else 3)


def test_transparency_is_laid_on_white_and_turning_is_heeded() -> None:
    clear = Image.fromarray(np.zeros((4, 6, 4), np.uint8))
    for image in (clear, clear.convert("LA"), clear.convert("RGBa")):
        assert (pixels_of(image) == 255).all()
    image = Image.fromarray(RGB)
    image.info["exif"] = _turned().tobytes()
    assert np.array_equal(pixels_of(image), RGB[::-1].swapaxes(0, 1))


def test_an_image_that_was_changed_or_is_another_of_its_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    changed = Image.open(path)
    changed.putpixel((0, 0), (1, 2, 3))
    assert pixels_of(changed)[0, 0].tolist() == [1, 2, 3]
    frames = [Image.fromarray(np.full((8, 9, 3), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    second = Image.open(tmp_path / "b.tif")
    second.seek(1)
    assert (pixels_of(second) == 200).all()
    Image.fromarray(RGB).resize((640, 400)).save(tmp_path / "c.jpg")
    smaller = Image.open(tmp_path / "c.jpg")
    smaller.draft("L", (80, 50))
    found = pixels_of(smaller)
    assert found.shape[:2] == (50, 80)
    assert (found[..., 0] == found[..., 1]).all()
    with open(path, "rb") as file:
        closed = Image.open(file)
    with pytest.raises(DataError):
        pixels_of(closed)
    with pytest.raises(DataError, match="no pixels"):
        pixels_of(Image.new("RGB", (0, 5)))
    with pytest.raises(DataError, match="no defined brightness"):
        pixels_of(Image.fromarray(np.array([[0.0, 300.0]], np.float32)))


def test_files_that_pillow_loads_wrongly_are_read_right_as_long_as_it_has_not(tmp_path: Path) -> None:
    """Grey of 2 bits with a transparent level: Pillow keeps the level as it is in the file."""
    file = io.BytesIO()
    Image.fromarray(GREY // 64 * 85).quantize(4).save(file, "PNG", bits=2, transparency=1)
    opened = Image.open(io.BytesIO(file.getvalue()))
    assert np.array_equal(pixels_of(opened), decode(file.getvalue()))


def _arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    grey, black = np.stack([GREY] * 3, axis=-1), np.where(GREY > 127, 255, 0).astype(np.uint8)
    chw, rgba = np.moveaxis(RGB, -1, 0), np.dstack([RGB, np.full_like(ALPHA, 255)])
    dark = np.minimum(RGB, 250)
    return {
        "floats to 1": (RGB / 255, RGB),
        "single floats to 1": ((RGB / 255).astype(np.float32), RGB),
        "half floats to 1": ((RGB / 255).astype(np.float16), RGB),
        "floats to 255": (dark.astype(float) + 0.2, dark),
        "int64": (RGB.astype(np.int64), RGB),
        "int32": (RGB.astype(np.int32), RGB),
        "channels first": (chw, RGB),
        "floats, channels first": (chw / 255, RGB),
        "several, channels first": (np.stack([chw, chw]), np.stack([RGB, RGB])),
        "several floats": (np.stack([RGB, RGB]) / 255, np.stack([RGB, RGB])),
        "several floats, channels first": (np.stack([chw, chw]) / 255, np.stack([RGB, RGB])),
        "grey": (GREY, grey),
        "grey floats": (GREY / 255, grey),
        "grey with an axis": (GREY[..., None], grey),
        "grey with an axis in front": (GREY[None], grey),
        "several grey": (np.stack([GREY] * 5), np.stack([grey] * 5)),
        "several grey with an axis": (np.stack([GREY[..., None]] * 5), np.stack([grey] * 5)),
        "several grey, channels first": (np.stack([GREY[None]] * 5), np.stack([grey] * 5)),
        "16 bits": (GREY * np.uint16(257), grey),
        "black and white": (GREY > 127, np.stack([black] * 3, axis=-1)),
        "with transparency": (rgba, RGB),
        "floats with transparency": (rgba / 255, RGB),
        "with transparency, channels first": (np.moveaxis(rgba, -1, 0), RGB),
        "grey with transparency": (np.dstack([GREY, np.full_like(ALPHA, 255)]), grey),
        "several with transparency": (np.stack([rgba] * 2), np.stack([RGB] * 2)),
    }


@pytest.mark.parametrize("name", _arrays())
def test_what_the_error_about_an_array_says_to_pass_is_the_picture(name: str) -> None:
    array, right = _arrays()[name]
    with pytest.raises(DataError, match="must be RGB, uint8") as raised:
        pixels_of(array)
    assert str(array.dtype) in str(raised.value)
    assert str(array.shape) in str(raised.value)
    expression = str(raised.value).split("pass `" if "16" in name else "Pass `")[1].split("`")[0]
    found = eval(expression, {"array": array, "np": np, "PIL": PIL})
    several = found if isinstance(found, list) or getattr(found, "ndim", 3) == 4 else [found]
    assert np.array_equal(np.stack([pixels_of(one) for one in several]), right.reshape(-1, *right.shape[-3:]))


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.full((4, 4, 3), -1.5), "values from -1.5 to -1.5.*Scale the values.*255"),
        (np.full((3, 4, 4), -1.5), r"if the array is preprocessed already, pass `torch.from_numpy\(array\)`"),
        (np.full((4, 4, 3), np.nan), "Scale the values"),
        (np.full((4, 4, 3), 4095, np.uint16), "values from 4095 to 4095.*Scale the values"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(5), "must be RGB"),
        (np.zeros((1, 1, 1, 4, 4), np.uint8), "must be RGB"),
        (np.array(["a", "b"]), "must be RGB"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, told: str) -> None:
    with pytest.raises(DataError, match=told):
        pixels_of(array)


def test_strictness_is_shared_by_threads_and_ends_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's setting and Python's filters of warnings, which are the process's, are put back, and not too early."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with strict():
            entered.set()
            leave.wait(60)
            seen.append(ImageFile.LOAD_TRUNCATED_IMAGES)

    seen: list[bool] = []
    thread = threading.Thread(target=other)
    with strict():
        thread.start()
        entered.wait(60)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    leave.set()
    thread.join()
    assert (seen, ImageFile.LOAD_TRUNCATED_IMAGES) == ([False], True)
    assert list(warnings.filters) == filters
