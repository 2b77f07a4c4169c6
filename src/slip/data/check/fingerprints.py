"""Which pictures are the same, or nearly so: fingerprints, and the groups of those that are close to each other."""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import combinations

import numpy as np
from PIL import Image

DISTANCE = 4
"""Bits in which the perceptual hashes of near duplicates may differ."""
FLAT = 2.0
"""Grey levels: a picture whose brightness spreads less is taken to be blank, and its perceptual hash says nothing."""

_SIDE, _LOW = 32, 8
_LONGEST_RUN = 4096


def digest(content: bytes) -> int:
    """Return 64 bits that are equal for equal bytes, and for others but by chance (10 million files: 1 in 400,000)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def perceptual(pixels: np.ndarray) -> tuple[int, bool]:
    """Return the 64-bit perceptual hash of an RGB picture (H, W, 3) uint8, and whether the picture is blank.

    pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): which of the 8 × 8
    lowest frequencies of the picture's cosine transform, at 32 × 32 grey levels, lie above their median. It stays
    nearly the same when a picture is resized, compressed, or changed in brightness; not when it is cropped or turned.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.float32)
    cosines = _cosines()
    low = (cosines @ levels @ cosines.T).ravel()
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "little"), bool(levels.std() < FLAT)


@cache
def _cosines() -> np.ndarray:
    """Return the first rows of the discrete cosine transform (DCT-II), (8, 32)."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)).astype(np.float32)


def same(values: np.ndarray) -> np.ndarray:
    """Return for each value the position of the first one that is equal to it, (N,)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def near(hashes: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """Return for each 64-bit hash the position of the first one of its group, (N,).

    A group is what can be reached in steps of at most `distance` bits.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    parent = np.arange(len(values))
    for a, b in zip(*near_pairs(values, distance)):
        a, b = _root(parent, a), _root(parent, b)
        if first[a] > first[b]:
            a, b = b, a
        parent[b] = a
    while (parent != parent[parent]).any():
        parent = parent[parent]
    return first[parent][inverse]


def near_pairs(values: np.ndarray, distance: int = DISTANCE) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs (a, b), a < b, of positions whose values differ in at most `distance` bits; all are different.

    Cut into distance + 2 bands, two values that close are equal in at least two bands (Manku et al., "Detecting
    near-duplicates for web crawling", 2007). So for every two bands the values are sorted by these alone, and only
    neighbours that agree there are compared: for values spread at random, a small multiple of N pairs in place of N²/2.
    Of runs of more than 4,096 that agree in two bands, each is compared with the next 4,095 only.
    """
    bands = np.array_split(np.arange(64), distance + 2)
    masks = [sum(1 << int(bit) for bit in band) for band in bands]
    found: list[np.ndarray] = []
    for one, other in combinations(masks, 2):
        keys = values & np.uint64(one | other)
        order = np.argsort(keys)
        keys = keys[order]
        here = np.arange(len(keys))
        for step in range(1, min(len(keys), _LONGEST_RUN)):
            # Those whose key is still the same `step` places on; the runs of equal keys are short, so this ends soon.
            here = here[here < len(keys) - step]
            here = here[keys[here] == keys[here + step]]
            if not len(here):
                break
            a, b = order[here], order[here + step]
            close = _ones(values[a] ^ values[b]) <= distance
            found.append(np.stack([np.minimum(a, b)[close], np.maximum(a, b)[close]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), dtype=np.intp)
    return pairs[:, 0], pairs[:, 1]


def _ones(values: np.ndarray) -> np.ndarray:
    """Return the number of ones in each 64-bit value: added up in pairs, then fours, then bytes, then all bytes."""
    pairs, fours, bytes_, ones = (np.uint64(int(digits * 8, 16)) for digits in ("55", "33", "0f", "01"))
    values = values - ((values >> np.uint64(1)) & pairs)
    values = (values & fours) + ((values >> np.uint64(2)) & fours)
    values = (values + (values >> np.uint64(4))) & bytes_
    return (values * ones) >> np.uint64(56)


def _root(parent: np.ndarray, k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k
