"""Fingerprints of pictures, and their neighbours against the quadratic twin."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slip.data.check.fingerprints import digest, near, near_pairs, perceptual, same
from slip.data.decode import decode


def slow_pairs(values: list[int], distance: int) -> set[tuple[int, int]]:
    """Every value with every other."""
    return {
        (a, b)
        for b in range(len(values))
        for a in range(b)
        if (values[a] ^ values[b]).bit_count() <= distance
    }


def slow_firsts(values: list[int], distance: int) -> list[int]:
    """Walk from each value over all that are close, and take the first one reached."""
    firsts = []
    for start in range(len(values)):
        reached, todo = {start}, [start]
        while todo:
            here = values[todo.pop()]
            more = {k for k, v in enumerate(values) if (v ^ here).bit_count() <= distance} - reached
            reached |= more
            todo += more
        firsts.append(min(reached))
    return firsts


@st.composite
def hashes(draw) -> list[int]:
    """Values that are often close: a few at random, and others that differ from one before in a few bits."""
    values = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 25))):
        value = draw(st.sampled_from(values))
        for bit in draw(st.lists(st.integers(0, 63), max_size=6)):
            value ^= 1 << bit
        values.append(value)
    return draw(st.permutations(values))


@settings(deadline=None)
@given(hashes(), st.integers(0, 6))
def test_pairs_equal_the_quadratic_twin(values: list[int], distance: int) -> None:
    values = list(dict.fromkeys(values))
    a, b = near_pairs(np.array(values, np.uint64), distance)
    pairs = list(zip(a.tolist(), b.tolist()))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == slow_pairs(values, distance)


@settings(deadline=None)
@given(hashes(), st.integers(0, 4))
def test_groups_equal_the_slow_twin(values: list[int], distance: int) -> None:
    assert near(np.array(values, np.uint64), distance).tolist() == slow_firsts(values, distance)


def test_many_values() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 20_000, np.uint64)
    changed = values[:1000] ^ (np.uint64(1) << rng.integers(0, 64, 1000).astype(np.uint64))
    firsts = near(np.concatenate([values, changed]))
    assert firsts[:20_000].tolist() == list(range(20_000))
    assert firsts[20_000:].tolist() == list(range(1000))


def test_nothing_and_one() -> None:
    assert near(np.array([], np.uint64)).tolist() == []
    assert near(np.array([7], np.uint64)).tolist() == [0]
    assert same(np.array([5, 3, 5, 5, 3], np.uint64)).tolist() == [0, 1, 0, 0, 1]


def picture(seed: int) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(colours).resize((240, 180), Image.Resampling.BICUBIC))


def jpeg(image: Image.Image, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue(), 64)


@pytest.mark.parametrize("seed", range(10))
def test_a_picture_is_known_again(seed: int) -> None:
    original, image = perceptual(picture(seed))[0], Image.fromarray(picture(seed))
    for changed in (
        jpeg(image, 90),
        jpeg(image, 30),
        jpeg(image.resize((120, 90)), 75),
        jpeg(image.resize((480, 360)), 75),
        np.asarray(image.point(lambda level: level * 0.8)),
        np.asarray(image.convert("L").convert("RGB")),
    ):
        assert (perceptual(changed)[0] ^ original).bit_count() <= 4
    others = [perceptual(picture(other))[0] for other in range(100, 150)]
    assert min((other ^ original).bit_count() for other in others) > 8


def test_blank_pictures() -> None:
    assert perceptual(np.full((40, 50, 3), 200, np.uint8))[1]
    assert perceptual(np.full((1, 1, 3), 0, np.uint8))[1]
    assert not perceptual(picture(0))[1]


def test_digest() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b")
    assert 0 <= digest(b"") < 2**64
