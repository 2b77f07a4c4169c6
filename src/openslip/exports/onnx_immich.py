"""ONNX graphs in the layout of Immich's machine learning server (machine-learning/immich_ml/models/clip)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openslip.encoder import Encoder
from openslip.exports.graphs import Files, runner
from openslip.exports.onnx_plain import ROUGHLY
from openslip.exports.plan import Consumer, cannot
from openslip.exports.tokenizer_files import TOKENIZER

FILES = Files(
    "visual/model.onnx",
    "textual/model.onnx",
    "image",
    "text",
    "embedding",
    torch.int32,
    alone=True,
    whole=True,
)
DIMS = (512, 640, 768, 1024, 1152, 1536)
"""Sizes of the embeddings of those models in Immich's list whose names begin with ViT-."""
USAGE = """# NAME is a model of Immich's list that begins with ViT- and whose embeddings have {dim} numbers.
# Move PLACE to clip/NAME in Immich's model cache.
# Choose NAME in Immich's settings (machine learning, smart search), and run smart search for all pictures again."""


def notes(encoder: Encoder, tokenizer: Any) -> list[str]:
    """Return what users should know about the folder."""
    dim, fit = encoder.config.model.embed_dim, encoder.config.views.fit
    told = [
        ROUGHLY,
        "Immich takes a model by a name of its own list, and looks in its cache before it downloads the model",
    ]
    if dim not in DIMS:
        known = ", ".join(map(str, DIMS))
        told.append(f"Immich's list has no model whose embeddings have {dim} numbers, only {known}")
    if fit == "squash":
        told.append("older versions of Immich crop pictures, but the model needs them squashed to a square")
    return told


def usage(encoder: Encoder, tokenizer: Any) -> str:
    """Return what to do with the folder."""
    return USAGE.format(dim=encoder.config.model.embed_dim)


def check(encoder: Encoder, tokenizer: Any) -> None:
    """Raise ExportError for a model that Immich cannot use."""
    if encoder.model.text_tower is None:
        raise cannot("onnx", "Immich searches by text, and the model has no text tower", "Use --layout plain")
    if encoder.config.model.text.truncation != "keep-end":
        raise cannot(
            "onnx",
            "Immich keeps the end token of texts that are too long, but the model was trained with "
            f"model.text.truncation {encoder.config.model.text.truncation}",
            "Use --layout plain, or train with keep-end",
        )
    if tokenizer is None:
        raise cannot(
            "onnx",
            "Immich reads a tokenizer.json, which gives other token ids than the model's tokenizer",
            "Use --layout plain",
        )


def write(place: Path, encoder: Encoder, settings: dict[str, Any], tokenizer: Any) -> None:
    """Write the files beside the graphs."""
    image, text = settings["image"], settings["text"]
    described = {
        "embed_dim": settings["embedding"]["dim"],
        "vision_cfg": {"image_size": image["size"]},
        "text_cfg": {"context_length": text["context"], "vocab_size": encoder.config.model.text.vocabulary},
    }
    _write(place / "config.json", described)
    preprocessing = {
        "size": [image["size"]] * 2,
        "mode": "RGB",
        "mean": image["mean"],
        "std": image["std"],
        "interpolation": image["interpolation"],
        "resize_mode": "squash" if image["fit"] == "squash" else "shortest",
        "fill_color": 0,
    }
    _write(place / "visual" / "preprocess_cfg.json", preprocessing)
    tokenizer.save(str(place / "textual" / TOKENIZER), pretty=False)
    padding = {"pad_token": tokenizer.id_to_token(text["padding"]), "model_max_length": text["context"]}
    _write(place / "textual" / "tokenizer_config.json", padding)


def load(place: Path, encoder: Encoder) -> Consumer:
    """Read the folder as Immich does: one picture or text at a time, with texts filled up by the named pad token."""
    from tokenizers import Tokenizer

    context = json.loads((place / "config.json").read_text())["text_cfg"]["context_length"]
    padding = json.loads((place / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(place / "textual" / TOKENIZER))
    tokenizer.enable_padding(length=context, pad_token=padding, pad_id=tokenizer.token_to_id(padding))
    tokenizer.enable_truncation(context)
    run_image = runner(place / FILES.image, FILES.pixels)
    run_text = runner(place / FILES.text, FILES.ids)

    def text(texts: list[str]) -> Tensor:
        rows = [tokenizer.encode(" ".join(one.split())).ids for one in texts]
        return torch.cat([run_text(np.array([row], dtype=np.int32)) for row in rows])

    # How Immich prepares pictures is not compared: its square crop may lie one pixel off ours, which is no error.
    return Consumer(lambda pixels: torch.cat([run_image(one[None].numpy()) for one in pixels]), text)


def _write(place: Path, content: dict[str, Any]) -> None:
    place.write_text(json.dumps(content, indent=2) + "\n")
