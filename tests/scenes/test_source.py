"""The source: deterministic pictures, splits that differ, specs, and golden values."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from openslip.data.record import Source
from openslip.errors import DataError
from openslip.scenes import Scenes, open_scenes


def test_a_record_is_what_the_contract_says() -> None:
    source: Source = Scenes("test", 3, seed=5, size=40)
    assert len(source) == 3
    assert source.name == "scenes"
    record = source[2]
    assert isinstance(record.image, np.ndarray)
    assert record.image.shape == (40, 40, 3)
    assert record.image.dtype == np.uint8
    assert record.key == "scenes/test/000002"
    assert record.source == "scenes"
    with pytest.raises(IndexError):
        source[3]


def test_pictures_are_a_pure_function_of_seed_split_and_index() -> None:
    scenes = Scenes("train", 100, size=32)
    again = pickle.loads(pickle.dumps(Scenes("train", 7, size=32)))
    assert len(pickle.dumps(scenes)) < 500
    for index in (6, 0, 3):
        one, two = scenes[index], again[index]
        assert np.array_equal(one.image, two.image)
        assert one.captions == two.captions
        assert one.key == two.key
        assert scenes.label(index) == scenes.describe(index).label
        assert np.array_equal(scenes.picture(index), one.image)
        assert scenes.captions(index) == one.captions
    assert np.array_equal(scenes[-1].image, scenes[99].image)


def test_other_splits_and_seeds_show_other_pictures() -> None:
    sets = [
        Scenes("train", 5, size=24),
        Scenes("test", 5, size=24),
        Scenes("heldout", 5, size=24),
        Scenes("train", 5, 1, 24),
    ]
    pictures = [np.asarray(source[k].image).tobytes() for source in sets for k in range(5)]
    assert len(set(pictures)) == 20


def test_sizes_show_the_same_scene() -> None:
    for index in range(6):
        small, large = (Scenes(size=size).picture(index).astype(float) for size in (32, 128))
        shrunk = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - small).mean() < 14


def test_every_class_is_drawn_everywhere_without_a_fault() -> None:
    scenes = Scenes("heldout", 300, seed=9, size=16)
    deviations = [scenes.picture(index).std() for index in range(300)]
    assert min(deviations) > 3


def test_golden_means() -> None:
    scenes = Scenes("train", 10, size=64)
    for index, (label, *colour) in GOLDEN.items():
        assert scenes.label(index) == label
        assert scenes.picture(index).mean(axis=(0, 1)) == pytest.approx(colour, abs=1.5)


GOLDEN: dict[int, tuple[float, ...]] = {
    0: (0, 189.7, 172.5, 161.7),
    1: (15, 167.4, 156.8, 141.8),
    2: (23, 140.8, 110.5, 118.1),
    3: (2, 130.2, 159.6, 154.2),
    4: (16, 188.9, 153.4, 129.9),
    5: (20, 87.3, 85.1, 111.8),
}


def test_specs() -> None:
    for spec, split, count in (
        ("scenes", "train", 10_000),
        ("scenes:test", "test", 10_000),
        ("scenes:heldout:250", "heldout", 250),
        ("scenes::20_000", "train", 20_000),
    ):
        opened = open_scenes(spec)
        assert (opened.split, len(opened), opened.seed, opened.size) == (split, count, 0, 96)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:trian", "'train'"),
        ("scenes:test:many", "many"),
        ("scenes:test:-3", "-3"),
        ("scenes:test:0", "at least 1"),
        ("scenes:a:1:2", r"scenes\[:split"),
        ("senes", "senes"),
    ],
)
def test_wrong_specs_teach(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_scenes(spec)
    with pytest.raises(DataError):
        Scenes(size=4)
