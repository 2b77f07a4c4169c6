from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

from openslip.config import ViewConfig, ViewsConfig
from openslip.data.order import generator
from openslip.data.views import JITTERS, ORDERS, Parameter, center, check_views, crop, draw, smallest_crop
from openslip.errors import ConfigError

SSL = ViewsConfig().ssl
PLAIN = ViewsConfig().image


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draws(config: ViewConfig, count: int, height: int = 90, width: int = 120) -> list:
    return [draw(config, height, width, generator(1, 0, index, 3)) for index in range(count)]


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    seed=st.integers(0, 1000),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
)
@settings(deadline=None)
def test_boxes_lie_in_the_image(height: int, width: int, seed: int, low: float, high: float) -> None:
    config = ViewConfig(scale=(min(low, high), max(low, high)))
    (left, upper, right, lower), parameters = draw(config, height, width, generator(seed, 0, 0, 0))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    assert parameters.shape == (len(Parameter),)
    assert parameters.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (300, 10), (10, 300)])
def test_the_fallback_is_torchvisions(height: int, width: int) -> None:
    config = ViewConfig(scale=(1.0, 1.0), ratio=(0.99, 1.01))  # fits into no such image
    top, left, h, w = RandomResizedCrop.get_params(
        torch.zeros(3, height, width), list(config.scale), list(config.ratio)
    )
    box, _ = draw(config, height, width, generator(0, 0, 0, 0))
    assert box == (left, top, left + w, top + h)


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 90, 120)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(SSL.scale), list(SSL.ratio)) for _ in range(3000)]
    )
    boxes = np.array([box for box, _ in draws(SSL, 3000)])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    for column in range(4):  # Kolmogorov-Smirnov distance; 1.63 * sqrt(2/n) is its 1 % level
        values = np.arange(121)
        distance = (ours[:, column, None] <= values).mean(0) - (theirs[:, column, None] <= values).mean(0)
        assert np.abs(distance).max() < 1.63 * math.sqrt(2 / 3000)


@given(seed=st.integers(0, 10_000), size=st.sampled_from([1, 32, 64, 200]))
@settings(deadline=None, max_examples=40)
def test_crop_is_torchvisions_on_pillow_to_two_grey_levels(seed: int, size: int) -> None:
    image = picture(97, 133)
    box, _ = draw(SSL, 97, 133, generator(seed, 0, 0, 0))
    left, top, right, bottom = box
    pillow: Any = Image.fromarray(image)
    expected = F.resized_crop(
        pillow,
        top,
        left,
        bottom - top,
        right - left,
        [size, size],
        InterpolationMode.BILINEAR,
    )
    result = crop(image, box, size)
    assert result.shape == (3, size, size)
    assert result.dtype == np.uint8
    difference = result.transpose(1, 2, 0).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2
    assert abs(difference.mean()) < 0.1


