"""From weights to a model: check weights against a configuration, and make the encoder of both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from openslip.config import Config, ImageTowerConfig
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError, printable
from openslip.interop.foreign import kind_of
from openslip.models import Model
from openslip.models.blank import fill
from openslip.models.weights import Origin, Pretrained

PARTS = frozenset({
    "image_tower", "text_tower", "image_projection", "image_projection_bias", "text_projection", "text_projection_bias",
    "logit_scale",
})  # fmt: skip
"""The parts of a `Model`. The names of the weights begin with these."""
SHOWN = 5
"""Entries of a file that a message names. The others are counted."""


@dataclass
class Mapped:
    """Weights under our names, with what they were called."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    theirs: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def put(self, ours: str, theirs: str, value: Tensor) -> None:
        """Take a tensor under our name, and note what the other library calls the tensor."""
        self.weights[ours], self.theirs[ours] = value, theirs


def encoder_of(pretrained: Pretrained) -> Encoder:
    """Return the model with these weights, in evaluation mode, and log what users should know about the weights.

    Weights of an objective are for training, and are left out.
    """
    for text in (*pretrained.notes, *_left_out(pretrained)):
        note(text)
    weights = of_model(pretrained.weights)
    model = described(pretrained.config, weights)
    fill(model, weights)
    return Encoder(model.eval(), pretrained.config)


def described(config: Config, names: Collection[str]) -> Model:
    """Return the model of a configuration without weights, with the parts that these names of weights belong to.

    Raises ConfigError, or what torch raises, if the configuration makes no model.
    """
    text = any(name.startswith("text_tower.") for name in names)
    with torch.device("meta"):
        return Model(config.model, config.views.size, text=text, shared="image_projection" in names)


def pretrained_of(
    config: Config,
    weights: Mapping[str, Tensor],
    origin: Origin,
    *,
    theirs: Mapping[str, str] | None = None,
    unused: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    held: Collection[str] | None = None,
) -> Pretrained:
    """Return the result of a reader of another library's format, after a check that all weights are the model's.

    theirs: our names → the library's names, where these differ. held: the names in the file itself, if these differ
    again.
    Raises CheckpointError, which lists what is missing, has another shape, or is of a part that the model does not
    have; also if weights are no real numbers, such as integers that stand for other numbers.
    """
    weights, names = in_full_precision(weights), theirs or {}
    depths = config.model.image.depth, config.model.text.depth if "text_projection" in weights else 0
    if max(depths) > max(len(weights), ImageTowerConfig().depth):  # to describe a billion blocks takes time
        raise CheckpointError(
            f"The configuration in {origin.spec} is of another model",
            got=f"towers of {depths[0]} and {depths[1]} blocks, {len(weights)} weights",
        )
    try:
        own = described(config, weights).state_dict()
    except (ConfigError, RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The configuration in {origin.spec} makes no model", cause=str(error).splitlines()[0]
        ) from None
    told = differences(own, of_model(weights), names)
    if told:
        raise CheckpointError(
            f"The weights of {origin.spec} do not fit the model that {origin.format} describes for them",
            got=told,
            cause=f"The file holds {kind_of(held or [names.get(name, name) for name in weights]).what}",
            fix="Name the architecture of the weights, or give the model's own configuration with its weights",
        )
    real = [name for name, value in own.items() if value.is_floating_point()]
    odd = [name for name in real if not weights[name].is_floating_point()]
    if odd:
        raise CheckpointError(
            f"{len(odd)} of {len(real)} weights of {origin.spec} "
            f"hold{'s' * (len(odd) == 1)} another kind of number than the model's",
            got=", ".join(f"{names.get(name, name)} {weights[name].dtype}" for name in odd[:3]),
            cause="They may be quantised, so that each stands for another number",
            fix="Give the weights from before quantisation, in fp32, fp16 or bf16",
        )
    # The precision of training is not known, so the model is measured in full precision.
    config = replace(config, training=replace(config.training, precision="fp32"))
    return Pretrained(config, weights, origin, dict(unused or {}), tuple(notes))


def differences(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> str:
    """Return in words how tensors differ from the expected ones, by names and shapes; empty if they do not differ.

    names: the names to use in words, where these are others.
    """
    names = names or {}
    here = {name: tuple(value.shape) for name, value in found.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    faults = {
        "missing": [names.get(name, name) for name in wanted if name not in here],
        "unexpected": [names.get(name, name) for name in here if name not in wanted],
        "of another shape": [
            f"{names.get(name, name)} {here[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in here and here[name] != shape
        ],
    }
    told = [(f"{len(some)} {what}", some) for what, some in faults.items() if some]
    return "; ".join(f"{what} ({', '.join(some[:3])}{', …' if len(some) > 3 else ''})" for what, some in told)


def of_model(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that belong to the model."""
    return {name: tensor for name, tensor in weights.items() if name.partition(".")[0] in PARTS}


def in_full_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose numbers are fp32; whole numbers stay as they are."""
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def note(text: str) -> None:
    """Warn the user of what the model alone does not show."""
    logging.getLogger("openslip.interop").warning(printable(text))


def _left_out(pretrained: Pretrained) -> list[str]:
    """Return, for each reason, in words which entries were not used."""
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
