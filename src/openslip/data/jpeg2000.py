"""JPEG 2000s: what their decoder takes beside the pixels, told from their headers (ITU-T T.800, annex A)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from openslip.data.limits import Budget

BLOCK, PRECINCT, TILE, TILE_OF_ONE = 500, 500, 6500, 1200
"""Bytes that a code-block, a precinct, a tile, and a component of a tile take beside their samples, rounded up from
measurements."""
PACKET, MARKER = 50, 1000
"""Values to visit that a packet (a quality layer of a precinct) and a marker count for, however empty."""

_START = b"\xff\x4f\xff\x51"
_STYLE, _STYLE_OF_ONE, _TILE_PART, _DATA = 0x52, 0x53, 0x90, 0x93
_LARGEST = 15
"""The precincts of a style that states none are 2 to this power wide and high."""


class Style(NamedTuple):
    """How components are cut up: in 2 to these powers; precincts: (across, down) of each resolution, smallest first."""

    levels: int
    across: int
    down: int
    precincts: tuple[tuple[int, int], ...]


def draw_structure(image: bytes, budget: Budget) -> None:
    """Draw what tiles, precincts, code-blocks and layers take. Raises DataError where they are far too many.

    They can be smaller than any encoder makes them, so that there are more of them than samples. A codestream that
    cannot be followed is left to its decoder.
    """
    start = image.find(_START)
    try:
        _, right, bottom, left, top, across, down, _, _, components = struct.unpack_from(
            ">H8IH", image, start + 6
        )
    except struct.error:
        return
    width, height = max(1, right - left), max(1, bottom - top)
    across, down = max(1, min(across, width)), max(1, min(down, height))
    tiles = math.ceil(width / across) * math.ceil(height / down)
    budget.draw(memory=tiles * (TILE + TILE_OF_ONE * components), samples=tiles * MARKER)
    steps = image[start + 42 : start + 42 + 3 * components]
    sizes = {
        (math.ceil(across / max(1, x)), math.ceil(down / max(1, y))) for x, y in zip(steps[1::3], steps[2::3])
    }
    # An upper bound: each component as the most costly of all, each tile in the most costly of all styles.
    layers, styles = 1, set()
    for many, style in _styles(image, start, components, budget):
        layers = max(layers, many)
        styles.add(style)
    counts = [_count(style, *size) for style in styles for size in sizes]
    precincts = components * max((count[0] for count in counts), default=0)
    blocks = components * max((count[1] for count in counts), default=0)
    budget.draw(
        memory=precincts * (PRECINCT + 2 * layers) + blocks * BLOCK,
        samples=tiles * layers * precincts * PACKET,
    )


def _styles(image: bytes, start: int, components: int, budget: Budget) -> Iterator[tuple[int, Style]]:
    """Yield the layers and the style of each marker that states them, in the main header and those of tiles."""
    position, end = start + 2, 0
    while 0 <= position < len(image) - 4:
        _, marker, length = struct.unpack_from(">BBH", image, position)
        segment = image[position + 4 : position + 2 + length]
        budget.draw(samples=MARKER)
        if marker == _TILE_PART and len(segment) >= 8:
            end = position + int.from_bytes(segment[2:6], "big")
        elif marker == _STYLE and len(segment) >= 10:
            yield int.from_bytes(segment[2:4], "big"), _style(segment[5:], bool(segment[0] & 1))
        elif marker == _STYLE_OF_ONE and len(segment) >= 9:
            rest = segment[2 if components > 256 else 1 :]
            yield 1, _style(rest[1:], bool(rest[0] & 1))
        elif marker == _DATA:
            if end <= position:  # the last tile part goes to the end
                return
            position = end
            continue
        position += 2 + max(2, length)


def _style(stated: bytes, with_precincts: bool) -> Style:
    levels = min(32, stated[0])
    precincts = tuple((byte & 15, byte >> 4) for byte in stated[5 : 6 + levels]) if with_precincts else ()
    return Style(levels, (stated[1] & 15) + 2, (stated[2] & 15) + 2, precincts)


def _count(style: Style, width: int, height: int) -> tuple[int, int]:
    """Return how many precincts and code-blocks a tile of a component has (B.6, B.7), or nearly so."""
    precincts = blocks = 0
    for resolution in range(style.levels + 1):
        wide, high = (math.ceil(size / 2 ** (style.levels - resolution)) for size in (width, height))
        across, down = (
            style.precincts[resolution] if resolution < len(style.precincts) else (_LARGEST, _LARGEST)
        )
        precincts += math.ceil(wide / 2**across) * math.ceil(high / 2**down)
        half = resolution > 0  # there are three bands of half the size
        wide, high = (math.ceil(size / 2) if half else size for size in (wide, high))
        columns = math.ceil(wide / 2 ** min(style.across, max(0, across - half)))
        rows = math.ceil(high / 2 ** min(style.down, max(0, down - half)))
        blocks += (3 if half else 1) * columns * rows
    return precincts, blocks
