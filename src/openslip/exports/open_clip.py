"""Export to open_clip: a folder for `local-dir:` or a hub repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from openslip.config import Activation, ImageTowerConfig, TextTowerConfig
from openslip.encoder import Encoder
from openslip.exports.plan import Consumer, Plan, cannot
from openslip.exports.tokenizer_files import of_own
from openslip.interop import tokenizers
from openslip.interop.filling import in_full_precision
from openslip.interop.open_clip import FILES, SETTINGS
from openslip.interop.open_clip_towers import BLOCK, IN_TRUNK, RESNETS
from openslip.interop.timm import pool_of
from openslip.models.weights import Pretrained

USAGE = """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PLACE")
model.eval()
tokenizer = open_clip.get_tokenizer("local-dir:PLACE")
image = model.encode_image(preprocess(picture).unsqueeze(0), normalize=True)
text = model.encode_text(tokenizer(["a red bicycle"]), normalize=True)"""
PLAIN = {
    (192, 12, 3): "vit_tiny_patch{}_224",
    (384, 12, 6): "vit_small_patch{}_224",
    (768, 12, 12): "vit_base_patch{}_224",
    (1024, 24, 16): "vit_large_patch{}_224",
    (1280, 32, 16): "vit_huge_patch{}_224",
}
"""timm's names of plain vision transformers, by width, depth and heads; the patch is to be filled in."""


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the model is written for open_clip. Raises ExportError if open_clip has no such model.

    open_clip has one activation for both towers, unless the image tower is one of timm. So a plain vision transformer
    becomes open_clip's own if that fits, with the bias of its patches added to their positions. Otherwise it becomes
    timm's of the same size, if timm has one.
    """
    config, model = encoder.config.model, encoder.model
    if model.text_tower is None:
        raise cannot("open_clip", "it has no text tower", "Export the image tower with --to timm")
    text = _text(config.text)
    own = of_own(model.text_tower.own_tokenizer) if config.text.tokenizer else None
    if own is not None:
        if own.clean not in ("whitespace", "lower", "canonicalize"):
            raise cannot("open_clip", f"its tokenizer cleans texts in a way open_clip does not ({own.clean})")
        text |= {"hf_tokenizer_name": "in this folder", "tokenizer_kwargs": {"clean": own.clean}}
    weights = in_full_precision(model.state_dict())
    if _is_native(config.image, config.text):
        vision, state = _native(config.image, encoder.size, weights)
    else:
        vision, state = _of_timm(encoder, weights)
    state |= _text_state(config.text, weights)
    described: dict[str, Any] = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    if config.text.activation == "quick_gelu":
        described["quick_gelu"] = True
    bias = source.weights.get("objective.siglip.bias")
    if bias is not None:
        described["init_logit_bias"] = float(bias)
        state["logit_bias"] = bias.detach().float().reshape(())
    views = encoder.config.views
    settings = {
        "model_cfg": described,
        "preprocess_cfg": {
            "size": views.size,
            "mean": list(views.mean),
            "std": list(views.std),
            "interpolation": views.interpolation,
            "resize_mode": "squash" if views.fit == "squash" else "shortest",
        },
    }
    state = {name: value.contiguous() for name, value in state.items()}

    def write(place: Path) -> None:
        place.mkdir()
        save_file(state, place / FILES[0], metadata={"format": "pt"})
        (place / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
        if own is not None:
            (place / tokenizers.FILES[0]).write_text(own.tokenizer)
            (place / tokenizers.FILES[2]).write_text(own.config)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in state.values()),
        library="open_clip_torch",
        majors=(2, 3),
        usage=USAGE,
    )


def _load(place: Path) -> Consumer:
    import open_clip

    made: Any = open_clip.create_model_and_transforms(f"local-dir:{place}")
    tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{place}")
    model, preprocess = made[0].eval(), made[2]
    return Consumer(model.encode_image, lambda texts: model.encode_text(tokenizer(texts)), preprocess)


def _text(text: TextTowerConfig) -> dict[str, Any]:
    """Return open_clip's description of the text tower. Raises ExportError if open_clip has no such tower."""
    if text.truncation != "keep-end":
        raise cannot(
            "open_clip",
            f"it cuts long texts with model.text.truncation {text.truncation}, but open_clip keeps the end token",
            "Train with keep-end, or export with --to reference",
        )
    return {
        "context_length": text.context,
        "vocab_size": text.vocabulary,
        "width": text.width,
        "heads": text.heads,
        "layers": text.depth,
        "mlp_ratio": (text.mlp or 4 * text.width) / text.width,
        "norm_kwargs": {"eps": text.norm_eps},
        "pool_type": "argmax" if text.pool == "end" else "last",
        **({"no_causal_mask": True} if text.bidirectional else {}),
        **({"proj_bias": True} if text.projection_bias else {}),
        **_tanh(text.activation),
    }


def _tanh(activation: Activation) -> dict[str, Any]:
    return {"act_kwargs": {"approximate": "tanh"}} if activation == "gelu_tanh" else {}