@pytest.mark.parametrize(
    "shape", [(64, 64), (100, 64), (64, 65), (37, 300), (301, 211), (1, 1), (3, 2), (500, 32)]
)
@pytest.mark.parametrize("size", [1, 63, 64])
def test_center_equals_torchvision_on_pillow(shape: tuple[int, int], size: int) -> None:
    image = picture(*shape)
    expected = CenterCrop(size)(Resize(size)(Image.fromarray(image)))
    np.testing.assert_array_equal(center(image, size).transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("shape", [(64, 64), (100, 64), (37, 300), (301, 211), (1, 1), (500, 32)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_center_is_what_the_transforms_of_public_models_give(shape, mode, fit) -> None:
    """open_clip's, and those of transformers' processors for pictures of Pillow."""
    image = picture(*shape)
    interpolation = InterpolationMode(mode)
    resize = Resize((48, 48) if fit == "squash" else 48, interpolation)
    expected = CenterCrop(48)(resize(Image.fromarray(image)))
    np.testing.assert_array_equal(center(image, 48, mode, fit).transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("box", [(0, 0, 200, 150), (11, 7, 60, 120), (5, 5, 25, 25)])
def test_a_bicubic_crop_is_torchvisions_within_two_levels(box) -> None:
    image = np.array(Image.fromarray(picture(40, 50)).resize((200, 150), Image.Resampling.BICUBIC))
    expected = Image.fromarray(image).crop(box).resize((64, 64), Image.Resampling.BICUBIC)
    difference = crop(image, box, 64, "bicubic").transpose(1, 2, 0).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2
    assert abs(difference.mean()) < 0.1


def test_center_of_a_strip_is_cheap() -> None:
    strip = np.zeros((1, 100_001, 3), dtype=np.uint8)
    strip[:, 50_000] = 255
    result = center(strip, 64)
    assert result.shape == (3, 64, 64)
    assert result.max() > 250  # the middle is still the middle


def test_views_are_writable_and_contiguous() -> None:
    for view in (center(picture(9, 8), 4), crop(picture(9, 8), (0, 0, 8, 8), 4)):
        assert view.flags.writeable
        assert view.flags.c_contiguous


def test_a_plain_view_changes_no_colour() -> None:
    for _, row in draws(PLAIN, 50):
        assert row.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_parameters_have_their_ranges_and_frequencies() -> None:
    config = ViewConfig(
        flip=0.5,
        jitter=(0.4, 0.3, 2.0, 0.1),
        jitter_probability=0.8,
        grayscale=0.2,
        blur=0.5,
        blur_sigma=(0.1, 2.0),
    )
    rows = np.stack([row for _, row in draws(config, 4000)])
    jittered = rows[rows[:, Parameter.JITTER] == 1]
    rest = rows[rows[:, Parameter.JITTER] == 0]
    blurred = rows[rows[:, Parameter.BLUR] > 0]
    for share, probability in [
        (len(jittered) / 4000, 0.8),
        (rows[:, Parameter.FLIP].mean(), 0.5),
        (rows[:, Parameter.GRAYSCALE].mean(), 0.2),
        (len(blurred) / 4000, 0.5),
    ]:
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 4000)
    assert (rest[:, Parameter.ORDER : Parameter.HUE + 1] == [0, 1, 1, 1, 0]).all()
    ranges = {"BRIGHTNESS": (0.6, 1.4), "CONTRAST": (0.7, 1.3), "SATURATION": (0, 3), "HUE": (-0.1, 0.1)}
    for name, (low, high) in ranges.items():
        assert_uniform(jittered[:, Parameter[name]], low, high)
    assert_uniform(blurred[:, Parameter.BLUR], 0.1, 2.0)
    orders = Counter(jittered[:, Parameter.ORDER].astype(int).tolist())
    assert sorted(orders) == list(range(24))
    assert all(set(order) == set(JITTERS) for order in ORDERS)
    assert min(orders.values()) > len(jittered) / 24 * 0.6


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    shares = np.histogram(values, 10, (low - 1e-6, high + 1e-6))[0] / len(values)
    assert np.abs(shares - 0.1).max() < 4 * math.sqrt(0.09 / len(values))


def test_one_setting_does_not_change_what_another_draws() -> None:
    without = ViewConfig(scale=(0.2, 0.9), flip=0.5, jitter_probability=0.0, blur=0.5)
    with_jitter = ViewConfig(scale=(0.2, 0.9), flip=0.5, jitter_probability=1.0, blur=0.5)
    for (box_a, row_a), (box_b, row_b) in zip(draws(without, 30), draws(with_jitter, 30)):
        assert box_a == box_b
        assert (
            row_a[[Parameter.FLIP, Parameter.BLUR]].tolist()
            == row_b[[Parameter.FLIP, Parameter.BLUR]].tolist()
        )


def test_smallest_crop() -> None:
    assert smallest_crop(ViewConfig(scale=(1, 1), ratio=(1, 1))) == 1
    shares = [min(box[2] - box[0], box[3] - box[1]) / 900 for box, _ in draws(SSL, 3000, 900, 1200)]
    assert smallest_crop(SSL) * 900 - 1 <= min(shares) * 900 < smallest_crop(SSL) * 900 * 1.25


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "jitter"),
        ({"jitter": (-0.4, 0.4, 0.4, 0.1)}, "jitter"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"flip": 1.5}, "flip"),
        ({"blur": -0.1}, "blur"),
        ({"grayscale": math.nan}, "grayscale"),
        ({"size": -8}, "size"),
        ({"drop_tokens": 1.0}, "drop_tokens"),
        ({"drop_tokens": -0.1}, "drop_tokens"),
    ],
)
def test_bad_configuration(values: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=f"views.ssl.{field}".replace("_", "[-_]")):
        check_views(ViewsConfig(ssl=ViewConfig(**values)))
    check_views(ViewsConfig())


@pytest.mark.parametrize("kind", ["image", "ssl", "local"])
def test_every_kind_is_checked(kind: str) -> None:
    check_views(ViewsConfig())
    kinds: dict[str, Any] = {kind: ViewConfig(scale=(0, 1))}
    with pytest.raises(ConfigError, match=f"views.{kind}.scale"):
        check_views(ViewsConfig(**kinds))
