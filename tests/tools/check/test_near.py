"""Near copies: found where pictures are the same, not where they only look alike, in bounded time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from check_fakes import encoded, pixels
from openslip.data.decode import decode
from openslip.tools.check import near as near_module
from openslip.tools.check.fingerprints import LOOK, perceptual, thumbnail
from openslip.tools.check.near import DISTANCE, TINT, alike, close_pairs, near


def slow_pairs(values: list[int], distance: int) -> list[tuple[int, int]]:
    """Every value with every other."""
    return [
        (a, b)
        for a in range(len(values))
        for b in range(a + 1, len(values))
        if (values[a] ^ values[b]).bit_count() <= distance
    ]


def slow_firsts(looks: np.ndarray) -> list[int]:
    """Go through the pictures in order: each is a copy of the first one kept before that it is alike to, or kept."""
    hashes, firsts = perceptual(looks["grey"]).tolist(), []
    for b in range(len(looks)):
        kept = [a for a in range(b) if firsts[a] == a and (hashes[a] ^ hashes[b]).bit_count() <= DISTANCE]
        tints = looks["tint"].astype(int)
        kept = [a for a in kept if np.abs(tints[a] - tints[b]).max() <= TINT]
        kept = [a for a in kept if alike(looks, np.array([a]), np.array([b]))[0]]
        firsts.append(kept[0] if kept else b)
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
    a, b, complete = close_pairs(np.array(values, np.uint64), distance=distance)
    assert list(zip(a.tolist(), b.tolist())) == slow_pairs(values, distance)
    assert complete


def test_pairs_of_many_values() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 20_000, np.uint64)
    changed = values[:1000] ^ (np.uint64(1) << rng.integers(0, 64, 1000).astype(np.uint64))
    a, b, complete = close_pairs(np.concatenate([values, changed]))
    assert (a.tolist(), b.tolist(), complete) == (list(range(1000)), list(range(20_000, 21_000)), True)


def looks_of(images: list[Image.Image]) -> np.ndarray:
    return np.array([thumbnail(np.asarray(image)) for image in images])


def drifting(count: int) -> np.ndarray:
    """Frames of a slow film: neighbours are alike, the first and the last are not."""
    first, last = (np.asarray(pixels(seed, 96, 64), np.float32) for seed in (1, 2))
    shares = np.linspace(0, 1, count)
    return looks_of([Image.fromarray(((1 - s) * first + s * last).round().astype(np.uint8)) for s in shares])


def test_groups_are_stars_and_equal_the_slow_twin() -> None:
    looks = drifting(120)
    firsts, complete = near(looks)
    assert firsts.tolist() == slow_firsts(looks)
    assert complete
    kept = np.unique(firsts)
    assert 3 < len(kept) < 60  # single linkage would make one group of a film
    assert (firsts[kept] == kept).all()
    assert alike(looks, firsts, np.arange(120)).all()


def test_among_some() -> None:
    looks = looks_of([photo(0)] * 6)
    assert near(looks, np.array([1, 3, 4]))[0].tolist() == [0, 1, 2, 1, 1, 5]


def test_nothing_and_one() -> None:
    assert near(np.zeros(0, LOOK))[0].tolist() == []
    assert near(looks_of([pixels(3)]))[0].tolist() == [0]


def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture with edges, such as photographs have: shapes on a soft ground."""
    rng = np.random.default_rng(seed)
    image = pixels(seed, width, height)
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = rng.uniform(0, 0.7, 2) * (width, height)
        w, h = rng.uniform(0.1, 0.4, 2) * (width, height)
        pen.ellipse([x, y, x + w, y + h], fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def changed(image: Image.Image) -> dict[str, Image.Image]:
    width, height = image.size
    margin = [round(0.01 * width), round(0.01 * height)]
    return {
        "recompressed": Image.fromarray(decode(encoded(image, quality=40))),
        "halved": image.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
        "doubled": image.resize((2 * width, 2 * height)),
        "squeezed": image.resize((128, 128)),
        "cropped": image.crop((margin[0], margin[1], width - margin[0], height - margin[1])),
    }


@pytest.mark.parametrize("way", list(changed(photo(0))))
def test_copies_are_found(way: str) -> None:
    images = [photo(seed) for seed in range(20)]
    looks = looks_of(images + [changed(image)[way] for image in images])
    firsts, _ = near(looks)
    assert firsts[:20].tolist() == list(range(20))
    assert (firsts[20:] == np.arange(20)).sum() >= (16 if way == "cropped" else 20)


def product(kind: int, *, colour: str = "black") -> Image.Image:
    """A thing on white, one of many of its kind: nearly the same outline, and small things on it."""
    rng = np.random.default_rng(kind)
    image = Image.new("RGB", (80, 60), "white")
    pen = ImageDraw.Draw(image)
    outline = np.array([(10, 48), (10, 16), (28, 18), (40, 30), (70, 36), (70, 48)])
    pen.polygon([tuple(corner) for corner in (outline + rng.integers(-2, 3, (6, 2))).tolist()], fill=colour)
    for _ in range(3):
        x, y = rng.integers(14, 60), rng.integers(24, 42)
        corners = np.array([x, y, x + rng.integers(3, 10), y + rng.integers(1, 4)])
        pen.rectangle(corners.tolist(), fill="gray")
    return image


def test_products_that_look_alike_are_no_copies() -> None:
    looks = looks_of([product(kind) for kind in range(150)])
    a, _, _ = close_pairs(perceptual(looks["grey"]))
    assert len(a) > 300  # by their hashes alone, many are the same
    firsts, _ = near(looks)
    assert (firsts != np.arange(150)).sum() <= 4


def test_the_same_thing_in_another_colour_is_no_copy() -> None:
    # Red and green of the same brightness.
    looks = looks_of(
        [product(0, colour="#c80000"), product(0, colour="#006600"), product(0, colour="#c80000")]
    )
    assert np.abs(looks["grey"][0].astype(int) - looks["grey"][1]).max() <= 2
    assert near(looks)[0].tolist() == [0, 1, 0]


def test_many_alike_take_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    looks = np.repeat(looks_of([photo(0)]), 4000)
    looks["grey"] += rng.integers(0, 2, looks["grey"].shape, np.uint8)
    monkeypatch.setattr(near_module, "FEW_PAIRS", 1000)
    monkeypatch.setattr(near_module, "PAIRS", 4)
    compared = []

    def counted(looks: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        compared.append(len(a))
        return alike(looks, a, b)

    monkeypatch.setattr(near_module, "alike", counted)
    start = time.perf_counter()
    firsts, complete = near(looks)
    assert time.perf_counter() - start < 20  # with all 8 million pairs: minutes
    assert compared == [16_000]
    assert not complete
    assert (firsts != np.arange(4000)).sum() > 2000
    assert (firsts[firsts] == firsts).all()