def _text_state(text: TextTowerConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the text tower's tensors, the projection and the logit scale under open_clip's names."""
    state = {
        "positional_embedding": weights["text_tower.positional_embedding"],
        "token_embedding.weight": weights["text_tower.token_embedding.weight"],
        "ln_final.weight": weights["text_tower.norm.weight"],
        "ln_final.bias": weights["text_tower.norm.bias"],
        "logit_scale": weights["logit_scale"],
    }
    if text.projection_bias:
        state["text_projection.weight"] = weights["text_projection"].T
        state["text_projection.bias"] = weights["text_projection_bias"]
    else:
        state["text_projection"] = weights["text_projection"]
    return state | _blocks("text_tower.blocks.", "transformer.resblocks.", {}, weights)


def _blocks(ours: str, theirs: str, besides: dict[str, str], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a tower's blocks under open_clip's names."""
    state = {}
    for name, value in weights.items():
        if name.startswith(ours):
            index, _, inner = name.removeprefix(ours).partition(".")
            for open_clips, plain in BLOCK.items():
                own = besides.get(plain, plain)
                if inner.startswith(own):
                    state[f"{theirs}{index}.{open_clips}{inner.removeprefix(own)}"] = value
    return state


def _is_native(image: ImageTowerConfig, text: TextTowerConfig) -> bool:
    """Say whether open_clip's own vision transformer can be the image tower."""
    return (
        image.name == "vit"
        and image.pool in ("token", "mean")
        and image.class_tokens == 1
        and not image.unprojected
        and not image.projection_bias
        and image.width % image.heads == 0
        and (image.activation == "quick_gelu") == (text.activation == "quick_gelu")
    )


def _native(
    image: ImageTowerConfig, size: int, weights: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return open_clip's description of its own vision transformer, and the tensors under its names."""
    trunk = "image_tower.trunk."
    positions = weights[f"{trunk}pos_embed"][0].clone()
    if (bias := weights.get(f"{trunk}patch_embed.proj.bias")) is not None:  # open_clip's patches have none
        positions[1:] += bias
    vision = {
        "image_size": size,
        "layers": image.depth,
        "width": image.width,
        "head_width": image.width // image.heads,
        "patch_size": image.patch,
        "mlp_ratio": (image.mlp or 4 * image.width) / image.width,
        "norm_kwargs": {"eps": image.norm_eps},
        **({} if image.pre_norm else {"no_ln_pre": True}),
        **({"pool_type": "avg", "final_ln_after_pool": True} if image.pool == "mean" else {}),
        **_tanh(image.activation),
    }
    last = "norm" if image.pool == "token" else "fc_norm"
    state = {
        "visual.conv1.weight": weights[f"{trunk}patch_embed.proj.weight"],
        "visual.class_embedding": weights[f"{trunk}cls_token"].reshape(-1),
        "visual.positional_embedding": positions,
        "visual.proj": weights["image_projection"],
        "visual.ln_post.weight": weights[f"{trunk}{last}.weight"],
        "visual.ln_post.bias": weights[f"{trunk}{last}.bias"],
    }
    if image.pre_norm:
        state |= {f"visual.ln_pre.{kind}": weights[f"{trunk}norm_pre.{kind}"] for kind in ("weight", "bias")}
    state |= _blocks(f"{trunk}blocks.", "visual.transformer.resblocks.", IN_TRUNK, weights)
    return vision, state


def _of_timm(encoder: Encoder, weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return open_clip's description of an image tower of timm, and its tensors under open_clip's names."""
    image, trunk = encoder.config.model.image, encoder.model.image_tower.trunk
    name = image.name if image.name != "vit" else _plain(image)
    if not name:
        raise cannot(
            "open_clip",
            f"open_clip has one activation for both towers, this model's are {image.activation} and "
            f"{encoder.config.model.text.activation}, and timm has no such vision transformer (width {image.width}, "
            f"depth {image.depth}, heads {image.heads}, patch {image.patch})",
            "Export it with --to huggingface; a model trained with --model.text.activation gelu fits open_clip",
        )
    if name in RESNETS.values() and encoder.size != 224:
        raise cannot(
            "open_clip",
            f"open_clip makes timm's {name} only for pictures of 224 pixels, but this one takes {encoder.size}",
            "Train with --views.size 224",
        )
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool_of(trunk),
        "timm_proj": "none" if image.unprojected else "linear",
        "timm_proj_bias": image.projection_bias,
        "image_size": encoder.size,
    }
    state = {
        name.replace("image_tower.trunk.", "visual.trunk.", 1): value
        for name, value in weights.items()
        if name.startswith("image_tower.trunk.")
    }
    if not image.unprojected:
        state["visual.head.proj.weight"] = weights["image_projection"].T
    if image.projection_bias:
        state["visual.head.proj.bias"] = weights["image_projection_bias"]
    return vision, state


def _plain(image: ImageTowerConfig) -> str:
    """Return timm's name of a tower that is a plain vision transformer; empty if timm has no such tower."""
    import timm

    name = PLAIN.get((image.width, image.depth, image.heads), "").format(image.patch)
    plain = (
        image.pool == "token"
        and image.class_tokens == 1
        and not image.pre_norm
        and not image.mlp
        and image.activation == "gelu"
        and image.norm_eps == 1e-6
    )
    return name if plain and name and timm.is_model(name) else ""
