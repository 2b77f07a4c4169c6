"""The towers of open_clip's models as ours: their configuration, and the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import timm as timm_library
import torch
from torch import Tensor, nn

from openslip.config import Activation, Config, ImageTowerConfig, ModelConfig, TextTowerConfig, ViewsConfig
from openslip.errors import CheckpointError, ConfigError
from openslip.interop.filling import Mapped, described
from openslip.interop.timm import pool_of
from openslip.interop.weight_files import described_by, nearest

RESNETS = {
    (3, 4, 6, 3): "resnet50_clip",
    (3, 4, 23, 3): "resnet101_clip",
    (4, 6, 10, 6): "resnet50x4_clip",
    (6, 8, 18, 8): "resnet50x16_clip",
    (3, 15, 36, 10): "resnet50x64_clip",
}
"""timm's names of CLIP's ResNets, by the blocks of their stages."""
BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_": "qkv.",
    "attn.out_proj": "proj",
    "ln_2": "norm2",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
}
"""Beginnings of the names of a block's tensors, and the beginnings in our text tower."""
IN_TRUNK = {"qkv.": "attn.qkv.", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""Beginnings in our text tower, and those in timm's vision transformer that differ."""
TEXT = re.compile(
    r"(text\.)?(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection)"
)
VISION = frozenset({
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "no_ln_pre",
    "pos_embed_type", "final_ln_after_pool", "pool_type", "act_kwargs", "norm_kwargs", "timm_model_name",
    "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
    "attn_pooler_queries", "attn_pooler_heads", "output_tokens",
})  # fmt: skip
"""Options of an image tower that slip understands, or that change nothing that a model computes. It refuses others."""
TEXTS = frozenset({
    "context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "width", "heads",
    "layers", "mlp_ratio", "pad_id", "eos_id", "no_causal_mask", "final_ln_after_pool", "pool_type", "proj_bias",
    "proj_type", "act_kwargs", "norm_kwargs", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens",
})  # fmt: skip
"""The same of a text tower."""


def towers(
    config: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str
) -> tuple[ImageTowerConfig, int, TextTowerConfig]:
    """Take the towers' tensors out of `state`; return the towers' configurations, and the side of images."""
    quick = bool(config.get("quick_gelu"))
    with described_by(spec):
        image, size = _image(config["vision_cfg"], state, found, spec, quick)
        return image, size, _text(config["text_cfg"], state, found, spec, quick)


def _image(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> tuple[ImageTowerConfig, int]:
    """Take the image tower's tensors out of `state`; return its configuration, and the side of its images."""
    _only(vision, VISION, "image tower", spec)
    size = vision.get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise unsupported(spec, f"for images of {size[0]} by {size[1]} pixels, which are not square")
        size = size[0]
    if vision.get("timm_model_name"):
        return _of_timm(vision, state, found, spec, int(size)), int(size)
    if isinstance(vision.get("layers", 12), list | tuple):
        return _resnet(vision, state, found, spec), int(size)
    return _vit(vision, state, found, spec, quick), int(size)


def _vit(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> ImageTowerConfig:
    width, layers = int(vision.get("width", 768)), int(vision.get("layers", 12))
    pool, pre_norm = vision.get("pool_type", "tok"), not vision.get("no_ln_pre")
    if pool not in ("tok", "avg") or (pool == "avg" and not vision.get("final_ln_after_pool")):
        raise unsupported(
            spec, f"with an image tower whose feature is pooled by {pool!r} after its last norm"
        )
    names = {
        "visual.conv1.weight": "patch_embed.proj.weight",
        "visual.class_embedding": "cls_token",
        "visual.positional_embedding": "pos_embed",
    }
    last = "norm" if pool == "tok" else "fc_norm"
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        value = state[entry]
        if entry == "visual.proj":
            ours = "image_projection"
        elif entry in names:
            ours = f"image_tower.trunk.{names[entry]}"
            if entry == "visual.class_embedding":
                value = value[None, None]
            elif entry == "visual.positional_embedding":
                value = value[None]
        elif entry.startswith("visual.ln_pre."):
            ours = entry.replace("visual.ln_pre", "image_tower.trunk.norm_pre")
        elif entry.startswith("visual.ln_post."):
            ours = entry.replace("visual.ln_post", f"image_tower.trunk.{last}")
        elif inner := _of_block(entry, "visual.transformer.resblocks.", IN_TRUNK):
            ours = f"image_tower.trunk.blocks.{inner}"
        else:
            continue
        found.put(ours, entry, value)
        del state[entry]
    if not pre_norm:  # timm's patches have a bias then, open_clip's never
        found.put(
            "image_tower.trunk.patch_embed.proj.bias", "a bias of the patches, of zeros", torch.zeros(width)
        )
    return ImageTowerConfig(
        name="vit",
        patch=int(vision.get("patch_size", 16)),
        width=width,
        depth=layers,
        heads=width // int(vision.get("head_width", 64)),
        mlp=_hidden(width, vision),
        activation=_activation(vision, quick, spec),
        pool="token" if pool == "tok" else "mean",
        pre_norm=pre_norm,
        norm_eps=_eps(vision),
    )


def _of_timm(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, size: int
) -> ImageTowerConfig:
    """Return the configuration of an image tower of timm, with open_clip's projection on top, or timm's own."""
    name, pool, projection = (
        vision["timm_model_name"],
        vision.get("timm_pool", "avg"),
        vision.get("timm_proj", "linear"),
    )
    if not timm_library.is_model(str(name)):
        raise CheckpointError(
            "The installed timm does not know the model's image tower",
            got=f"{name}, of {spec}",
            fix=nearest(str(name), timm_library.list_models(), "A later version of timm may know it"),
        )
    if projection not in ("linear", "none", "", None) or pool in ("abs_attn", "rot_attn"):
        what = f"projection {projection!r}" if projection == "mlp" else f"pooling {pool!r}"
        raise unsupported(spec, f"with open_clip's {what} on top of an image tower of timm")
    image = ImageTowerConfig(name=str(name), unprojected=projection == "none")
    try:
        trunk = _trunk(str(name), size)
    except ConfigError as error:
        raise CheckpointError(f"timm makes no such image tower as {spec} has", cause=str(error)) from None
    usual = pool_of(trunk)
    if pool and usual and pool != usual:
        raise unsupported(
            spec, f"with an image tower of timm, {name}, pooled by {pool!r} instead of timm's {usual!r}"
        )
    own = trunk.state_dict()
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        inner = entry.removeprefix("visual.trunk.")
        value = state[entry]
        if entry.startswith("visual.trunk.") and inner in own:
            found.put(f"image_tower.trunk.{inner}", entry, value)
        elif entry == "visual.head.proj.weight" or (
            not projection
            and entry.startswith("visual.trunk.head")
            and entry.endswith(".weight")
            and value.ndim == 2
        ):
            found.put("image_projection", entry, value.T)
        elif entry == "visual.head.proj.bias" or (
            not projection
            and entry.startswith("visual.trunk.head")
            and entry.endswith(".bias")
            and value.ndim == 1
        ):
            found.put("image_projection_bias", entry, value)
        else:
            continue
        del state[entry]
    return replace(image, projection_bias="image_projection_bias" in found.weights)


@lru_cache(maxsize=1)
def _trunk(name: str, size: int) -> nn.Module:
    """Return a tower of timm without weights."""
    config = Config(views=ViewsConfig(size=size), model=ModelConfig(image=ImageTowerConfig(name=name)))
    return described(config, ()).image_tower.trunk


def _resnet(
    vision: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str
) -> ImageTowerConfig:
    """Return the configuration of one of CLIP's ResNets, which timm has as well, and converts."""
    from timm.models.byobnet import checkpoint_filter_fn

    layers = tuple(vision["layers"])
    name = RESNETS.get(layers)
    if name is None:
        raise unsupported(spec, f"with a ResNet of {layers} blocks, which none of CLIP's has")
    size = int(vision.get("image_size", 224))
    image = ImageTowerConfig(name=name, projection_bias=True)
    trunk = _trunk(name, size)
    for entry in [entry for entry in state if entry.startswith("visual.")]:
        value = state.pop(entry)
        # One by one, to keep each name. timm converts only what comes with `conv1`, by which it recognises CLIP.
        probe = {"visual.conv1.weight": value, entry: value}
        (inner,) = [
            converted
            for converted in checkpoint_filter_fn(probe, cast(Any, trunk))
            if entry == "visual.conv1.weight" or converted != "stem.conv1.conv.weight"
        ]
        if inner == "head.proj.weight":
            found.put("image_projection", entry, value.T)
        elif inner == "head.proj.bias":
            found.put("image_projection_bias", entry, value)
        else:
            found.put(f"image_tower.trunk.{inner}", entry, value)
    return image


def _text(
    text: Mapping[str, Any], state: dict[str, Tensor], found: Mapped, spec: str, quick: bool
) -> TextTowerConfig:
    """Take the text tower's tensors out of `state`; return its configuration."""
    _only(text, TEXTS, "text tower", spec)
    width, vocabulary = int(text.get("width", 512)), int(text.get("vocab_size", 49_408))
    pool = text.get("pool_type", "argmax")
    clips = vocabulary == TextTowerConfig().vocabulary and not text.get("hf_tokenizer_name")
    if pool not in ("argmax", "last") or (pool == "argmax" and not clips):
        raise unsupported(
            spec, f"with a text tower whose feature is pooled by {pool!r}, of {vocabulary:,} tokens"
        )
    for entry in [entry for entry in state if TEXT.match(entry)]:
        inner, value = entry.removeprefix("text."), state[entry]
        if inner in ("text_projection", "text_projection.weight"):
            found.put("text_projection", entry, value if inner == "text_projection" else value.T)
        elif inner == "text_projection.bias":
            found.put("text_projection_bias", entry, value)
        elif block := _of_block(inner, "transformer.resblocks.", {}):
            found.put(f"text_tower.blocks.{block}", entry, value)
        elif inner.startswith("ln_final."):
            found.put(inner.replace("ln_final", "text_tower.norm"), entry, value)
        elif inner == "positional_embedding" or inner.startswith("token_embedding."):
            found.put(f"text_tower.{inner}", entry, value)
        else:
            continue
        del state[entry]
    if (
        text.get("proj_type") == "none"
    ):  # the feature is the embedding: a matrix of ones on its diagonal changes nothing
        found.put("text_projection", "no projection", torch.eye(width))
    return TextTowerConfig(
        width=width,
        depth=int(text.get("layers", 12)),
        heads=int(text.get("heads", 8)),
        mlp=_hidden(width, text),
        activation=_activation(text, quick, spec),
        context=int(text.get("context_length", 77)),
        vocabulary=vocabulary,
        bidirectional=bool(text.get("no_causal_mask")),
        pool="end" if pool == "argmax" else "last",
        norm_eps=_eps(text),
        projection_bias="text_projection_bias" in found.weights,
    )


def _of_block(entry: str, prefix: str, besides: Mapping[str, str]) -> str:
    """Return our name of a block's tensor, from the block's number on; empty for any other entry."""
    if not entry.startswith(prefix):
        return ""
    index, _, inner = entry.removeprefix(prefix).partition(".")
    for theirs, ours in BLOCK.items():
        if inner.startswith(theirs):
            return f"{index}.{besides.get(ours, ours)}{inner.removeprefix(theirs)}"
    return ""


def _hidden(width: int, tower: Mapping[str, Any]) -> int:
    """Return the hidden width of a tower's MLPs; 0 if it is four times the tower's width."""
    hidden = int(width * float(tower.get("mlp_ratio", 4.0)))
    return 0 if hidden == 4 * width else hidden


def _eps(tower: Mapping[str, Any]) -> float:
    return float((tower.get("norm_kwargs") or {}).get("eps", 1e-5))


def _activation(tower: Mapping[str, Any], quick: bool, spec: str) -> Activation:
    options = tower.get("act_kwargs") or {}
    if quick and not options:
        return "quick_gelu"
    if options == {"approximate": "tanh"} and not quick:
        return "gelu_tanh"
    if options:
        raise unsupported(spec, f"with an activation with the options {options}")
    return "gelu"


def _only(options: Mapping[str, Any], known: frozenset[str], tower: str, spec: str) -> None:
    """Raise CheckpointError if a tower sets options that slip does not understand."""
    others = sorted(
        key for key, value in options.items() if key not in known and value not in (None, False, 0, "")
    )
    if others:
        raise unsupported(spec, f"with options of its {tower} that slip does not have: {', '.join(others)}")


def unsupported(spec: str, what: str) -> CheckpointError:
    """Return the error for a model that has something that our towers lack."""
    return CheckpointError(
        f"The model is one of open_clip {what}, which slip does not load",
        got=spec,
        fix="open_clip, which is installed with slip, loads the model: `open_clip.create_model_and_transforms`",
    )
