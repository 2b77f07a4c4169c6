"""BMPs, GIFs, PPMs and others written by hand, each beside the pixels that it holds."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from openslip.data import limits
from openslip.data.decode import decode, known_formats
from openslip.data.header import Kind, header
from openslip.errors import DataError

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 24, 32
RGBA = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
RGB, BGR, ALPHA = RGBA[..., :3], RGBA[..., 2::-1], RGBA[..., 3:]
PALETTE, OTHER = RNG.integers(0, 256, (2, 256, 3), np.uint8)
INDEX = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
FEW = INDEX % 16


def grey(levels):
    return np.repeat(levels.reshape(*levels.shape[:2], 1).astype(float), 3, axis=2)


def on_white(colours, alpha):
    return 255 + (colours.astype(float) - 255) * alpha / 255


def check(data, right, tolerance=1):
    pixels = decode(data)
    assert pixels.shape == right.shape
    assert np.abs(pixels.astype(float) - right).max() <= tolerance


# BMP.


def bmp(bits, data, *, packed=0, palette=b"", masks=b"", size=40, upside_down=True):
    height = HEIGHT if upside_down else -HEIGHT
    head = struct.pack(
        "<IiiHHIIiiII", size, WIDTH, height, 1, bits, packed, len(data), 1, 1, len(palette) // 4, 0
    )
    head += masks.ljust(16, b"\0") + bytes(size - 56) if size > 40 else masks
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def lines(pixels):
    return b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in pixels[::-1])


def table(palette):
    return np.hstack([palette[:, ::-1], np.zeros((len(palette), 1), np.uint8)]).tobytes()


MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
WORDS = RNG.integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)
LONG = np.dstack([BGR, ALPHA])
NO_ALPHA = np.dstack([BGR, 0 * ALPHA])
RUNS = b"".join(b"".join(b"\1" + bytes([v]) for v in row) + b"\0\0" for row in INDEX[::-1]) + b"\0\1"
COPIED = b"".join(bytes([0, WIDTH]) + row.tobytes() + b"\0\0" for row in INDEX[::-1]) + b"\0\1"
PAIRS = FEW[:, ::2] << 4 | FEW[:, 1::2]
FEW_RUNS = b"".join(b"".join(b"\2" + bytes([v]) for v in row) + b"\0\0" for row in PAIRS[::-1]) + b"\0\1"
BMPS = {
    "24 bits": (bmp(24, lines(BGR)), RGB),
    "32 bits, the last 8 unused": (bmp(32, lines(NO_ALPHA)), RGB),
    "32 bits, the last 8 anything": (bmp(32, lines(LONG)), RGB),
    "32 bits with masks": (bmp(32, lines(LONG), packed=3, masks=MASKS[:12]), RGB),
    "transparency, version 4": (bmp(32, lines(LONG), packed=3, masks=MASKS, size=108), on_white(RGB, ALPHA)),
    "transparency, version 5": (bmp(32, lines(LONG), packed=3, masks=MASKS, size=124), on_white(RGB, ALPHA)),
    "transparency never set": (bmp(32, lines(NO_ALPHA), packed=3, masks=MASKS, size=124), RGB),
    "555": (
        bmp(16, lines(WORDS & 0x7FFF)),
        np.dstack([WORDS >> 10 & 31, WORDS >> 5 & 31, WORDS & 31]) / 31 * 255,
    ),
    "565": (
        bmp(16, lines(WORDS), packed=3, masks=struct.pack("<3I", 0xF800, 0x7E0, 0x1F)),
        np.dstack([(WORDS >> 11) / 31, (WORDS >> 5 & 63) / 63, (WORDS & 31) / 31]) * 255,
    ),
    "palette": (bmp(8, lines(INDEX), palette=table(PALETTE)), PALETTE[INDEX]),
    "from the top": (bmp(8, lines(INDEX[::-1]), palette=table(PALETTE), upside_down=False), PALETTE[INDEX]),
    "runs": (bmp(8, RUNS, packed=1, palette=table(PALETTE)), PALETTE[INDEX]),
    "runs that are copied": (bmp(8, COPIED, packed=1, palette=table(PALETTE)), PALETTE[INDEX]),
    "4 bits": (bmp(4, lines(PAIRS), palette=table(PALETTE[:16])), PALETTE[FEW]),
    "runs of 4 bits": (bmp(4, FEW_RUNS, packed=2, palette=table(PALETTE[:16])), PALETTE[FEW]),
    "1 bit": (
        bmp(1, lines(np.packbits(INDEX & 1, axis=1)), palette=table(PALETTE[:2])),
        PALETTE[INDEX & 1],
    ),
}


@pytest.mark.parametrize("kind", BMPS)
def test_bmp(kind):
    data, right = BMPS[kind]
    check(data, right)
    assert not header(data).kinds & Kind.DEEP  # the 16 bits of 565 are those of all three colours


def test_runs_of_a_bmp_are_counted(monkeypatch):
    monkeypatch.setattr(limits, "SAMPLES", 1_000_000)
    with pytest.raises(DataError, match="takes too much to be read"):
        decode(bmp(8, b"\0\0" * 5000, packed=1, palette=table(PALETTE)))


# GIF.


def gif(*frames, width=WIDTH, height=HEIGHT, palette=PALETTE):
    """frames: (x, y, indices, its own palette or None, the transparent index or None, interlaced)."""
    out = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70 if palette is None else 0xF7, 0, 0)
    out += b"" if palette is None else palette.tobytes()
    for x, y, indices, own, clear, interlaced in frames:
        out += b"\x21\xf9\4" + struct.pack("<BHBB", clear is not None, 5, clear or 0, 0)
        flags = (0 if own is None else 0x87) | (0x40 if interlaced else 0)
        out += b"," + struct.pack("<HHHHB", x, y, *indices.shape[::-1], flags)
        out += b"" if own is None else own.tobytes()
        if interlaced:
            indices = np.concatenate([indices[k::step] for k, step in ((0, 8), (4, 8), (2, 4), (1, 2))])
        out += b"\x08" + _blocks(_unpacked_codes(indices)) + b"\0"
    return out + b";"


def _unpacked_codes(indices):
    """LZW of 9 bits a code that never repeats anything: the table is cleared before it grows."""
    codes = []
    for k, value in enumerate(indices.reshape(-1).tolist()):
        codes += [256, value] if k % 200 == 0 else [value]
    bits = "".join(f"{code:09b}"[::-1] for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[k : k + 8][::-1], 2) for k in range(0, len(bits), 8))


def _blocks(data):
    return b"".join(bytes([len(data[k : k + 255])]) + data[k : k + 255] for k in range(0, len(data), 255))


def _placed(x, y, colours, background):
    canvas = np.empty((HEIGHT, WIDTH, 3))
    canvas[:] = background
    canvas[y : y + colours.shape[0], x : x + colours.shape[1]] = colours
    return canvas


SMALL = INDEX[:10, :12]
CLEAR = np.where(INDEX[..., None] == 9, 255, PALETTE[INDEX])
GIFS = {
    "plain": (gif((0, 0, INDEX, None, None, False)), PALETTE[INDEX]),
    "interlaced": (gif((0, 0, INDEX, None, None, True)), PALETTE[INDEX]),
    "a palette of its own": (gif((0, 0, INDEX, OTHER, None, False)), OTHER[INDEX]),
    "no other palette": (gif((0, 0, INDEX, OTHER, None, False), palette=None), OTHER[INDEX]),
    "transparent": (gif((0, 0, INDEX, None, 9, False)), CLEAR),
    "first of two": (
        gif((0, 0, INDEX, None, None, False), (0, 0, 255 - INDEX, OTHER, None, False)),
        PALETTE[INDEX],
    ),
    "smaller than its canvas": (
        gif((7, 5, SMALL, None, None, False)),
        _placed(7, 5, PALETTE[SMALL], PALETTE[0]),
    ),
    "larger than its canvas": (gif((0, 0, INDEX, None, None, False), width=20), PALETTE[INDEX]),
}


@pytest.mark.parametrize("kind", GIFS)
def test_gif(kind):
    check(*GIFS[kind])


def test_comments_of_a_gif_are_counted(monkeypatch):
    """Before the picture for both, after it for who asks whether there is another."""
    data, _ = GIFS["plain"]
    place = data.index(b"\x21\xf9")
    monkeypatch.setattr(limits, "SAMPLES", 2_000_000)
    comments = b"\x21\xfe\1a\0" * 1000
    before, after = data[:place] + comments + data[place:], data[:-1] + comments + data[-1:]
    one = b"\x21\xfe" + (b"\xff" + bytes(255)) * 1000 + b"\0"
    check(data[:place] + one + data[place:], PALETTE[INDEX])
    check(after, PALETTE[INDEX])
    for read, attack in ((decode, before), (header, before), (header, after)):
        with pytest.raises(DataError, match="takes too much to be read"):
            read(attack)
    assert header(GIFS["first of two"][0]).kinds == Kind.PALETTE | Kind.ANIMATED


# PPM.


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
def test_levels_of_a_ppm(magic, most):
    levels = np.random.default_rng(1).integers(0, most + 1, (11, 13, 1 if magic in ("P2", "P5") else 3))
    body = levels.astype(">u2" if most > 255 else np.uint8).tobytes()
    if magic in ("P2", "P3"):
        body = b" # no level\n".join(b"%d" % level for level in levels.reshape(-1))
    data = f"{magic}\n# made by hand\n13 11\n{most}\n".encode() + body
    right = levels / most * 255
    check(data, grey(right) if right.shape[2] == 1 else right)
    assert bool(header(data).kinds & Kind.DEEP) == (most > 255)


def test_black_and_white_and_floats():
    bits = np.random.default_rng(2).integers(0, 2, (11, 13))
    for between in (b"", b" ", b"\n# x 1\n"):
        check(b"P1\n13 11\n" + between.join(b"%d" % bit for bit in bits.reshape(-1)), grey(255 - 255 * bits))
    check(b"P4\n13 11\n" + np.packbits(bits.astype(np.uint8), axis=1).tobytes(), grey(255 - 255 * bits))
    levels = np.random.default_rng(3).random((11, 13)).astype("<f4")
    check(b"Pf\n13 11\n-1.0\n" + levels[::-1].tobytes(), grey(levels * 255))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"1 2 3", "3 of 4 levels"),
        (b"", "0 of 4 levels"),
        (b"# 1 2 3 4", "0 of 4 levels"),
        (b"1 2 -3 4", "from -3 to 4"),
        (b"1 2 256 4", "from 1 to 256"),
        (b"1 2 three 4", "no whole numbers"),
        (b"1 2 3.5 4", "no whole numbers"),
        (b"1 2 99999999999999999999999 4", "beyond 0 to 255"),
    ],
)
def test_ppms_whose_levels_are_none(body, message):
    with pytest.raises(DataError, match=f"The PPM is damaged.*{message}"):
        decode(b"P2\n2 2\n255\n" + body)


def test_a_number_across_the_parts_that_are_read(monkeypatch):
    monkeypatch.setattr("openslip.data.ppm.BLOCK", 7)
    levels = np.arange(0, 200, 2).reshape(10, 10)
    text = b" ".join(b"%d" % level for level in levels.reshape(-1))
    check(b"P2\n10 10\n255\n" + text, grey(levels), 0)
    check(b"P2\n10 10\n255\n" + text + b"\n\n", grey(levels), 0)


def test_a_header_of_comments_is_counted(monkeypatch):
    monkeypatch.setattr(limits, "SAMPLES", 1_000_000)
    check(b"P5\n" + b"#\n" * 100 + b"2 2 # x\n255\n\1\2\3\4", grey(np.array([[1, 2], [3, 4]])))
    with pytest.raises(DataError, match="takes too much to be read"):
        decode(b"P5\n" + b"#\n" * 10_000 + b"2 2\n255\n\1\2\3\4")


# Others, as Pillow writes them.

SMOOTH = np.asarray(Image.fromarray(RGB[:3, :4]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
LEVELS = SMOOTH[..., 0]
CLEARER = np.asarray(Image.fromarray(ALPHA[:3, :4, 0]).resize((WIDTH, HEIGHT)))[..., None]


def encoded(pixels, format, mode=None, **options):
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("bare", [False, True])
def test_jpeg_2000(bare):
    deep = LEVELS.astype(np.uint16) * 257
    options = {"no_jp2": bare}
    check(encoded(deep, "JPEG2000", **options), grey(LEVELS))
    assert header(encoded(deep, "JPEG2000", **options)).kinds == Kind.GREY | Kind.DEEP
    check(encoded(SMOOTH, "JPEG2000", **options), SMOOTH)
    check(encoded(SMOOTH, "JPEG2000", irreversible=True, **options), SMOOTH, 8)
    check(encoded(SMOOTH, "JPEG2000", tile_size=(16, 16), **options), SMOOTH)
    check(encoded(np.dstack([SMOOTH, CLEARER]), "JPEG2000", **options), on_white(SMOOTH, CLEARER))
    if not bare:  # a bare one does not say what its colours are
        check(encoded(SMOOTH, "JPEG2000", "YCbCr"), SMOOTH, 6)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"progressive": True}),
        ("CMYK", {}),
        ("CMYK", {"progressive": True}),
    ],
)
def test_colours_of_jpegs(mode, options):
    data = encoded(SMOOTH, "JPEG", mode, quality=100, subsampling=0, **options)
    check(data, SMOOTH, 12)
    assert header(data).kinds == (Kind.CMYK if mode == "CMYK" else 0)


def test_a_jpeg_of_12_bits_is_refused():
    data = bytearray(encoded(SMOOTH, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(DataError):
        decode(bytes(data))


def test_webp_and_avif_with_transparency():
    rgba = np.dstack([SMOOTH, CLEARER])
    check(encoded(rgba, "WEBP", lossless=True, exact=True), on_white(SMOOTH, CLEARER), 3)
    if "AVIF" in known_formats():
        check(encoded(rgba, "AVIF", quality=100, subsampling="4:4:4"), on_white(SMOOTH, CLEARER), 12)
