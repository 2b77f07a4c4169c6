"""Small models with random weights, for tests of what leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import openslip
from openslip import recipes
from openslip.config import Config
from openslip.training.saving import metadata
from toys import make_tiny_config


def model_of(image: dict | None = None, text: dict | None = None, **views) -> Config:
    """Return the configuration of a small model with these options of its towers."""
    config = make_tiny_config()
    towers = {
        "image": replace(config.model.image, drop_path=0.0, **(image or {})),
        "text": replace(config.model.text, **(text or {})),
    }
    return replace(
        config, views=replace(config.views, size=32, **views), model=replace(config.model, **towers)
    )


def saved(config: Config, folder: Path) -> Path:
    """Write a model with random weights, none of them zero or one; return the file."""
    torch.manual_seed(0)
    encoder = openslip.create(config)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    metadata.write_model(folder / "model.safetensors", encoder.model.state_dict(), config)
    return folder / "model.safetensors"


SMALL_PAPER = replace(
    recipes.get("slip-vit-b16-yfcc15m"),
    model=model_of(image={"patch": 16, "width": 192, "depth": 12, "heads": 3}).model,
)
"""Towers of two activations, of which that for images has a name in timm."""
MODELS = {
    "plain": model_of(),
    "gelu": model_of(text={"activation": "gelu"}),
    "clip": model_of(image={"activation": "quick_gelu", "pre_norm": True, "norm_eps": 1e-5}),
    "mean": model_of(image={"pool": "mean"}, text={"activation": "gelu"}),
    "tanh": model_of(
        image={"activation": "gelu_tanh", "mlp": 40}, text={"activation": "gelu_tanh", "mlp": 24}
    ),
    "timm": model_of(image={"name": "test_resnet"}),
    "squashed": model_of(
        text={"activation": "gelu"},
        fit="squash",
        interpolation="bicubic",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    ),
    "paper": SMALL_PAPER,
}
WITHOUT_TEXT = replace(model_of(), objective=replace(model_of().objective, loss="simclr", options={}))
