"""Fingerprints of files and pictures: equal for the same bytes, or close for the same picture."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from PIL import Image

FLAT = 2.0
"""Grey levels: a picture whose brightness varies less is taken as blank, and is not compared with others."""
SIDE, TINTS = 16, 4
"""Sides of a thumbnail's brightness and colours, in values."""
LOOK = np.dtype([("grey", "u1", (SIDE, SIDE)), ("tint", "i1", (TINTS, TINTS, 2))])
"""A thumbnail: brightness, and with a quarter of the resolution the two colour differences (Cb, Cr), 0 for grey."""

_LOW = 8


def digest(content: bytes) -> int:
    """Return 64 bits, equal for equal bytes, and for others only by chance (1 in 400,000 for 10 million files)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def of_image(image: bytes | np.ndarray) -> int:
    """Return the `digest` of an image as its record holds it."""
    return digest(image if isinstance(image, bytes) else image.tobytes())


def same(values: np.ndarray) -> np.ndarray:
    """Return for each value the position of the first equal value, (N,)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return the thumbnail of an RGB picture (H, W, 3) uint8, a scalar array of LOOK.

    The triangle filter leaves little aliasing, so a crop by a percent changes the values smoothly.
    """
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    values = np.asarray(small).astype(np.float32)
    block = SIDE // TINTS
    tints = values[..., 1:].reshape(TINTS, block, TINTS, block, 2).mean(axis=(1, 3)) - 128
    look = np.zeros((), LOOK)
    look["grey"], look["tint"] = values[..., 0], tints.round().clip(-128, 127)
    return look


def blank(pixels: np.ndarray) -> bool:
    """Whether an RGB picture (H, W, 3) uint8 has one colour all over."""
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    return bool(np.asarray(grey, dtype=np.float32).std() < FLAT)


def perceptual(grey: np.ndarray) -> np.ndarray:
    """Return 64-bit perceptual hashes of thumbnails' brightness (N, 16, 16), (N,) uint64.

    pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), of smaller thumbnails:
    which of the 8 × 8 lowest frequencies of the cosine transform are above their median. The hash stays nearly the same
    when a picture is resized or compressed. Different pictures can have equal hashes, so close pairs must be compared.
    """
    cosines = _cosines()
    low = (cosines @ grey.astype(np.float32) @ cosines.T).reshape(len(grey), _LOW * _LOW)
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    return bits.view("<u8")[:, 0].astype(np.uint64)


@cache
def _cosines() -> np.ndarray:
    """Return the first rows of the discrete cosine transform (DCT-II), (8, 16)."""
    frequency, position = np.arange(_LOW)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * SIDE)).astype(np.float32)
