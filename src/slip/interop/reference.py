"""The reference implementation's checkpoints: its parameter names, and reading its files without running them."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slip.config import (
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    SslHeadConfig,
    TextTowerConfig,
    ViewsConfig,
)
from slip.encoder import Encoder
from slip.errors import CheckpointError, ConfigError
from slip.files import open_regular
from slip.models import Model, build

PREFIXES = {
    "image_tower.trunk.": "visual.",
    "text_tower.blocks.": "transformer.resblocks.",
    "text_tower.token_embedding.": "token_embedding.",
    "text_tower.norm.": "ln_final.",
    "ssl_head.": "image_mlp.",
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a released-style `.pt` file: `state_dict`, `epoch`, `args` and what else it holds, tensors on the CPU.

    The file is a pickle inside a zip. It is parsed by torch's restricted reader, which builds tensors, plain
    containers and `argparse.Namespace`, and runs nothing; a file that asks for any other type is refused
    whole.

    Raises CheckpointError: no such file, not a zip (saved before torch 1.6, or something else), cut off or
    damaged, a type that is not allowed, no `state_dict` of tensors.
    """
    path = Path(path)
    _check_is_zip(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; every one means that the file was not loaded
        raise _unreadable(path, error) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"The checkpoint {path} holds no 'state_dict' of tensors",
            got=found[:200],
            fix="Check which file it is.",
        )
    return content


def load_reference(path: str | Path) -> Encoder:
    """Load a checkpoint of the reference implementation (SLIP, CLIP or SimCLR; ViT-S, -B or -L).

    The architecture is read off the shapes. Raises CheckpointError as `read_checkpoint` does, and when the
    parameters are not those of such a model.
    """
    state = {
        name.removeprefix("module."): value for name, value in read_checkpoint(path)["state_dict"].items()
    }
    config = infer_config(state, str(path))
    try:
        with torch.device("meta"):
            model = build(config.model, config.views.size, embeddings_of(state))
    except ConfigError as error:  # shapes that no model has, such as a tower without blocks
        raise CheckpointError(f"The checkpoint {path} is of another architecture", cause=str(error)) from None
    _check_parameters(model, state, str(path))
    model.to_empty(device="cpu")
    model.load_state_dict({from_reference(name): value for name, value in state.items()})
    return Encoder(model, config)


def embeddings_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the embeddings that a model with the reference's state-dict names gives."""
    text = ("image", "text") if "text_projection" in state else ()
    ssl = ("ssl_1", "ssl_2") if any(name.startswith("image_mlp.") for name in state) else ()
    return text + ssl


def infer_config(state: Mapping[str, Tensor], where: str = "the state dict") -> Config:
    """Return the configuration whose model has the shapes of `state` (reference names, without `module.`).

    Raises CheckpointError, naming `where`, when they are no vision transformer's, or of a width the reference
    has not.
    """
    embeddings = embeddings_of(state)
    image, size = _image_tower(state, where)
    model = ModelConfig(image=image)
    if "text" in embeddings:
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
    if "ssl_1" in embeddings:
        first, last = (_matrix(state, f"image_mlp.layer{i}.weight", where) for i in (1, 3))
        model = dataclasses.replace(model, ssl=SslHeadConfig(width=first[0], dim=last[0]))
    kind = "simclr" if "text" not in embeddings else "slip" if "ssl_1" in embeddings else "clip"
    loss = {"slip": "clip + 1.0 * simclr"}.get(kind, kind)
    return Config(
        name=f"{kind}-vit-{IMAGE_SIZES[image.width]}{image.patch} (released)",
        views=ViewsConfig(size=size),
        model=model,
        objective=ObjectiveConfig(loss=loss),
    )


def _image_tower(state: Mapping[str, Tensor], where: str) -> tuple[ImageTowerConfig, int]:
    """Return the image tower's configuration and the side of its images in pixels."""
    kernel, positions = state.get("visual.patch_embed.proj.weight"), state.get("visual.pos_embed")
    if (
        kernel is None
        or positions is None
        or kernel.ndim != 4
        or positions.ndim != 3
        or not embeddings_of(state)
    ):
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


def _check_parameters(model: Model, state: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless `state` (reference names) has exactly the model's names and shapes."""
    expected = {to_reference(name): tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    both = [name for name in expected if name in found and found[name] != expected[name]]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [f"{name} {found[name]} instead of {expected[name]}" for name in both],
    }
    told = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]
    if told:
        raise CheckpointError(f"The checkpoint {where} is of another architecture", got="; ".join(told))


def _check_is_zip(path: Path) -> None:
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(
            "The checkpoint cannot be read", got=str(path), cause=str(error.strerror), fix="Check the path."
        ) from None
    if start == b"PK\x03\x04":
        return
    old = start[:1] == b"\x80"  # a bare pickle
    raise CheckpointError(
        f"The file {path} is not a checkpoint in torch's zip format and was not loaded",
        got=f"a file that starts with {start!r}" if start else "an empty file",
        cause="It was saved by torch before 1.6, as a bare pickle"
        if old
        else "It is something else, or a broken download",
        fix="If you trust it, load it in the program that made it and save it again with torch 1.6 or later."
        if old
        else "Download it again, or check which file it is.",
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for what torch's restricted reader said about `path`."""
    refused = re.search(r"GLOBAL ([\w.]+)|[Cc]an only build [^,]*?(?:got|type) ([\w.]+)", str(error))
    name = next(filter(None, refused.groups()), "") if refused else ""
    if name:
        return CheckpointError(
            f"The checkpoint {path} was not loaded: it asks for '{name}', which is not on the list of harmless types",
            cause="Building such an object can run any code on this machine",
            fix="Do not trust the file unless you know who made it; then save its 'state_dict' alone and load that.",
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"The checkpoint {path} is damaged and was not loaded",
        cause=f"The file was cut off or changed (torch says: {first[:200]})",
        fix="Download or copy it again and compare the sizes.",
    )
