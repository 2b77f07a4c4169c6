"""How slip prepares pictures for others' weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from openslip.config import ViewsConfig
from openslip.errors import CheckpointError

Levels = tuple[float, float, float]
LARGEST = 1 << 13
"""Pixels a side, of pictures that a model can take."""


def views_of(
    size: object,
    mean: object,
    std: object,
    interpolation: str,
    spec: str,
    *,
    squash: bool = False,
) -> tuple[ViewsConfig, list[str]]:
    """Return how views are drawn for weights, and sentences on what slip does otherwise than the weights' authors.

    size: the side of the square pictures, in pixels. mean, std: of the levels of red, green and blue, from 0 to 1.
    interpolation: how pictures are resized, as Pillow, timm and open_clip call it. squash: whether pictures are
    squashed to a square, instead of cropped.

    Raises CheckpointError if pictures cannot be prepared by these values.
    """
    if (
        not (_are_levels(mean) and _are_levels(std))
        or min(cast(Levels, std)) <= 0
        or not isinstance(size, int)
        or not 1 <= size <= LARGEST
    ):
        raise CheckpointError(
            "How pictures are prepared for the model cannot be read, or the model does not take square RGB pictures",
            got=f"size {size}, mean {mean}, deviation {std}, of {spec}",
            fix="Copy or download the model's configuration anew, or take another model",
        )
    chosen: Literal["bilinear", "bicubic"] = "bilinear" if interpolation == "bilinear" else "bicubic"
    notes = []
    if interpolation not in ("bilinear", "bicubic", "random"):
        notes.append(f"for {spec}, pictures were resized by {interpolation}; slip resizes them by bicubic")
    fit: Literal["crop", "squash"] = "squash" if squash else "crop"
    views = replace(
        ViewsConfig(), size=size, mean=_levels(mean), std=_levels(std), interpolation=chosen, fit=fit
    )
    return views, notes


def _are_levels(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 3
        and all(isinstance(level, int | float) and math.isfinite(level) for level in value)
    )


def _levels(value: Any) -> Levels:
    red, green, blue = map(float, value)
    return red, green, blue
