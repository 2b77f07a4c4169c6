"""Stored images: unchanged where that is possible, else upright, no larger than asked for, and whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from openslip.data.decode import decode
from openslip.data.encode import Encoding
from openslip.data.header import Kind, header
from openslip.errors import ConfigError, DataError

PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).resize(
        (90, 60), Image.Resampling.BICUBIC
    )
)


def encoded(image, format="JPEG", orientation=0, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "extension"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_files_pass_byte_for_byte(format, extension):
    data = encoded(PICTURE, format)
    assert Encoding()(data) == (extension, data)
    assert Encoding(short_side=60)(data) == (extension, data)
    turned = encoded(PICTURE, orientation=6)
    assert Encoding(short_side=90)(turned) == ("jpg", turned)


def test_other_formats_are_encoded_anew():
    extension, data = Encoding("png")(encoded(PICTURE, "PPM"))
    assert extension == "png"
    np.testing.assert_array_equal(decode(data), PICTURE)


@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_shrinks_to_the_short_side_and_turns_the_pixels(format, orientation):
    data = encoded(PICTURE, format, orientation)
    extension, small = Encoding(short_side=20, quality=95)(data)
    assert extension == "jpg"
    assert header(small).kinds == 0  # nothing is left that would turn it once more
    upright = decode(data)
    size = (30, 20) if upright.shape[1] > upright.shape[0] else (20, 30)
    assert (header(small).width, header(small).height) == size
    twin = np.asarray(Image.fromarray(upright).resize(size, Image.Resampling.LANCZOS), float)
    assert np.abs(decode(small) - twin).mean() < 3


def test_arrays_shrink_too():
    assert decode(Encoding("png", short_side=30)(PICTURE)[1]).shape == (30, 45, 3)
    np.testing.assert_array_equal(decode(Encoding("png")(PICTURE)[1]), PICTURE)


def test_quality():
    sizes = [len(Encoding(quality=quality)(PICTURE)[1]) for quality in (30, 70, 95)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("short_side", [0, 20])
def test_damaged_files_are_refused(short_side):
    data = encoded(PICTURE)
    for bad in (b"", b"no image", data[: len(data) // 2], encoded(PICTURE, "PNG")[:-60]):
        with pytest.raises(DataError):
            Encoding(short_side=short_side)(bad)


def test_without_verification_only_the_header_is_read():
    data = encoded(PICTURE)
    assert Encoding(verify=False)(data[: len(data) // 2])[0] == "jpg"
    with pytest.raises(DataError):
        Encoding(verify=False)(b"no image")


@pytest.mark.parametrize(
    "options", [{"format": "tiff"}, {"quality": 0}, {"quality": 101}, {"short_side": -1}]
)
def test_bad_settings(options):
    with pytest.raises(ConfigError):
        Encoding(**options)


GREY = Image.fromarray(PICTURE).convert("L")
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (90, 60), "red")]}


@pytest.mark.parametrize(
    ("image", "format", "options", "kinds"),
    [
        (PICTURE, "JPEG", {}, Kind(0)),
        (GREY, "JPEG", {}, Kind.GREY),
        (GREY.convert("1"), "PNG", {}, Kind.GREY),
        (DEEP, "PNG", {}, Kind.GREY | Kind.DEEP),
        (DEEP, "TIFF", {}, Kind.GREY | Kind.DEEP),
        (Image.fromarray(PICTURE).convert("CMYK"), "JPEG", {}, Kind.CMYK),
        (Image.fromarray(PICTURE).quantize(16), "PNG", {}, Kind.PALETTE),
        (Image.fromarray(PICTURE).convert("RGBA"), "PNG", {}, Kind.ALPHA),
        (Image.fromarray(PICTURE), "PNG", {"transparency": (1, 2, 3)}, Kind.ALPHA),
        (Image.fromarray(PICTURE), "WEBP", FRAMES, Kind.ANIMATED),
        (Image.fromarray(PICTURE), "MPO", FRAMES, Kind(0)),
        (PICTURE, "JPEG", {"orientation": 3}, Kind.TURNED),
        (PICTURE, "JPEG", {"orientation": 1}, Kind(0)),
        (PICTURE, "JPEG", {"orientation": 77}, Kind(0)),
    ],
)
def test_headers(image, format, options, kinds):
    head = header(encoded(image, format, **options))
    assert (head.format, head.width, head.height) == ("JPEG" if format == "MPO" else format, 90, 60)
    assert head.kinds == kinds


def test_headers_size_is_upright():
    for orientation in range(1, 9):
        data = encoded(PICTURE, "JPEG", orientation)
        head = header(data)
        assert (head.height, head.width) == decode(data).shape[:2]
    assert header(encoded(PICTURE, "GIF", **FRAMES)).kinds & Kind.ANIMATED
