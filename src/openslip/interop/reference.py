"""The reference implementation's checkpoints: the names of parameters, and the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from openslip.config import (
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    TextTowerConfig,
    ViewsConfig,
)
from openslip.errors import CheckpointError, ConfigError
from openslip.interop.digests import Digests
from openslip.interop.filling import described, differences, in_full_precision
from openslip.models.weights import Origin, Pretrained
from openslip.objectives import Dims, parse

PREFIXES = {
    "image_tower.trunk.": "visual.",
    "text_tower.blocks.": "transformer.resblocks.",
    "text_tower.token_embedding.": "token_embedding.",
    "text_tower.norm.": "ln_final.",
    "objective.simclr.head.": "image_mlp.",
}
NAMES = {"text_tower.positional_embedding": "positional_embedding"}
SAME = ("image_projection", "text_projection", "logit_scale")
TEXT_BLOCK = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "qkv.weight": "attn.in_proj_weight",
    "qkv.bias": "attn.in_proj_bias",
    "proj.weight": "attn.out_proj.weight",
    "proj.bias": "attn.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "fc1.weight": "mlp.c_fc.weight",
    "fc1.bias": "mlp.c_fc.bias",
    "fc2.weight": "mlp.c_proj.weight",
    "fc2.bias": "mlp.c_proj.bias",
}

IMAGE_HEADS = {384: 12, 768: 12, 1024: 16}
"""Heads of the reference's three image towers by width; a state dict does not show them."""
IMAGE_SIZES = {384: "s", 768: "b", 1024: "l"}
TEXT_HEAD_WIDTH = 64


def to_reference(name: str) -> str:
    """Translate one of our state-dict names to the reference's. Raises CheckpointError on an unknown one."""
    return _translate(name, PREFIXES, NAMES, TEXT_BLOCK, "text_tower.blocks.")


def from_reference(name: str) -> str:
    """Translate one of the reference's state-dict names, without `module.`, to ours. Raises CheckpointError."""
    prefixes, names, block = ({v: k for k, v in table.items()} for table in (PREFIXES, NAMES, TEXT_BLOCK))
    return _translate(name, prefixes, names, block, "transformer.resblocks.")


def _translate(
    name: str, prefixes: Mapping[str, str], names: Mapping[str, str], block: Mapping[str, str], blocks: str
) -> str:
    if name in SAME:
        return name
    if name in names:
        return names[name]
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            if prefix == blocks:
                index, _, inner = rest.partition(".")
                if inner not in block:
                    break
                rest = f"{index}.{block[inner]}"
            return other + rest
    raise CheckpointError("This parameter name is not one of SLIP's", got=name)


def is_reference(names: Mapping[str, object]) -> bool:
    """Say whether weights have the names of the reference's vision transformers."""
    return "visual.patch_embed.proj.weight" in names and bool(method_of(names))


def read(state: Mapping[str, Tensor], path: Path) -> Pretrained:
    """Return the model with these weights (reference names), and the self-supervised head among them.

    The architecture is read off the shapes. Raises CheckpointError if the shapes are not those of a SLIP, CLIP or
    SimCLR with a ViT-S, -B or -L.
    """
    config = infer_config(state, str(path))
    try:
        own = _expected(config, state)
    except ConfigError as error:  # shapes that no model has, such as a tower without blocks
        raise CheckpointError(f"The checkpoint {path} is of another architecture", cause=str(error)) from None
    told = differences({to_reference(name): value for name, value in own.items()}, state)
    if told:
        raise CheckpointError(f"The checkpoint {path} is of another architecture", got=told)
    weights = in_full_precision({from_reference(name): value for name, value in state.items()})
    return Pretrained(config, weights, Origin(str(path), "a released SLIP checkpoint", Digests([path])))


def _expected(config: Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, without content, of the model and the objective that a configuration describes."""
    model = described(config, [from_reference(name) for name in state if not name.startswith("image_mlp.")])
    dims = Dims.of(model, config.model)
    with torch.device("meta"):
        objective = parse(config.objective).build(dims)
    heads = {f"objective.{name}": value for name, value in objective.state_dict().items()}
    return model.state_dict() | heads


def method_of(state: Mapping[str, object]) -> str:
    """Return which of the reference's methods a model with these names was trained by: slip, clip, simclr, or ""."""
    text, head = "text_projection" in state, any(name.startswith("image_mlp.") for name in state)
    return {(True, True): "slip", (True, False): "clip", (False, True): "simclr"}.get((text, head), "")


def infer_config(state: Mapping[str, Tensor], where: str = "the state dict") -> Config:
    """Return the configuration whose model has the shapes of `state` (reference names, without `module.`).

    Raises CheckpointError, naming `where`, if the shapes are not those of a vision transformer, or have a width that
    the reference does not have.
    """
    method = method_of(state)
    image, size = _image_tower(state, where)
    model = ModelConfig(image=image)
    if method in ("slip", "clip"):
        names = ("token_embedding.weight", "positional_embedding", "text_projection")
        tokens, positions, projection = (_matrix(state, name, where) for name in names)
        width = tokens[1]
        text = TextTowerConfig(
            width=width,
            depth=_depth(state, "transformer.resblocks."),
            heads=max(1, width // TEXT_HEAD_WIDTH),
            context=positions[0],
        )
        model = dataclasses.replace(model, text=text, embed_dim=projection[1])
    options = {}
    if method in ("slip", "simclr"):
        first, last = (_matrix(state, f"image_mlp.layer{i}.weight", where) for i in (1, 3))
        options = {"simclr": {"width": first[0], "dim": last[0]}}
    loss = {"slip": "clip + 1.0 * simclr"}.get(method, method)
    return Config(
        name=f"{method}-vit-{IMAGE_SIZES[image.width]}{image.patch} (released)",
        views=ViewsConfig(size=size),
        model=model,
        objective=ObjectiveConfig(loss=loss, options=options),
    )


def _image_tower(state: Mapping[str, Tensor], where: str) -> tuple[ImageTowerConfig, int]:
    """Return the image tower's configuration and the side of its images in pixels."""
    kernel, positions = state.get("visual.patch_embed.proj.weight"), state.get("visual.pos_embed")
    if kernel is None or positions is None or kernel.ndim != 4 or positions.ndim != 3 or not method_of(state):
        raise CheckpointError(
            f"The parameters in {where} are not those of a SLIP, CLIP or SimCLR model with a vision transformer",
            got=", ".join(list(state)[:4]) + ", …",
            cause="It is a checkpoint of another architecture or project",
        )
    width, patch = kernel.shape[0], kernel.shape[2]
    if width not in IMAGE_HEADS:
        raise CheckpointError(
            f"The image tower in {where} has a width that the reference implementation does not",
            got=width,
            cause="The number of attention heads cannot be read off the shapes",
            fix=f"Known widths: {', '.join(map(str, IMAGE_HEADS))}.",
        )
    tower = ImageTowerConfig(
        patch=patch, width=width, depth=_depth(state, "visual.blocks."), heads=IMAGE_HEADS[width]
    )
    return tower, patch * round((positions.shape[1] - 1) ** 0.5)


def _matrix(state: Mapping[str, Tensor], name: str, where: str) -> tuple[int, ...]:
    value = state.get(name)
    if value is None or value.ndim != 2:
        raise CheckpointError(
            f"The parameters in {where} are of another architecture",
            got=f"{name} is {'missing' if value is None else tuple(value.shape)}",
        )
    return tuple(value.shape)


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
