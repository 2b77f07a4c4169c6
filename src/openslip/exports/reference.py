"""Export to the SLIP paper's code: a `.pt` file, with `module.` before each name and the options of the model."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from openslip import recipes
from openslip.config import FOR_TRAINING, ModelConfig
from openslip.encoder import Encoder
from openslip.exports.plan import Consumer, Plan, cannot
from openslip.interop.filling import PARTS, encoder_of, in_full_precision
from openslip.interop.reference import IMAGE_SIZES, method_of, read, to_reference
from openslip.interop.torch_files import plain_names, read_checkpoint
from openslip.models.weights import Pretrained

USAGE = """import argparse, torch, models  # the paper's models.py
torch.serialization.add_safe_globals([argparse.Namespace])
checkpoint = torch.load("PLACE", map_location="cpu", weights_only=True)
args, state = checkpoint["args"], checkpoint["state_dict"]
model = getattr(models, args.model)(rand_embed=False, ssl_mlp_dim=args.ssl_mlp_dim, ssl_emb_dim=args.ssl_emb_dim)
model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})"""
HEAD = "objective.simclr.head."


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the model is written for the paper's code. Raises ExportError if the code has no such model.

    The code has a ViT-S, -B and -L for pictures of 224 pixels, with or without a text tower of one size. The head of
    SimCLR goes along if the weights have it.
    """
    ours = {
        name: value
        for name, value in source.weights.items()
        if name.partition(".")[0] in PARTS or name.startswith(HEAD)
    }
    config, size = encoder.config.model, IMAGE_SIZES.get(encoder.config.model.image.width, "b")
    known = recipes.get(f"slip-vit-{size}16-yfcc15m").model
    other = _differences(config, known, text=encoder.model.text_tower is not None)
    if encoder.size != 224:
        other.append(f"views.size {encoder.size}")
    if other:
        raise cannot(
            "reference",
            f"the paper's code has no model with {', '.join(other)}",
            "Export it with --to huggingface, open_clip or timm",
        )
    state = {to_reference(name): value.contiguous() for name, value in in_full_precision(ours).items()}
    method = method_of(state)
    if not method:
        raise cannot(
            "reference",
            "it has neither a text tower nor SimCLR's head",
            "Export the run's checkpoint, or --to timm",
        )
    head = [state[f"image_mlp.layer{i}.weight"].shape[0] for i in (1, 3)] if method != "clip" else (4096, 256)
    args = argparse.Namespace(
        model=f"{method.upper()}_VIT{size.upper()}16", ssl_mlp_dim=head[0], ssl_emb_dim=head[1], ssl_scale=1.0
    )
    notes = []
    if encoder.model.text_tower is not None and config.text.truncation == "keep-end":
        notes.append(
            "the paper's code drops the end token of texts of more than 77 tokens, and gives them other embeddings"
        )

    def write(place: Path) -> None:
        named = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 0, "state_dict": named, "args": args}, place)

    return Plan(
        write,
        _load,
        nbytes=sum(value.nbytes for value in state.values()),
        library="torch",
        majors=(2,),
        usage=USAGE,
        notes=tuple(notes),
        ending=".pt",
    )


def _load(place: Path) -> Consumer:
    """Read the file as `openslip.load` reads the paper's: the paper's code is no library that can be installed."""
    encoder = encoder_of(read(plain_names(read_checkpoint(place)["state_dict"]), place))
    text: Any = encoder.encode_text if encoder.model.text_tower is not None else None
    return Consumer(image=encoder.encode_image, text=text, picture=None)


def _differences(config: ModelConfig, known: ModelConfig, *, text: bool) -> list[str]:
    """Return in words where a model's architecture differs from a known one."""
    parts: list[tuple[str, Any, Any]] = [("image", config.image, known.image)]
    if text:
        parts.append(("text", replace(config.text, truncation=known.text.truncation), known.text))
    found = [
        f"model.{part}.{field.name} {getattr(own, field.name)}"
        for part, own, other in parts
        for field in fields(own)
        if field.name not in FOR_TRAINING and getattr(own, field.name) != getattr(other, field.name)
    ]
    if text and config.embed_dim != known.embed_dim:
        found.append(f"model.embed_dim {config.embed_dim}")
    return found
