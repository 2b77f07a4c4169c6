"""Every kind of file becomes upright RGB, or an error with a reason; nothing damaged passes as an image."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile

from openslip.data import decode as module
from openslip.data import limits
from openslip.data.decode import check_decoder, decode, known_formats
from openslip.data.formats import FORMATS
from openslip.data.header import header
from openslip.errors import ConfigError, DataError
from tiffs import tiff

RNG = np.random.default_rng(0)
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).resize((80, 60), Image.Resampling.BICUBIC)
)

RGB, GREY_ALPHA, RGB_ALPHA = 2, 4, 6  # PNG's colour types


def encoded(image, format="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand, for the kinds that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_lossless_formats(format, options):
    pixels = decode(encoded(PICTURE, format, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, PICTURE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}])
def test_jpeg(options):
    pixels = decode(encoded(PICTURE, "JPEG", quality=98, **options))
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 3


def test_cmyk_jpeg():
    pixels = decode(encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 4


def test_grey_and_black_and_white():
    grey = PICTURE[:, :, 0]
    for format in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(encoded(grey, format)), np.stack([grey] * 3, 2))
    bits = Image.fromarray(grey > 128)
    np.testing.assert_array_equal(decode(encoded(bits)), np.stack([np.where(grey > 128, 255, 0)] * 3, 2))


def test_palette_and_animation():
    frames = [Image.new("RGB", (5, 4), colour).quantize() for colour in ("red", "green", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), np.full((4, 5, 3), (255, 0, 0), np.uint8))


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 1, 3], rgba[:, 2, 3] = 51, 255
    expected = np.stack([255 + (np.array([200, 0, 0]) - 255) * a for a in (0, 0.2, 1)]).round()
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        np.testing.assert_allclose(decode(encoded(rgba, format, **options))[0], expected, atol=1)


def test_transparency_of_grey_palette_and_key_colour():
    la = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 0)])
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    for data in (
        encoded(la),
        encoded(palette, transparency=0),
        encoded(palette, "GIF", transparency=0),
        encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)),
        encoded(Image.new("L", (1, 1), 7), transparency=7),
    ):
        assert decode(data).tolist() == [[[255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for format in ("PNG", "TIFF", "PPM"):
        pixels = decode(encoded(Image.fromarray(levels), format))
        np.testing.assert_array_equal(pixels, np.stack([expected] * 3, 2))
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(levels.astype(np.int32)), "TIFF"))[..., 0], expected
    )


@pytest.mark.parametrize("colour", [RGB, GREY_ALPHA, RGB_ALPHA])
def test_sixteen_bit_colour_and_alpha(colour):
    levels = [0x80FF] if colour == GREY_ALPHA else [0x80FF, 0x2000, 0xFF00]
    opaque = [] if colour == RGB else [0xFFFF]
    data = png(1, 1, 16, colour, b"\0" + struct.pack(f">{len(levels + opaque)}H", *levels, *opaque))
    expected = [level / 257 for level in levels] * (3 // len(levels))
    np.testing.assert_allclose(decode(data)[0, 0], expected, atol=1)


def test_float_tiff():
    pixels = decode(encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]
    for bad in ([[0, 300.5]], [[-1, 0]], [[np.nan, 0]]):
        with pytest.raises(DataError, match="no defined brightness"):
            decode(encoded(Image.fromarray(np.array(bad, np.float32)), "TIFF"))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_one_pixel():
    assert decode(encoded(np.full((1, 1, 3), 9, np.uint8))).tolist() == [[[9, 9, 9]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, format):
    """Stored as a camera held that way would; decoded, it is the picture again."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](PICTURE)
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(format, {})
    pixels = decode(encoded(np.ascontiguousarray(stored), format, exif=exif(orientation), **options))
    assert pixels.shape == PICTURE.shape
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"])
def test_damaged_exif_does_not_cost_the_picture(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(PICTURE, "JPEG", exif=exif)).shape == PICTURE.shape


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_anywhere(format):
    if format not in known_formats():
        pytest.skip(f"This Pillow was built without {format}")
    data = encoded(PICTURE, format)
    for share in (0.02, 0.1, 0.5, 0.9, 0.97):
        with pytest.raises(DataError) as error:
            decode(data[: int(len(data) * share)])
        assert "io.BytesIO" not in str(error.value)


def test_truncated_although_the_program_allows_it(monkeypatch):
    """Another library in the process may have set Pillow's switch."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(PICTURE, "JPEG")
    with pytest.raises(DataError, match="truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_random_damage_never_escapes_as_another_error(format):
    data = encoded(PICTURE, format)
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 64), 3):
            damaged[place] = rng.integers(256)
        try:
            pixels = decode(bytes(damaged))
        except DataError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html>404", "not an image of a known format.*looks like a web page"),
        (b"\0" * 1000, "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image of a known format"),
    ],
)
def test_not_an_image(data, message):
    with pytest.raises(DataError, match=message):
        decode(data)


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
def test_decompression_bomb(side):
    """Refused from the header alone, on either side of Pillow's own two limits, and without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="too large"):
            decode(png(side, side, 1, 0, b""))


