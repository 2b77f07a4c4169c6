from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from openslip.config import IMAGENET_MEAN, IMAGENET_STD, ViewConfig, ViewsConfig
from openslip.data.augment import augment, augment_early
from openslip.data.order import generator
from openslip.data.views import ORDERS, UNCHANGED, Parameter, draw
from openslip.errors import DataError

TOLERANCE = 1e-4  # of images in [0, 1]; 8-bit images have steps of 4e-3
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
STRONG = ViewConfig(
    flip=0.5,
    jitter=(0.8, 0.8, 0.8, 0.5),
    jitter_probability=0.8,
    grayscale=0.3,
    blur=0.5,
    blur_sigma=(0.1, 3.0),
)


def pictures(count: int, size: int) -> Tensor:
    """Noise, smooth colour and, in the first ones, what arithmetic trips over: black, white, gray, pure colours."""
    torch.manual_seed(size)
    noise = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    noise[0], noise[1], noise[2] = 0, 255, 128
    noise[3, 0], noise[3, 1:] = 255, 0
    noise[4, 1:] = noise[4, :1]
    noise[5] = torch.linspace(0, 255, size).to(torch.uint8)
    return noise


def parameters(count: int, config: ViewConfig = STRONG) -> Tensor:
    return torch.from_numpy(np.stack([draw(config, 64, 64, generator(2, 0, i, 4))[1] for i in range(count)]))


def torchvisions(view: Tensor, row: Tensor) -> Tensor:
    """One image, one operation after the other."""
    x = view.float() / 255
    adjust = {
        Parameter.BRIGHTNESS: F.adjust_brightness,
        Parameter.CONTRAST: F.adjust_contrast,
        Parameter.SATURATION: F.adjust_saturation,
        Parameter.HUE: F.adjust_hue,
    }
    if row[Parameter.JITTER]:
        for column in ORDERS[int(row[Parameter.ORDER])]:
            x = adjust[column](x, float(row[column]))
    if row[Parameter.GRAYSCALE]:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    sigma = float(row[Parameter.BLUR])
    radius = min(math.ceil(3 * row[Parameter.BLUR]), x.shape[-1] - 1)
    if sigma and radius:
        x = F.gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)
    return F.horizontal_flip(x) if row[Parameter.FLIP] else x


@pytest.mark.parametrize(("count", "size"), [(200, 16), (40, 33), (12, 64), (30, 4), (10, 1)])
def test_equals_torchvision_image_by_image(count: int, size: int) -> None:
    views, rows = pictures(count, size), parameters(count)
    expected = torch.stack([torchvisions(view, row) for view, row in zip(views, rows)])
    result = augment(views, rows, *PLAIN)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("column", [*range(3, 9), Parameter.FLIP])
def test_each_operation_alone(column: int) -> None:
    views = pictures(40, 12)
    rows = torch.tensor([0.0, 0, 0, 1, 1, 1, 0, 0, 0]).repeat(40, 1)
    rows[:, Parameter.JITTER] = float(column in ORDERS[0])
    rows[:, Parameter.ORDER] = torch.arange(40) % 24
    rows[:, column] = 1 if column in (Parameter.FLIP, Parameter.GRAYSCALE) else torch.linspace(-0.5, 0.5, 40)
    if column in (Parameter.BRIGHTNESS, Parameter.CONTRAST, Parameter.SATURATION):
        rows[:, column] = torch.linspace(0, 3, 40)
    if column == Parameter.BLUR:
        rows[:, column] = torch.linspace(0, 4, 40)
    expected = torch.stack([torchvisions(view, row) for view, row in zip(views, rows)])
    result = augment(views, rows, *PLAIN)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(result, views / 255, atol=1e-2)  # it did something


def test_turns_of_the_hue_do_not_depend_on_larger_ones_beside_them() -> None:
    views = pictures(25, 16)
    rows = torch.tensor(UNCHANGED, dtype=torch.float32).repeat(25, 1)
    rows[:, Parameter.JITTER] = 1
    rows[:, Parameter.HUE] = torch.arange(-12, 13) / 24  # among them whole sixths, where steps end
    together = augment(views, rows, *PLAIN)
    for i in range(25):
        assert torch.equal(together[i : i + 1], augment(views[i : i + 1], rows[i : i + 1], *PLAIN))
    assert torch.equal(together[12], augment(views[12:13], rows[12:13] * 0, *PLAIN)[0])  # a turn of 0


def test_normalisation_alone_for_a_plain_view() -> None:
    views = pictures(20, 8)
    result = augment(views, parameters(20, ViewsConfig().image), IMAGENET_MEAN, IMAGENET_STD)
    expected = F.normalize(views.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    views, rows = pictures(100, 16), parameters(100)
    together = augment(views, rows, IMAGENET_MEAN, IMAGENET_STD)
    alone = torch.cat(
        [augment(views[i : i + 1], rows[i : i + 1], IMAGENET_MEAN, IMAGENET_STD) for i in range(100)]
    )
    assert torch.equal(together, alone)
    assert torch.equal(together, augment(views, rows, IMAGENET_MEAN, IMAGENET_STD))


def test_portions_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    views, rows = pictures(60, 16), parameters(60)
    whole = augment(views, rows, *PLAIN)
    monkeypatch.setattr("openslip.data.augment._PORTION_BYTES", {"cpu": 1})
    torch.testing.assert_close(augment(views, rows, *PLAIN), whole, atol=1e-5, rtol=0)


def test_leaves_its_input_alone() -> None:
    views, rows = pictures(30, 8), parameters(30)
    before = views.clone(), rows.clone()
    augment(views, rows, *PLAIN)
    assert torch.equal(views, before[0])
    assert torch.equal(rows, before[1])


def test_an_empty_batch() -> None:
    views = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert augment(views, torch.zeros(0, len(Parameter)), *PLAIN).shape == (0, 3, 8, 8)


def test_full_precision_under_autocast() -> None:
    views, rows = pictures(30, 8), parameters(30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(views, rows, *PLAIN)
    assert torch.equal(inside, augment(views, rows, *PLAIN))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_cuda() -> None:
    views, rows = pictures(100, 32), parameters(100)
    expected = augment(views, rows, *PLAIN)
    torch.testing.assert_close(augment(views.cuda(), rows, *PLAIN).cpu(), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        augment(views.cuda(), rows.cuda(), *PLAIN).cpu(), expected, atol=TOLERANCE, rtol=0
    )


def test_bad_input() -> None:
    with pytest.raises(DataError, match="uint8"):
        augment(torch.zeros(2, 3, 8, 8), parameters(2), *PLAIN)
    with pytest.raises(DataError, match="parameters of shape"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 4), *PLAIN)


def test_early_augmentation_is_the_same_in_whole_grey_levels() -> None:
    views, drawn = pictures(40, 32), parameters(40)
    early = augment_early(views, drawn)
    assert early.dtype == torch.uint8
    unchanged = torch.tensor(UNCHANGED, dtype=torch.float32).repeat(40, 1)
    difference = augment(early, unchanged, *PLAIN) - augment(views, drawn, *PLAIN)
    assert difference.abs().max() <= 0.5 / 255 + 1e-6
