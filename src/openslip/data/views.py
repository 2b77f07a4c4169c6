"""Views of an image: which part is cut out, and which augmentations its pixels will go through.

Cropping and resizing happen here, on the CPU. Colours, blur and flip are only drawn here, as a row of
numbers laid out as in `Parameter`; `openslip.data.augment` applies them to whole batches where the model runs.
"""

from __future__ import annotations

import itertools
import math
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from openslip.config import ViewConfig, ViewsConfig
from openslip.errors import ConfigError
from openslip.ranges import check_ranges

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["crop", "squash"]
Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels; right and lower are the first ones outside."""


class Parameter(IntEnum):
    """Columns of a view's parameters, float32."""

    FLIP = 0
    """1: mirrored left to right."""
    JITTER = 1
    """1: the four colour operations are applied; else their columns hold values that change nothing."""
    ORDER = 2
    """Number of the operations' order in `ORDERS`."""
    BRIGHTNESS = 3
    """Factor, 1 changes nothing; likewise the next two."""
    CONTRAST = 4
    SATURATION = 5
    HUE = 6
    """Shift in turns of the colour circle, -0.5 to 0.5."""
    GRAYSCALE = 7
    """1: the colour is dropped."""
    BLUR = 8
    """Sigma of the Gaussian blur in pixels of the view, 0 for none."""


JITTERS = (Parameter.BRIGHTNESS, Parameter.CONTRAST, Parameter.SATURATION, Parameter.HUE)
ORDERS = tuple(itertools.permutations(JITTERS))
"""The 24 orders that the colour operations can be applied in."""

MOST_RATIO = 100.0
"""Of a crop's sides."""
LEAST_AREA = 1e-4
"""The smallest share of the image that a crop has: a hundredth of each side."""
_TRIES = 10
_LONGEST = 16
UNCHANGED = (0, 0, 0, 1, 1, 1, 0, 0, 0)
"""The parameters of a view that stays as it is."""


def draw(config: ViewConfig, height: int, width: int, rng: np.random.Generator) -> tuple[Box, np.ndarray]:
    """Draw one view of an image of `height` × `width` pixels: its crop box, and its parameters (P,) float32.

    Distributions are those of torchvision's RandomResizedCrop, ColorJitter in RandomApply, RandomGrayscale,
    GaussianBlur in RandomApply and RandomHorizontalFlip. The count of numbers taken from `rng` is always the same, so
    the settings of one augmentation do not change what is drawn for another.
    """
    uniforms = rng.random(10 + 4 * _TRIES).tolist()
    return _box(config, height, width, uniforms[10:]), _parameters(config, uniforms[:10])


