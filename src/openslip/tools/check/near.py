"""Find pictures that are nearly the same: candidates by hashes, a comparison of each pair, copies around a kept one."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from openslip.tools.check.fingerprints import perceptual

DISTANCE = 4
"""Pairs whose hashes differ in at most this many bits are compared."""
DIFFERENCE, ROUNDING = 0.03, 0.3
"""For near copies: the most difference between aligned thumbnails, as a share of their contrast; and the grey levels
that are always allowed."""
MOVE = 0.5
"""For near copies: how far aligning may move or stretch a thumbnail, in its pixels; 0.16 is a percent."""
TINT = 4
"""For near copies: levels by which the colours of a part of the thumbnail may differ."""
REACH = 512
"""Among values that agree in two bands, each is compared with this many that follow."""
PAIRS = 16
"""The most pairs of thumbnails compared per record; up to FEW_PAIRS in all are always compared."""
FEW_PAIRS = 100_000

_CHUNK = 8192


def near(looks: np.ndarray, among: np.ndarray | None = None) -> tuple[np.ndarray, bool]:
    """Return for each thumbnail, (N,) LOOK, the position of the one it is a near copy of, its own where there is none.

    The first of several alike thumbnails is kept. Its near copies are the thumbnails that are alike to it, not those
    that are only alike to one of the copies: groups are stars. A near copy never has copies of its own. `among`:
    positions of the thumbnails to compare, increasing; the others are left as they are.

    The second value tells whether all pairs were looked at. If so many pictures are alike that REACH or PAIRS is
    reached, some near copies may be missed; so time and memory grow with N, and never with N².
    """
    among = np.arange(len(looks)) if among is None else among
    a, b, complete = close_pairs(hashes(looks, among), looks["tint"][among])
    a, b = among[a], among[b]
    same = alike(looks, a, b)
    firsts = np.arange(len(looks))
    # Sorted by a: when it is reached, a is known to be kept or to be a copy.
    for kept, copy in zip(a[same].tolist(), b[same].tolist()):
        if firsts[kept] == kept and firsts[copy] == copy:
            firsts[copy] = kept
    return firsts, complete


def hashes(looks: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes of the thumbnails at positions `among` (N,), (N,) uint64; works in parts."""
    parts = [perceptual(looks["grey"][among[part]]) for part in _parts(len(among))]
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def close_pairs(
    values: np.ndarray,
    tints: np.ndarray | None = None,
    distance: int = DISTANCE,
    *,
    sides: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the pairs (a, b), a < b, of positions whose 64-bit values differ in at most `distance` bits, sorted.

    Pairs whose `tints` (N, 4, 4, 2) differ by more than TINT are left out, and with `sides` (N,) pairs on one side.
    The third value tells, as in `near`, whether all pairs were looked at.

    If values are cut into distance + 2 bands, two close values are equal in at least two bands (Manku et al.,
    "Detecting near-duplicates for web crawling", 2007). So the values are sorted by each two bands, and only neighbours
    that agree there are compared: for random values, a small multiple of N pairs in place of N²/2.
    """
    bands = np.array_split(np.arange(64), distance + 2)
    masks = [sum(1 << int(bit) for bit in band) for band in bands]
    count, complete = max(1, len(values)), True
    most = max(FEW_PAIRS, PAIRS * count)
    found = np.zeros(0, np.int64)  # a * count + b
    for one, other in combinations(masks, 2):
        keys = values & np.uint64(one | other)
        order = np.lexsort((values, keys))
        keys, ordered = keys[order], values[order]
        new, here = [found], np.arange(len(keys))
        for step in range(1, REACH + 1):
            # Those with the same key `step` positions on; the runs of equal keys are short, which ends soon.
            here = here[here < len(keys) - step]
            here = here[keys[here] == keys[here + step]]
            near = here[_ones(ordered[here] ^ ordered[here + step]) <= distance]
            a, b = order[near], order[near + step]
            if sides is not None:
                across = sides[a] != sides[b]
                a, b = a[across], b[across]
            if tints is not None:
                fits = (np.abs(tints[a].astype(np.int16) - tints[b]) <= TINT).all(axis=(1, 2, 3))
                a, b = a[fits], b[fits]
            new.append(np.minimum(a, b) * count + np.maximum(a, b))
            if not len(here) or sum(map(len, new)) > most:
                break
        found = np.unique(np.concatenate(new))
        complete &= not len(here) and len(found) <= most
        found = found[:most]
    return found // count, found % count, complete


def alike(looks: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return whether the brightness of the thumbnails at a and b, (P,) each, shows the same picture, (P,) bool.

    A picture that lost a margin of about a percent is shifted and stretched by fractions of a thumbnail's pixel. To
    first order that adds a multiple of its gradients (Lucas and Kanade, 1981). The best fitting multiples are
    subtracted from the difference, and the rest is compared with the lower contrast of the two pictures. The outermost
    pixels, which show partly other things after a crop, do not count.
    """
    return np.concatenate(
        [
            np.zeros(0, bool),
            *(_alike(looks["grey"][a[part]], looks["grey"][b[part]]) for part in _parts(len(a))),
        ]
    )


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    contrast = np.minimum(one.std(axis=(1, 2)), other.std(axis=(1, 2)))
    one, other = _smooth(one), _smooth(other)
    middle = (one + other) / 2
    across = (middle[:, 1:-1, 2:] - middle[:, 1:-1, :-2]) / 2
    down = (middle[:, 2:, 1:-1] - middle[:, :-2, 1:-1]) / 2
    position = np.linspace(-1, 1, across.shape[1], dtype=np.float32)
    moves = np.stack([across, across * position, down, down * position[:, None]], axis=-1).reshape(
        len(one), -1, 4
    )
    difference = (other - one)[:, 1:-1, 1:-1].reshape(len(one), -1, 1)
    turned = moves.transpose(0, 2, 1)
    ridge = 50 * np.eye(4, dtype=np.float32)  # where there is no gradient there is nothing to fit
    fitted = np.linalg.solve(turned @ moves + ridge, turned @ difference)
    rest = np.sqrt(np.square(difference - moves @ fitted).mean(axis=(1, 2)))
    moved = np.abs(fitted).max(axis=(1, 2))
    return (rest <= np.maximum(DIFFERENCE * contrast, ROUNDING)) & (moved <= MOVE)


def _smooth(grey: np.ndarray) -> np.ndarray:
    """Return (N, S, S) smoothed by 1 2 1 both ways, (N, S - 2, S - 2), as aliasing would not move with the picture."""
    grey = grey.astype(np.float32)
    grey = (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]) / 4
    return (grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]) / 4


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def _ones(values: np.ndarray) -> np.ndarray:
    """Return the number of ones in each 64-bit value: added up in pairs, then fours, then bytes, then all bytes."""
    pairs, fours, bytes_, ones = (np.uint64(int(digits * 8, 16)) for digits in ("55", "33", "0f", "01"))
    values = values - ((values >> np.uint64(1)) & pairs)
    values = (values & fours) + ((values >> np.uint64(2)) & fours)
    values = (values + (values >> np.uint64(4))) & bytes_
    return (values * ones) >> np.uint64(56)
