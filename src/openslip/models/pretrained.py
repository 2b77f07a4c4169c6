"""Image towers that begin with timm's pre-trained weights: how the pictures were normalised that these were trained on.

timm's models do not agree: `timm.get_pretrained_cfg(name)` has each one's mean and deviation. Pictures that are
normalised otherwise make any pre-trained tower worse, and nothing shows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from openslip.config import Config, ViewsConfig
from openslip.errors import ConfigError, did_you_mean

Levels = tuple[float, float, float]
CLOSE = 1e-3
"""By how much a mean or deviation may differ from that of the weights: people round them."""


def normalised(config: Config, typed: Collection[str] = ()) -> Config:
    """Return the configuration with the mean and deviation of the views that the pre-trained image tower takes.

    They take the place of the defaults, which are ImageNet's. typed: those of `mean` and `std` that a person has typed.
    The same configuration comes back where the tower begins with random weights, or is none that timm has.

    Raises ConfigError where the configuration has others, or a person has typed them, and where timm does not know the
    weights.
    """
    name = config.model.image.name
    if not config.model.image.pretrained or not (names_a_place(name) or timm.is_model(name)):
        return config
    image, views, defaults = config.model.image, config.views, ViewsConfig()
    mean, std = _normalisation(image.name)
    mean = _chosen("mean", views.mean, mean, image.name, default=defaults.mean, typed="mean" in typed)
    std = _chosen("std", views.std, std, image.name, default=defaults.std, typed="std" in typed)
    if (mean, std) == (views.mean, views.std):
        return config
    return replace(config, views=replace(views, mean=mean, std=std))


def as_in_run(config: Config, run: Config) -> Config:
    """Return the configuration with the mean and deviation of a run that goes on, where it has the defaults.

    A run keeps those it began with, wherever its weights came from.
    """
    views, own, defaults = config.views, run.views, ViewsConfig()
    if not config.model.image.pretrained or config.model.image != run.model.image:
        return config
    mean = own.mean if views.mean == defaults.mean else views.mean
    std = own.std if views.std == defaults.std else views.std
    return replace(config, views=replace(views, mean=mean, std=std))


def _chosen(key: str, given: Levels, own: Levels, name: str, *, default: Levels, typed: bool) -> Levels:
    """Return what was given if it is the weights' `own` but for rounding, the weights' own in place of the default."""
    if all(abs(one - other) <= CLOSE for one, other in zip(given, own)):
        return given
    if given == default and not typed:
        return own
    raise ConfigError(
        f"views.{key} is not what the pre-trained weights of {name} were trained with",
        got=f"{shown(given)}, where theirs is {shown(own)}",
        fix=f"Leave views.{key} out, on the command line and in the configuration file: it is taken from the weights. "
        f"Or give theirs: --views.{key} {shown(own)}",
    )


def told(config: Config) -> str:
    """Return in words how pictures are normalised for a pre-trained tower."""
    mean, std = shown(config.views.mean), shown(config.views.std)
    return f"normalised as these weights were trained with: mean {mean}, deviation {std}"


def shown(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def names_a_place(name: str) -> bool:
    """Say whether an image tower's name is that of a place on a disk or of the hub, of which timm reads what it is."""
    return re.search("[:/]", name) is not None


def with_known_name(config: Config, image_tower: nn.Module) -> Config:
    """Return the configuration with timm's name of the tower's architecture, where its own is that of a place.

    So weights that came from there load without it.
    """
    image = config.model.image
    stated = getattr(getattr(image_tower, "trunk", None), "pretrained_cfg", None) or {}
    name = stated.get("architecture") or ""
    if not names_a_place(image.name) or not timm.is_model(name):
        return config
    return replace(config, model=replace(config.model, image=replace(image, name=name)))


def _normalisation(name: str) -> tuple[Levels, Levels]:
    """Return the mean and deviation that a timm model's pre-trained weights were trained with."""
    try:
        if names_a_place(name):
            with torch.device("meta"):  # timm reads the configuration that lies there, and no weights
                stated: Any = timm.create_model(name, pretrained=False, num_classes=0).pretrained_cfg
            found = [stated["mean"], stated["std"]]
        else:
            known: Any = timm.get_pretrained_cfg(name)
            found = [known.mean, known.std]
        mean, std = (tuple(float(level) for level in levels) for levels in found)
    except (
        AttributeError,
        AssertionError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(
            f"How pictures are to be normalised for the pre-trained weights of '{name}' is not known",
            cause=f"timm says: {str(error) or type(error).__name__}",
            fix=f"{did_you_mean(name, timm.list_pretrained())} Or set model.image.pretrained to false",
        ) from None
    if len(mean) != 3 or len(std) != 3:
        raise ConfigError(
            f"The image tower '{name}' does not take RGB pictures", got=f"mean {mean}, deviation {std}"
        )
    return mean, std
