"""PNGs of every kind come out as the picture that they hold, whatever texts they carry."""

from __future__ import annotations

import struct
import threading
import zlib

import numpy as np
import pytest

from openslip.data import limits, png
from openslip.data.decode import decode
from openslip.data.header import Kind, header
from openslip.data.limits import Budget
from openslip.errors import DataError

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
LARGE = bytes(3_000_000)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows(levels, depth):
    """The scan lines of levels (H, W, C), unfiltered."""
    lines = []
    for line in levels.reshape(len(levels), -1):
        if depth < 8:
            bits = (line[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            lines.append(np.packbits(bits.astype(np.uint8)).tobytes())
        else:
            lines.append(line.astype(">u2" if depth == 16 else np.uint8).tobytes())
    return b"".join(b"\0" + line for line in lines)


def written(levels, depth, colour, *chunks, interlaced=False, after=b""):
    parts = [levels[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [levels]
    data = zlib.compress(b"".join(rows(part, depth) for part in parts if part.size))
    height, width = levels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = b"".join(chunk(*c) for c in chunks)
    return png.SIGNATURE + chunk(b"IHDR", head) + body + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [
        *((GREY, depth) for depth in (1, 2, 4, 8, 16)),
        *((PALETTE, depth) for depth in (1, 2, 4, 8)),
        *((colour, depth) for colour in (RGB, GREY_ALPHA, RGB_ALPHA) for depth in (8, 16)),
    ],
)
def test_right_pixels(colour, depth, clear, interlaced):
    """clear: a colour, or each colour of a palette, is transparent."""
    rng = np.random.default_rng(0)
    most = 2**depth - 1
    levels = rng.integers(0, most + 1, (13, 11, SAMPLES[colour]))
    levels[:5] = levels[0, 0]
    colours, share, chunks = levels / most * 255, np.ones((13, 11, 1)), []
    if colour == PALETTE:
        palette, shares = rng.integers(0, 256, (most + 1, 3)), rng.integers(0, 256, most + 1)
        chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
        colours = palette[levels[..., 0]]
        if clear:
            chunks.append((b"tRNS", shares.astype(np.uint8).tobytes()))
            share = shares[levels] / 255
    elif colour in (GREY_ALPHA, RGB_ALPHA):
        colours, share = colours[..., :-1], colours[..., -1:] / 255
    elif clear:
        chunks = [(b"tRNS", levels[0, 0].astype(">u2").tobytes())]
        share = 1.0 - (levels == levels[0, 0]).all(axis=2, keepdims=True)
    pixels = decode(written(levels, depth, colour, *chunks, interlaced=interlaced))
    assert np.abs(pixels - (255 + (colours - 255.0) * share)).max() < 2


LEVELS = np.random.default_rng(1).integers(0, 256, (9, 12, 3))
TEXTS = {
    "packed text": (b"zTXt", b"prompt\0\0" + zlib.compress(LARGE)),
    "packed international text": (b"iTXt", b"workflow\0\1\0de\0\0" + zlib.compress(LARGE)),
    "text": (b"tEXt", b"parameters\0" + b"a cat, " * 400_000),
    "profile": (b"iCCP", b"sRGB\0\0" + zlib.compress(LARGE)),
    "damaged profile": (b"iCCP", b"sRGB\0\0no zlib"),
    "profile packed in an unknown way": (b"iCCP", b"sRGB\0\7"),
    "text packed in an unknown way": (b"zTXt", b"a\0\7"),
    "empty text": (b"tEXt", b""),
    "text that says how it is turned, too large": (
        b"zTXt",
        b"Raw profile type exif\0\0" + zlib.compress(LARGE),
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_cost_no_picture(kind):
    data = written(LEVELS, 8, RGB, TEXTS[kind])
    np.testing.assert_array_equal(decode(data), LEVELS)
    assert header(data).width == 12
    np.testing.assert_array_equal(decode(written(LEVELS, 8, RGB, after=chunk(*TEXTS[kind]))), LEVELS)


def test_a_damaged_text_costs_no_picture_and_a_damaged_picture_is_one():
    data = written(LEVELS, 8, RGB, (b"tEXt", b"Title\0x"))
    np.testing.assert_array_equal(decode(data.replace(b"Title\0x", b"Title\0y")), LEVELS)
    place = data.index(b"IDAT") + 12
    with pytest.raises(DataError):
        decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_many_texts_take_no_memory_beside_the_file():
    texts = [(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 100
    data = written(LEVELS, 8, RGB, *texts)
    assert len(png.without_texts(data, Budget("The image"))) < 1000
    np.testing.assert_array_equal(decode(data), LEVELS)


@pytest.mark.parametrize(
    "text",
    [
        (
            b"iTXt",
            b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>',
        ),
        (
            b"iTXt",
            b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'<rdf:Description tiff:Orientation="6"/>'),
        ),
        (
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(
                b"\nexif\n      32\n"
                + (b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x112, 3, 1, 6) + bytes(4))
                .hex()
                .encode()
            ),
        ),
        (b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x112, 3, 1, 6) + bytes(4)),
    ],
)
def test_texts_that_say_how_it_is_turned(text):
    np.testing.assert_array_equal(decode(written(LEVELS, 8, RGB, text)), np.rot90(LEVELS, -1))


def test_far_too_many_chunks_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "SAMPLES", 3_000_000)
    data = written(LEVELS, 8, RGB, *[(b"prVt", b"")] * 1000)
    for read in (decode, header):
        with pytest.raises(DataError, match="takes too much to be read"):
            read(data)


def test_threads_do_not_disturb_each_other():
    """What is passed over is passed over without a switch that all threads share."""
    data, plain = written(LEVELS, 8, RGB, TEXTS["packed text"]), written(LEVELS, 8, RGB)
    wrong = []

    def work():
        for _ in range(20):
            for each in (data, plain):
                if not np.array_equal(decode(each), LEVELS):
                    wrong.append(each)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sixteen_bits_are_deep():
    assert header(written(LEVELS, 16, RGB)).kinds == Kind.DEEP
    assert header(written(LEVELS, 8, RGB)).kinds == 0