def test_the_limit_is_ours(monkeypatch):
    data = encoded(PICTURE)
    monkeypatch.setattr(limits, "PIXELS", 80 * 60)
    assert decode(data).shape == (60, 80, 3)
    monkeypatch.setattr(limits, "PIXELS", 80 * 60 - 1)
    with pytest.raises(DataError, match="80 × 60 pixels"):
        decode(data)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 501), (100, 100), (9, 2000)])
@pytest.mark.parametrize("min_side", [1, 60, 64, 100, 160, 250, 5000])
def test_min_side(width, height, min_side):
    picture = Image.fromarray(PICTURE).resize((width, height), Image.Resampling.BICUBIC)
    data = encoded(picture, "JPEG", quality=95, subsampling=0)
    full = decode(data)
    assert full.shape == (height, width, 3)
    small = decode(data, min_side)
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(width, height) // f >= min_side)
    assert small.shape == (-(-height // factor), -(-width // factor), 3)
    assert min(small.shape[:2]) >= min(min_side, width, height)
    reference = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX))
    if width % factor == height % factor == 0:
        assert np.abs(small.astype(int) - reference).mean() < 4
    assert decode(encoded(picture, "PNG"), min_side).shape == full.shape


def test_arrays_pass_through():
    assert decode(PICTURE) is PICTURE
    for bad in (
        PICTURE.astype(float),
        PICTURE[0],
        PICTURE[:, :, :2],
        PICTURE[:0],
        PICTURE.transpose(2, 0, 1),
    ):
        with pytest.raises(DataError, match="must be RGB, uint8"):
            decode(bad)