def crop(image: np.ndarray, box: Box, size: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Cut `box` out of an RGB (H, W, 3) uint8 image and resize it: (3, size, size) uint8.

    Antialiased; within 2 grey levels of what torchvision's RandomResizedCrop gives on a Pillow image, in a third of the
    time. With bicubic this holds for pictures but not for noise: where both overshoot, they clip in another order.
    """
    left, upper, right, lower = box
    part = torch.from_numpy(image[upper:lower, left:right]).permute(2, 0, 1)[None]
    resized = F.interpolate(part, (size, size), mode=interpolation, align_corners=False, antialias=True)
    return resized[0].contiguous().numpy()


def center(
    image: np.ndarray, size: int, interpolation: Interpolation = "bilinear", fit: Fit = "crop"
) -> np.ndarray:
    """Return the view for evaluation of an RGB (H, W, 3) uint8 image: (3, size, size) uint8.

    crop: the short side is resized to `size`, and the centre is cropped: the same pixels as torchvision's Resize and
    CenterCrop give on a Pillow image. squash: both sides are resized to `size`, as Resize((size, size)) does.
    """
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    return _planes(_fitted(image, size, resampling, fit))


def center_labels(labels: np.ndarray, size: int, fit: Fit = "crop") -> np.ndarray:
    """Return labels of pixels, (H, W) uint8, laid out as `center` lays out their image: (size, size) uint8.

    Each pixel takes the label of the nearest pixel, so that no label is made up between two others.
    """
    return np.array(_fitted(labels, size, Image.Resampling.NEAREST, fit))


def _fitted(image: np.ndarray, size: int, resampling: Image.Resampling, fit: Fit) -> Image.Image:
    """Return the view for evaluation of an (H, W, 3) or (H, W) uint8 image, as `center` describes it."""
    if fit == "squash":
        return Image.fromarray(image).resize((size, size), resampling)
    short = min(image.shape[:2])
    reach = short * _LONGEST  # a strip of 1 x 100,000 pixels would be enlarged to gigabytes
    image = image[_middle(image.shape[0], reach), _middle(image.shape[1], reach)]
    height, width = (size * side // short for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), resampling)
    left, upper = round((width - size) / 2), round((height - size) / 2)
    return resized.crop((left, upper, left + size, upper + size))


def smallest_crop(config: ViewConfig) -> float:
    """Return the shortest side that a crop can have, as a share of the image's short side (torchvision's tries).

    An image whose short side is at least `size` / `smallest_crop` is never enlarged, so it need not be decoded
    larger than that.
    """
    low, high = config.ratio
    return min(1.0, math.sqrt(config.scale[0] * min(low, 1 / high)))


def check_views(views: ViewsConfig, *, drawn: bool = False) -> None:
    """Raise ConfigError when a value of the configuration of the views is out of its range.

    drawn: whether views are about to be drawn; then their size may no longer be left to weights.
    """
    check_ranges(views, "views.")
    if drawn and not views.size:
        raise ConfigError(
            "The size of the pictures comes from weights, and there are none here",
            got="views.size 0",
            fix="Set views.size to a number of pixels, such as 224",
        )
    for kind, config in views.kinds.items():
        _check(config, kind)


def _check(config: ViewConfig, name: str) -> None:
    """Raise ConfigError when values of the configuration of a kind of views do not fit together."""
    rules = [
        (
            "scale",
            LEAST_AREA <= config.scale[0] <= config.scale[1] <= 1,
            f"two shares of the area, {LEAST_AREA:g} <= low <= high <= 1",
        ),
        (
            "ratio",
            1 / MOST_RATIO <= config.ratio[0] <= config.ratio[1] <= MOST_RATIO,
            f"two ratios, {1 / MOST_RATIO:g} <= low <= high <= {MOST_RATIO:g}",
        ),
        ("jitter", config.jitter[3] <= 0.5, "strengths from 0 on, hue at most 0.5"),
        (
            "blur_sigma",
            config.blur_sigma[0] <= config.blur_sigma[1],
            "two widths in pixels, 0 < low <= high",
        ),
    ]
    for field, holds, takes in rules:
        if not holds:
            raise ConfigError(f"views.{name}.{field} takes {takes}", got=getattr(config, field))


def _planes(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _middle(side: int, reach: int) -> slice:
    start = max(0, side - reach) // 2
    return slice(start, start + reach)


def _box(config: ViewConfig, height: int, width: int, uniforms: list[float]) -> Box:
    """Ten tries at a random area and ratio; if none fits into the image, its middle at the nearest allowed ratio."""
    (small, large), (low, high) = config.scale, config.ratio
    log_low, log_high = math.log(low), math.log(high)
    for area, ratio, across, down in zip(*[iter(uniforms)] * 4):
        pixels = height * width * (small + area * (large - small))
        aspect = math.exp(log_low + ratio * (log_high - log_low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, upper, left + w, upper + h
    w, h = width, height
    if width / height < low:
        h = max(1, round(width / low))
    elif width / height > high:
        w = max(1, round(height * high))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _parameters(config: ViewConfig, uniforms: list[float]) -> np.ndarray:
    flip, jitter, order, *strengths, grayscale, blur, sigma = uniforms
    row = np.array(UNCHANGED, dtype=np.float32)
    row[Parameter.FLIP] = flip < config.flip
    if jitter < config.jitter_probability:
        row[Parameter.JITTER] = 1
        row[Parameter.ORDER] = int(order * len(ORDERS))
        for column, uniform, strength in zip(JITTERS, strengths, config.jitter):
            middle = 0 if column == Parameter.HUE else 1
            low = max(0.0, 1 - strength) if middle else -strength
            row[column] = low + uniform * (middle + strength - low)
    row[Parameter.GRAYSCALE] = grayscale < config.grayscale
    if blur < config.blur:
        row[Parameter.BLUR] = config.blur_sigma[0] + sigma * (config.blur_sigma[1] - config.blur_sigma[0])
    return row
