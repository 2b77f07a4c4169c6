"""TIFFs of every kind come out as the picture that they hold, or are refused; none takes more than its picture."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tiffs
from openslip.data import limits
from openslip.data.decode import decode
from openslip.data.header import Kind, header
from openslip.errors import DataError
from tiffs import BLACK_IS_ZERO, CMYK, DEFLATE, NONE, PACKBITS, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, tiff

LEVELS = np.random.default_rng(0).integers(0, 256, (20, 28, 5), np.uint8)
TYPES = {"u1": np.uint8, "u2": np.uint16, "i1": np.int8, "i2": np.int16, "i4": np.int32, "f4": np.float32}
FACTORS = {"u1": 1, "u2": 257, "i1": 0.5, "i2": 128, "i4": 257, "f4": 1 / 255}
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
IGNORED, MULTIPLIED, ALPHA = (0,), (1,), (2,)
LAYOUTS = ({}, {"rows_per_strip": 7}, {"tile": (16, 16)})


def stored(levels, kind):
    return (levels.astype(float) * FACTORS[kind]).astype(TYPES[kind])


def expected(levels, photometric, extra=()):
    """What the levels mean, by TIFF 6.0, on white."""
    levels = levels.astype(float)
    count = COLOURS[photometric]
    colours = levels[..., :count]
    if photometric == WHITE_IS_ZERO:
        colours = 255 - colours
    if photometric == CMYK:
        colours = (255 - colours[..., :3]) * (255 - colours[..., 3:]) / 255
    if count == 1:
        colours = np.repeat(colours, 3, axis=2)
    share = levels[..., count : count + 1] / 255
    if extra[:1] == ALPHA:
        colours = 255 + (colours - 255) * share
    if extra == MULTIPLIED:
        colours = np.clip(colours + 255 * (1 - share), 0, 255)
    return colours


def ways(samples, kind) -> Iterator[dict[str, Any]]:
    """Every way to store the same samples."""
    for endian, planar, compression, layout in itertools.product(
        "<>", (False, True) if samples > 1 else (False,), (NONE, DEFLATE, PACKBITS), LAYOUTS
    ):
        predictors = (False, True) if compression == DEFLATE and kind[0] != "f" else (False,)
        for predictor in predictors:
            way = {"endian": endian, "planar": planar, "compression": compression, "predictor": predictor}
            yield way | layout


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("photometric", "extra"),
    [
        (BLACK_IS_ZERO, ()),
        (WHITE_IS_ZERO, ()),
        (BLACK_IS_ZERO, ALPHA),
        (BLACK_IS_ZERO, IGNORED),
        (RGB, ()),
        (RGB, ALPHA),
        (RGB, MULTIPLIED),
        (RGB, IGNORED),
        (RGB, (2, 0)),
        (CMYK, ()),
        (CMYK, IGNORED),
    ],
)
def test_right_or_refused(photometric, extra, kind):
    samples = COLOURS[photometric] + len(extra)
    levels = LEVELS[..., :samples].copy()
    if extra == MULTIPLIED:
        levels[..., :-1] = np.floor(levels[..., :-1] * (levels[..., -1:] / 255))
    right = 0
    for way in ways(samples, kind):
        try:
            pixels = decode(tiff(stored(levels, kind), photometric, extra=extra, **way))
        except DataError:
            continue
        assert np.abs(pixels - expected(levels, photometric, extra)).max() < 3, way
        right += 1
    assert right or kind != "u1"


@pytest.mark.parametrize(
    ("photometric", "kind"), [(RGB, "u1"), (RGB, "u2"), (CMYK, "u1"), (CMYK, "u2"), (BLACK_IS_ZERO, "u2")]
)
def test_the_usual_kinds_are_all_right(photometric, kind):
    levels = LEVELS[..., : COLOURS[photometric]]
    for way in ways(COLOURS[photometric], kind):
        pixels = decode(tiff(stored(levels, kind), photometric, **way))
        assert np.abs(pixels - expected(levels, photometric)).max() < 3, way


def test_colours_of_16_bits_that_are_stored_apart_are_known_as_such():
    head = header(tiff(stored(LEVELS[..., :3], "u2"), planar=True))
    assert (head.width, head.height, head.kinds) == (28, 20, Kind.DEEP)


def test_numbers_with_a_sign_are_refused_in_words():
    with pytest.raises(DataError, match=r"kind that cannot be read.*with a sign.*without a sign"):
        decode(tiff(stored(LEVELS[..., :1], "i2"), BLACK_IS_ZERO))
    with pytest.raises(DataError, match=r"looks like a TIFF picture.*8 or 16 bits"):
        decode(tiff(LEVELS[..., :3].astype(np.float64), RGB))


@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_twelve_bits(compression):
    """They are packed, and come out as numbers up to 4095 of which Pillow does not say so."""
    levels = np.random.default_rng(1).integers(0, 4096, (9, 14), np.uint16)
    packed = np.zeros((9, 7, 3), np.uint8)
    packed[..., 0] = levels[:, ::2] >> 4
    packed[..., 1] = (levels[:, ::2] & 15) << 4 | levels[:, 1::2] >> 8
    packed[..., 2] = levels[:, 1::2] & 255
    data = tiff(
        packed.reshape(9, 21, 1),
        BLACK_IS_ZERO,
        compression=compression,
        tags={256: (4, [14]), 258: (3, [12])},
    )
    assert np.abs(decode(data)[..., 0] - levels / 4095 * 255).max() < 1


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE])
def test_few_bits(photometric, bits):
    most = 2**bits - 1
    levels = np.random.default_rng(2).integers(0, most + 1, (10, 13, 1), np.uint8)
    colours = np.random.default_rng(3).integers(0, 256, (3, most + 1))
    right = {WHITE_IS_ZERO: 255 - levels / most * 255, BLACK_IS_ZERO: levels / most * 255}.get(photometric)
    if right is None:
        right = colours.T[levels[..., 0]]
    for compression in (NONE, PACKBITS):
        tags = {320: (3, (colours * 257).reshape(-1).tolist())} if photometric == PALETTE else {}
        data = tiff(levels, photometric, bits=bits, compression=compression, tags=tags)
        assert np.abs(decode(data) - right).max() < 2


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_8_and_of_16_bits(factor):
    """Some programs write levels up to 255, of which Pillow makes black."""
    colours = np.random.default_rng(4).integers(0, 256, (3, 256))
    data = tiff(LEVELS[..., :1], PALETTE, tags={320: (3, (colours * factor).reshape(-1).tolist())})
    np.testing.assert_array_equal(decode(data), colours.T[LEVELS[..., 0]])


def test_brightness_and_transparency_stored_apart():
    """Pillow mixes them up where they are compressed."""
    for compression in (NONE, DEFLATE):
        with pytest.raises(DataError, match="stored apart"):
            decode(tiff(LEVELS[..., :2], BLACK_IS_ZERO, planar=True, compression=compression, extra=ALPHA))


@pytest.mark.parametrize("layout", [{"rows_per_strip": 7}, {"tile": (16, 16)}, {"planar": True}])
def test_missing_parts_are_missing_data(layout):
    """Pillow leaves them black."""
    data = tiff(LEVELS[..., :3], **layout)
    where = 324 if "tile" in layout else 273
    place = data.rindex(struct.pack("<HHI", where, 4, 3 if "tile" not in layout else 4))
    fewer = data[: place + 4] + struct.pack("<I", 2) + data[place + 8 :]
    assert decode(data).shape == (20, 28, 3)
    with pytest.raises(DataError, match=r"a part of its picture is missing.*2 of [34] strips or tiles"):
        decode(fewer)


def test_halved_colours():
    colours = np.full((24, 32, 3), (120, 90, 160), np.uint8)  # as YCbCr
    block = np.full((12, 16, 6), (120, 120, 120, 120, 90, 160), np.uint8)
    tags = {530: (3, [2, 2]), 256: (4, [32]), 257: (4, [24]), 277: (3, [3]), 258: (3, [8, 8, 8])}
    whole = decode(tiff(colours, YCBCR, compression=DEFLATE, tags={530: (3, [1, 1])}))
    halved = decode(tiff(block.reshape(12, 96, 1), YCBCR, compression=DEFLATE, tags=tags | {278: (4, [24])}))
    assert np.abs(whole.astype(int) - halved).max() < 3
    assert (
        np.abs(whole[0, 0] - [120 + 1.402 * 32, 120 - 0.344 * -38 - 0.714 * 32, 120 + 1.772 * -38]).max() < 3
    )


def bomb(**tags):
    """A picture of 100 × 100 pixels in a few bytes."""
    numbers = {int(name[1:]): value for name, value in tags.items()}
    entries = {
        256: (4, [100]),
        257: (4, [100]),
        258: (3, [8, 8, 8]),
        259: (3, [5]),
        262: (3, [2]),
        277: (3, [3]),
    }
    return tiffs._file(entries | numbers, 324 if 324 in numbers else 273, [b"\x80\x0b\x60\x50"], "<")


@pytest.mark.parametrize(
    "tags",
    [
        {"_322": (4, [25_600]), "_323": (4, [25_600]), "_324": (4, [0]), "_325": (4, [4])},
        {"_322": (4, [2**31]), "_323": (4, [16]), "_324": (4, [0] * 7), "_325": (4, [4] * 7)},
        {"_322": (4, [2**31]), "_323": (4, [2**31]), "_324": (4, [0]), "_325": (4, [4])},
    ],
)
def test_a_tile_far_larger_than_its_picture(tags):
    with pytest.raises(DataError, match="takes too much to be read"):
        decode(bomb(**tags))


def test_tiles_without_a_size_and_strips_of_absurd_ones():
    with pytest.raises(DataError):
        decode(bomb(_322=(4, [0]), _323=(4, [0]), _324=(4, [0])))
    levels = np.full((50, 50, 3), 7, np.uint8)
    assert (decode(tiff(levels, compression=DEFLATE, tags={278: (4, [2**32 - 1])})) == 7).all()


def test_a_strip_that_unpacks_to_more_than_its_picture():
    """Its decoder stops where the picture ends."""
    data = zlib.compress(bytes([9]) * 5_000_000)
    entries = {
        256: (4, [50]),
        257: (4, [50]),
        258: (3, [8]),
        259: (3, [DEFLATE]),
        262: (3, [1]),
        277: (3, [1]),
    }
    entries |= {278: (4, [50]), 279: (4, [len(data)]), 273: (4, [0])}
    assert (decode(tiffs._file(entries, 273, [data], "<")) == 9).all()


def test_a_directory_of_millions_of_numbers_is_not_taken_into_memory(monkeypatch):
    monkeypatch.setattr(limits, "MEMORY", 30_000_000)
    data = tiff(LEVELS[..., :3], tags={65000: (4, [1] * 1_000_000)})
    with pytest.raises(DataError, match="takes too much to be read"):
        decode(data)
    with pytest.raises(DataError, match="takes too much to be read"):
        header(data)
    assert decode(tiff(LEVELS[..., :3], tags={65000: (4, [1] * 60_000)})).shape == (20, 28, 3)


@pytest.mark.parametrize(
    "data", [b"II*\0", b"MM\0*\0\0\0\xff", b"II+\0\x08\0\0\0", b"II*\0\x08\0\0\0\xff\xff\1"]
)
def test_directories_that_cannot_be_followed(data):
    with pytest.raises(DataError, match="looks like a TIFF picture"):
        decode(data)
