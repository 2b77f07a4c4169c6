"""TIFFs written by hand, for the kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import numpy as np

NONE, DEFLATE, PACKBITS = 1, 8, 32773
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_SIZES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 16: "Q"}


def tiff(
    pixels: np.ndarray,
    photometric: int = RGB,
    *,
    endian: Literal["<", ">"] = "<",
    planar: bool = False,
    compression: int = NONE,
    predictor: bool = False,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int = 0,
    extra: tuple[int, ...] = (),
    bits: int = 0,
    tags: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """Return a TIFF of pixels (height, width, samples) of any type; of `bits` below 8, packed, if given.

    predictor: horizontal differences, of integers. tile: height, width of tiles. extra: the extra samples' meaning.
    tags: more of them, or others: number → (type, values); a value of None leaves the tag out.
    """
    height, width, samples = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    planes = [pixels[..., k : k + 1] for k in range(samples)] if planar else [pixels]
    pieces = []
    for plane in planes:
        step_y, step_x = tile or (rows_per_strip or height, width)
        for y in range(0, height, step_y):
            for x in range(0, width, step_x):
                block = plane[y : y + step_y, x : x + step_x]
                if tile:
                    missing = step_y - block.shape[0], step_x - block.shape[1]
                    block = np.pad(block, ((0, missing[0]), (0, missing[1]), (0, 0)))
                pieces.append(_packed(block, endian, compression, predictor, bits))
    bits = bits or 8 * pixels.dtype.itemsize
    entries: dict[int, tuple[int, list[int]]] = {
        **{256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [compression])},
        **{262: (3, [photometric]), 277: (3, [samples]), 284: (3, [2 if planar else 1])},
        339: (3, [kind] * samples),
    }
    if predictor:
        entries[317] = 3, [2]
    if extra:
        entries[338] = 3, list(extra)
    where, sizes = (324, 325) if tile else (273, 279)
    entries |= {322: (4, [tile[1]]), 323: (4, [tile[0]])} if tile else {278: (4, [rows_per_strip or height])}
    entries[sizes] = 4, [len(piece) for piece in pieces]
    entries[where] = 4, [0] * len(pieces)
    entries |= tags or {}
    return _file(entries, where, pieces, endian)


def _packed(
    block: np.ndarray, endian: Literal["<", ">"], compression: int, predictor: bool, bits: int
) -> bytes:
    if predictor:
        first = np.zeros_like(block[:, :1])
        block = np.diff(block, axis=1, prepend=first)
    if bits and bits < 8:
        rows = block.reshape(block.shape[0], -1)
        spread = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(spread.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = np.ascontiguousarray(block).astype(block.dtype.newbyteorder(endian)).tobytes()
    if compression in (DEFLATE, 32946):
        return zlib.compress(data)
    if compression == PACKBITS:
        return b"".join(
            bytes([len(part) - 1]) + part for part in (data[k : k + 128] for k in range(0, len(data), 128))
        )
    return data


def _file(entries: dict[int, tuple[int, list[int]]], where: int, pieces: list[bytes], endian: str) -> bytes:
    """Lay out the header, the pieces, the values that are long, and the directory."""
    body, offsets = b"", []
    for piece in pieces:
        offsets.append(8 + len(body))
        body += piece + b"\0" * (len(piece) % 2)
    if entries[where][1] == [0] * len(pieces):
        entries[where] = 4, offsets
    directory = struct.pack(endian + "H", len(entries))
    for tag, (kind, values) in sorted(entries.items()):
        count = len(values)
        data = b"".join(struct.pack(endian + _SIZES[kind], value) for value in values)
        if len(data) > 4:
            place = struct.pack(endian + "I", 8 + len(body))
            body += data + b"\0" * (len(data) % 2)
            data = place
        directory += struct.pack(endian + "HHI", tag, kind, count) + data.ljust(4, b"\0")
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "I", 8 + len(body))
    return head + body + directory + struct.pack(endian + "I", 0)
