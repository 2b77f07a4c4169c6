"""ONNX graphs as rclip finds them in its data folder (its rclip/model_download.py and rclip/model.py)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openslip.data.tokenizer import open_clip_tokenizer
from openslip.encoder import Encoder
from openslip.exports.graphs import Files, runner
from openslip.exports.onnx_plain import prepared
from openslip.exports.plan import Consumer, cannot

FOLDER = "ViT-B-32-256-datacomp_s34b_b86k"
"""The folder of the one model that rclip reads."""
VOCABULARY = "tokenizer/bpe_simple_vocab_16e6.txt.gz"
"""CLIP's vocabulary. rclip downloads it if it is missing."""
FILES = Files(f"{FOLDER}/visual.onnx", f"{FOLDER}/textual.onnx", "input", "input", "output", whole=True)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
USAGE = """# In a shell, in the folder of your pictures. If the path does not exist, rclip downloads its own model:
# RCLIP_DATADIR=PLACE rclip "a red bicycle"
# On macOS, set RCLIP_USE_ONNX_ON_MACOS=1 as well."""


def notes(encoder: Encoder, tokenizer: Any) -> list[str]:
    """Return what users should know about the folder."""
    return [
        "rclip keeps the embeddings of pictures in its data folder, so delete embeddings of another model there",
        "at its first start, rclip 4 puts its own model's licences into the folder, and a README.md over the card",
    ]


def usage(encoder: Encoder, tokenizer: Any) -> str:
    """Return what to do with the folder."""
    return USAGE


def check(encoder: Encoder, tokenizer: Any) -> None:
    """Raise ExportError if the model differs from what rclip has in its code."""
    if encoder.model.text_tower is None:
        raise cannot("onnx", "rclip searches by text, and the model has no text tower", "Use --layout plain")
    views, model = encoder.config.views, encoder.config.model
    fixed = [
        ("views.size", views.size, 256),
        ("views.fit", views.fit, "crop"),
        ("views.interpolation", views.interpolation, "bicubic"),
        ("views.mean", _rounded(views.mean), _rounded(MEAN)),
        ("views.std", _rounded(views.std), _rounded(STD)),
        ("model.embed_dim", model.embed_dim, 512),
        ("model.text.context", model.text.context, 77),
        ("model.text.truncation", model.text.truncation, "keep-end"),
        ("model.text.tokenizer", model.text.tokenizer, 0),
    ]
    other = [f"{name} {own} (rclip: {theirs})" for name, own, theirs in fixed if own != theirs]
    if other:
        raise cannot(
            "onnx",
            f"rclip prepares pictures and texts in one way, but the model needs {', '.join(other)}",
            "Use --layout plain; a model that starts from open_clip:ViT-B-32-256/datacomp_s34b_b86k fits rclip",
        )


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def write(place: Path, encoder: Encoder, settings: dict[str, Any], tokenizer: Any) -> None:
    """Write CLIP's vocabulary, as open_clip has it. rclip has the rest in its code."""
    (place / VOCABULARY).parent.mkdir()
    shutil.copyfile(open_clip_tokenizer().default_bpe(), place / VOCABULARY)


def load(place: Path, encoder: Encoder) -> Consumer:
    """Read the folder as rclip does. rclip's tokenizer is open_clip's, like ours."""
    run_image = runner(place / FILES.image, FILES.pixels)
    run_text = runner(place / FILES.text, FILES.ids)
    image = {"size": 256, "fit": "crop", "interpolation": "bicubic", "mean": MEAN, "std": STD}

    def text(texts: list[str]) -> Tensor:
        rows = encoder.tokenize(texts).numpy()
        return run_text(np.pad(rows, ((0, 0), (0, 77 - rows.shape[1]))))

    return Consumer(lambda pixels: run_image(pixels.numpy()), text, lambda one: prepared(image, one))
