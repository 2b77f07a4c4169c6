"""Image towers of transformers' VisionTextDualEncoderModel: a Dinov2Model, and a tower of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openslip.config import ImageTowerConfig
from openslip.errors import CheckpointError
from openslip.interop import timm
from openslip.interop.filling import Mapped

MODEL = "vision-text-dual-encoder"
TRUNK = "image_tower.trunk."
THEIRS = "vision_model."
NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Parts of a layer, and their names in timm's vision transformer."""
SCALED = {"attn.proj": "layer_scale1", "mlp.fc2": "layer_scale2"}
"""Parts whose output is scaled by learned numbers, which are multiplied into the part's weights."""


def check(config: Mapping[str, Any], spec: str) -> None:
    """Raise CheckpointError for towers that slip does not read."""
    towers = [str((config.get(f"{name}_config") or {}).get("model_type")) for name in ("vision", "text")]
    if towers[0] not in ("dinov2", "timm_wrapper") or towers[1] != "clip_text_model":
        raise CheckpointError(
            "The model is a VisionTextDualEncoderModel of towers that slip does not load together",
            got=f"{towers[0]} and {towers[1]}, in {spec}",
            fix="Give a model of a Dinov2Model or a tower of timm with CLIP's text tower",
        )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names of transformers 5.6 and later. Before, the text tower was a model in a model."""
    return {entry.replace("text_model.text_model.", "text_model."): value for entry, value in state.items()}


def sizes_of(vision: Mapping[str, Any]) -> dict[str, int]:
    """Return the side of the pictures that the image tower takes, and the hidden width of a Dinov2Model's MLPs."""
    if vision["model_type"] == "timm_wrapper":
        return {"image_size": int(vision["pretrained_cfg"]["input_size"][-1])}
    return {"intermediate_size": int(vision["hidden_size"]) * int(vision.get("mlp_ratio", 4))}


def image(
    vision: Mapping[str, Any], sizes: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str
) -> ImageTowerConfig:
    """Take the image tower's tensors, and its projection, out of `state`; return its configuration.

    sizes: those of a Dinov2Model, by our names. Raises CheckpointError.
    """
    if "visual_projection.weight" in state:
        found.put("image_projection", "visual_projection.weight", state.pop("visual_projection.weight").T)
    if vision["model_type"] == "timm_wrapper":
        prefix = f"{THEIRS}timm_model."
        for entry in [entry for entry in state if entry.startswith(prefix)]:
            found.put(TRUNK + entry.removeprefix(prefix), entry, state.pop(entry))
        return timm.tower_in(vision, spec)
    if vision.get("use_swiglu_ffn") or not vision.get("qkv_bias", True):
        raise CheckpointError(
            "The model's Dinov2Model has gated MLPs or no biases, which slip does not support", got=spec
        )
    for theirs, ours in NAMES.items():
        if THEIRS + theirs in state:
            found.put(TRUNK + ours, THEIRS + theirs, state.pop(THEIRS + theirs))
    if f"{THEIRS}embeddings.mask_token" in state:
        found.unused[f"{THEIRS}embeddings.mask_token"] = "which stands for hidden patches in training"
        del state[f"{THEIRS}embeddings.mask_token"]
    for index in range(int(sizes["depth"])):
        _layer(f"{THEIRS}encoder.layer.{index}.", f"{TRUNK}blocks.{index}.", state, found)
    return ImageTowerConfig(name="vit", patch=int(vision["patch_size"]), **sizes)


def _layer(theirs: str, ours: str, state: dict[str, Tensor], found: Mapped) -> None:
    """Take a layer's tensors out of `state`: queries, keys and values become one matrix; scales go into weights."""
    scales = {part: state.pop(f"{theirs}{scale}.lambda1", None) for part, scale in SCALED.items()}
    for entry in [entry for entry in state if entry.startswith(theirs)]:
        part, _, kind = entry.removeprefix(theirs).rpartition(".")
        if part in LAYER:
            value = state.pop(entry)
            scale = scales.get(LAYER[part])
            if scale is not None:
                value = value.float() * (scale.float()[:, None] if value.ndim == 2 else scale.float())
            found.put(f"{ours}{LAYER[part]}.{kind}", entry, value)
    for kind in ("weight", "bias"):
        entries = [f"{theirs}attention.attention.{part}.{kind}" for part in ("query", "key", "value")]
        if all(entry in state for entry in entries):
            called = re.sub("query", "{query,key,value}", entries[0])
            found.put(f"{ours}attn.qkv.{kind}", called, torch.cat([state.pop(entry) for entry in entries]))
