"""What a JPEG 2000 takes beside its pixels is counted, where its parts are far smaller than usual."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from openslip.data import limits
from openslip.data.decode import decode
from openslip.data.jpeg2000 import BLOCK, PRECINCT, TILE, TILE_OF_ONE, draw_structure
from openslip.errors import DataError


class Counter(limits.Budget):
    def __init__(self):
        self.memory = self.samples = 0

    def draw(self, *, memory=0, samples=0):
        self.memory += memory
        self.samples += samples


def encoded(side, mode="L", **options):
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "JPEG2000", **options)
    return buffer.getvalue()


def drawn(data):
    counter = Counter()
    draw_structure(data, counter)
    return counter


def restyled(data, *, precincts=15, layers=1):
    """With precincts of 2 to this power, and so many layers, each of which is empty."""
    place = data.index(b"\xff\x52")
    length = struct.unpack(">H", data[place + 2 : place + 4])[0]
    style = bytearray(data[place + 4 : place + 14])
    style[0] |= 1
    style[2:4] = struct.pack(">H", layers)
    stated = bytes([precincts | precincts << 4]) * (style[5] + 1)
    segment = struct.pack(">H", 2 + len(style) + len(stated)) + bytes(style) + stated
    return data[: place + 2] + segment + data[place + 2 + length :]


@pytest.mark.parametrize("bare", [False, True])
def test_what_there_is_is_counted(bare):
    one = TILE + TILE_OF_ONE
    usual = drawn(encoded(128, no_jp2=bare, num_resolutions=1))
    assert usual.memory == one + 4 * BLOCK + PRECINCT + 2  # blocks of 64 × 64
    small = drawn(encoded(128, no_jp2=bare, num_resolutions=1, codeblock_size=(4, 4)))
    assert small.memory == one + 1024 * BLOCK + PRECINCT + 2
    tiles = drawn(encoded(128, no_jp2=bare, num_resolutions=1, tile_size=(16, 16)))
    assert tiles.memory == 64 * one + BLOCK + PRECINCT + 2
    three = drawn(encoded(128, "RGB", no_jp2=bare, num_resolutions=3))
    # 32 × 32; three bands of 32 × 32; three of 64 × 64; of each component.
    assert three.memory == TILE + 3 * (TILE_OF_ONE + 7 * BLOCK + 3 * (PRECINCT + 2))
    precincts = drawn(
        encoded(128, no_jp2=bare, num_resolutions=1, precinct_size=(32, 32), codeblock_size=(4, 4))
    )
    assert precincts.memory == one + 1024 * BLOCK + 16 * (PRECINCT + 2)


def test_a_picture_of_precincts_is_refused():
    """A precinct a pixel: its decoder takes 500 bytes for each."""
    with pytest.raises(DataError, match=r"takes too much to be read.*2000 × 2000"):
        decode(restyled(encoded(2000, num_resolutions=1), precincts=0))


def test_layers_of_precincts_are_work(monkeypatch):
    monkeypatch.setattr(limits, "MEMORY", 10**12)
    data = encoded(512, num_resolutions=1)
    assert drawn(restyled(data, precincts=3, layers=10)).samples > 4096 * 10
    with pytest.raises(DataError, match="values to visit"):
        decode(restyled(data, precincts=3, layers=65535))


@pytest.mark.parametrize("cut", range(2, 100, 7))
def test_headers_that_cannot_be_followed(cut):
    data = encoded(64, no_jp2=True)
    for damaged in (
        data[:cut],
        data[:cut] + b"\xff" * 20 + data[cut + 20 :],
        data[:cut] + bytes(9) + data[cut + 9 :],
    ):
        draw_structure(damaged, Counter())
        with pytest.raises(DataError):
            decode(damaged[:cut])


def test_usual_pictures_pass():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", tile_size=(32, 32))
    np.testing.assert_array_equal(decode(buffer.getvalue()), pixels)