@pytest.mark.parametrize("decoder", ["simplejpeg", "torchcodec.decoders"])
@pytest.mark.parametrize("min_side", [0, 7, 20, 31])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 90}),
        ("RGB", {"quality": 60, "subsampling": 2, "progressive": True}),
        ("RGB", {"quality": 95, "subsampling": 0}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_a_faster_decoder_gives_the_same_pixels(mode, options, min_side, decoder):
    pytest.importorskip(decoder)
    for extra in ({}, {"exif": exif(6)}):
        data = encoded(Image.fromarray(PICTURE).convert(mode), "JPEG", **options, **extra)
        expected = decode(data, min_side, "pillow")
        np.testing.assert_array_equal(decode(data, min_side, decoder.split(".")[0]), expected)


def test_the_faster_decoder_is_used_and_pillow_takes_what_it_does_not_know(monkeypatch):
    data, calls = encoded(PICTURE, "JPEG"), []

    def refuses(*_, **__):
        calls.append(1)
        raise ValueError("tjDecompressHeader3(): Could not determine subsampling level of JPEG image")

    expected = decode(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", refuses)
    np.testing.assert_array_equal(decode(data), expected)
    with pytest.raises(DataError):
        decode(data[: len(data) // 2])
    assert len(calls) == 2
    decode(encoded(PICTURE))
    assert len(calls) == 2


def test_wrong_decoders(monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'simplejpeg'"):
        check_decoder("simpeljpeg")
    monkeypatch.setattr(module, "_torchcodec", lambda: None)
    for decoder in ("auto", "pillow", "simplejpeg"):
        check_decoder(decoder)
    with pytest.raises(ConfigError, match="pip install torchcodec"):
        check_decoder("torchcodec")


def huge_jpeg(side, progressive=False):
    """A grey JPEG of `side` × `side` pixels, written by hand: each block says in 6 bits that it is like the last."""
    data = bytearray(encoded(Image.new("L", (8, 8), 128), "JPEG"))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda") + 10
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    if progressive:
        data[frame + 1] = 0xC2
    return bytes(data[:scan]) + b"\x28\xa2\x8a" * (side * side // 256) + b"\xff\xd9"


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_a_huge_jpeg_is_decoded_at_a_fraction(decoder):
    data = huge_jpeg(20_000)
    pixels = decode(data, 1000, decoder)
    assert pixels.shape == (2500, 2500, 3)
    assert (pixels == 128).all()
    head = header(data)
    assert (head.width, head.height) == (20_000, 20_000)
    with pytest.raises(DataError, match="20000 × 20000 pixels"):
        decode(data, 0, decoder)


def test_a_huge_jpeg_whose_decoder_would_hold_it_whole_is_refused():
    with pytest.raises(DataError, match="2500 × 2500 pixels.*8.. MB"):
        decode(huge_jpeg(20_000, progressive=True), 1000)


@pytest.mark.parametrize(("width", "height"), [(module._BAND, 3), (3, module._BAND), (700, 800)])
def test_bands_join_without_a_seam(width, height):
    row = np.arange(width, dtype=np.uint8)
    grey = row[None] + np.arange(height, dtype=np.uint8)[:, None]
    rgba = np.stack([grey, grey + 1, grey + 2, np.full_like(grey, 255)], 2)
    np.testing.assert_array_equal(decode(encoded(rgba, compress_level=1)), rgba[..., :3])
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(encoded(deep, compress_level=1)), np.stack([grey] * 3, 2))


PEAK = """
import re, sys
from openslip.data.decode import decode

def memory(kind):
    return 1024 * int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

data = open(sys.argv[2], "rb").read()
decode(open(sys.argv[1], "rb").read())
before = memory("VmRSS")
decode(data, int(sys.argv[3]))
print(memory("VmHWM") - before)
"""
"""Linux's own count of a process. Not getrusage's, which begins with the memory of the process that started it."""


def peak(tmp_path, small, data, min_side=0):
    """Return the bytes that decoding takes at its peak beside the file, seen from outside Python; `small` is first."""
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM" not in status.read_text():
        pytest.skip("This system does not count a process's peak memory")
    for name, content in (("small", small), ("data", data)):
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "data"), str(min_side)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


SIDE, SLACK = 2400, 12_000_000


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("RGB", "PNG", {"compress_level": 1}),
        ("RGBA", "PNG", {"compress_level": 1}),
        ("I;16", "PNG", {"compress_level": 1}),
        ("F", "TIFF", {}),
        ("RGBA", "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: SIDE}}),
        ("L", "PNG", {"compress_level": 1, "exif": exif(6)}),
        ("RGB", "JPEG", {"exif": exif(6)}),
        ("P", "GIF", {}),
        ("RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG2000", {}),
        ("RGB", "AVIF", {"speed": 10}),
    ],
)
def test_memory_is_what_is_stated(tmp_path, monkeypatch, mode, format, options):
    """What an image is refused for is what it would take, so no image takes more than `limits.MEMORY`."""
    if format not in known_formats():
        pytest.skip(f"This Pillow was built without {format}")

    def image(side):
        grey = Image.linear_gradient("L").resize((side, side))
        if mode == "I;16":
            return encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), format, **options)
        return encoded(
            grey.convert(mode) if mode != "F" else Image.new("F", grey.size, 0.5), format, **options
        )

    data = image(SIDE)
    assert peak(tmp_path, image(100), data) < stated(data, monkeypatch) + SLACK


def stated(data, monkeypatch):
    """Return the bytes that decoding draws in all."""
    drawn, draw = [0], limits.Budget.draw

    def counted(budget, *, memory=0, samples=0):
        drawn[0] += memory
        draw(budget, memory=memory, samples=samples)

    with monkeypatch.context() as patch:
        patch.setattr(limits.Budget, "draw", counted)
        decode(data)
    return drawn[0]


def plain_ppm(side):
    return b"P2\n%d %d\n999\n" % (side, side // 4) + b"998 " * (side * side // 4)


HARD = {
    "TIFF of 16 bits, colours apart": lambda side: tiff(np.zeros((side, side, 3), np.uint16), planar=True),
    "TIFF in one tile": lambda side: tiff(
        np.zeros((side, side, 3), np.uint8), compression=8, tile=(2 * side, 2 * side)
    ),
    "TIFF of halved colours": lambda side: encoded(
        Image.new("YCbCr", (side, side)), "TIFF", compression="jpeg", tiffinfo={278: side}
    ),
    "PPM in decimals": plain_ppm,
    "PPM of odd levels": lambda side: b"P6\n%d %d\n99\n" % (side, side) + bytes(3 * side * side),
    "JPEG 2000 of small blocks": lambda side: encoded(
        Image.new("L", (side // 2, side // 2)), "JPEG2000", codeblock_size=(4, 4)
    ),
    "JPEG 2000 of small tiles": lambda side: encoded(
        Image.new("L", (side // 2, side // 2)), "JPEG2000", tile_size=(16, 16)
    ),
    "PNG with texts": lambda side: texts_in(encoded(Image.new("RGB", (side, side)), compress_level=0)),
    "animated WebP": lambda side: encoded(
        Image.new("RGB", (side, side)),
        "WEBP",
        save_all=True,
        append_images=[Image.new("RGB", (side, side), "red")],
    ),
}


def texts_in(data):
    text = b"a\0\0" + zlib.compress(bytes(20_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return data[:33] + chunk * 5 + data[33:]


@pytest.mark.parametrize("kind", HARD)
def test_memory_of_what_is_hard_is_stated(tmp_path, monkeypatch, kind):
    data = HARD[kind](SIDE)
    assert peak(tmp_path, HARD[kind](64), data) < stated(data, monkeypatch) + SLACK


def test_memory_of_a_huge_jpeg_is_that_of_its_fraction(tmp_path):
    assert peak(tmp_path, encoded(PICTURE, "JPEG"), huge_jpeg(20_000), 1000) < 3 * 2500 * 2500 + SLACK
