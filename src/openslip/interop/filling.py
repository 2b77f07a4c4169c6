"""Models of the weights that readers return: what weights have to be for a configuration, and the encoder of both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from openslip.config import Config
from openslip.encoder import Encoder
from openslip.errors import printable
from openslip.models import Model, without_weights
from openslip.models.weights import Pretrained

PARTS = frozenset({"image_tower", "text_tower", "image_projection", "text_projection", "logit_scale"})
"""The parts of a `Model`, by which its weights' names begin."""
SHOWN = 5
"""Entries of a file that a message names; the others are counted."""


def encoder_of(pretrained: Pretrained) -> Encoder:
    """Return the model with these weights, in evaluation mode, and log what people should know of them.

    What the weights have for an objective is for training, and left out.
    """
    for text in (*pretrained.notes, *_left_out(pretrained)):
        note(text)
    weights = of_model(pretrained.weights)
    model = described(pretrained.config, weights)
    if pretrained.config.model.image.name == "vit":  # all that it computes with is among the weights
        model = model.to_empty(device="cpu")
    else:
        model = _model(pretrained.config, weights)
    model.load_state_dict(weights)
    return Encoder(model.eval(), pretrained.config)


def described(config: Config, names: Collection[str]) -> Model:
    """Return the model of a configuration with those parts that weights of these names have, on no device.

    Raises ConfigError and what torch raises, where the configuration makes no model.
    """
    with torch.device("meta"):
        return _model(config, names)


def of_model(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those weights that are the model's."""
    return {name: tensor for name, tensor in weights.items() if name.partition(".")[0] in PARTS}


def in_full_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose numbers are fp32; whole numbers stay as they are."""
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def note(text: str) -> None:
    """Tell the user what the model alone would hide."""
    logging.getLogger("openslip.interop").warning(printable(text))


def _model(config: Config, names: Collection[str]) -> Model:
    text = any(name.startswith("text_tower.") for name in names)
    return Model(
        without_weights(config.model), config.views.size, text=text, shared="image_projection" in names
    )


def _left_out(pretrained: Pretrained) -> list[str]:
    """Return in words which entries were not used, for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(pretrained.unused.items()):
        reasons.setdefault(reason, []).append(name)
    return [
        f"{_count(names)} of {pretrained.origin.spec}, {reason}, {'is' if len(names) == 1 else 'are'} left out: "
        f"{', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
        for reason, names in reasons.items()
    ]


def _count(names: Sequence[str]) -> str:
    return "1 entry" if len(names) == 1 else f"{len(names)} entries"
