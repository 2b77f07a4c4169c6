"""Image towers that are named by a place: of runs that began with a folder or a repository in timm's layout."""

from __future__ import annotations

import re
from dataclasses import replace

import timm
from torch import nn

from openslip.config import Config


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
