"""Export to ONNX: a graph of each tower, and what programs without torch and slip need beside the graphs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, get_args

from openslip.encoder import Encoder
from openslip.errors import ConfigError, ExportError, did_you_mean
from openslip.exports import graphs
from openslip.exports.plan import Plan
from openslip.exports.tokenizer_files import TEXTS, TOKENIZER, tokenizer_json
from openslip.models.weights import Pretrained

VERSION = 1
"""Version of the settings."""
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest differences of numbers, for vectors of length 1. Exports reach about 1e-7 and 1e-3."""
HALF = "weights and arithmetic are in half precision, so embeddings differ in the third digit"
NEEDED = ("onnx", "onnxscript", "onnxruntime", "tokenizers")
Layout = Literal["plain", "immich", "rclip"]


def plan(encoder: Encoder, source: Pretrained, *, fp16: bool = False, layout: Layout = "plain") -> Plan:
    """Return how the model is written as ONNX graphs.

    fp16: weights and arithmetic in half precision; pixels and embeddings stay float32. layout: files and names as a
    program expects them: `immich` for the machine learning server of Immich, `rclip` for the data folder of rclip.

    Raises ExportError if a program cannot use the model, or a library is missing; ConfigError for another layout.
    """
    if layout not in get_args(Layout):
        raise ConfigError(
            "There is no such layout", got=layout, fix=did_you_mean(str(layout), get_args(Layout))
        )
    check_libraries()
    laid_out: Any = importlib.import_module(f"openslip.exports.onnx_{layout}")
    files: graphs.Files = laid_out.FILES
    tokenizer = None if encoder.model.text_tower is None else tokenizer_json(encoder)
    laid_out.check(encoder, tokenizer)
    precision = "fp16" if fp16 else "fp32"
    settings = described(encoder, source, files, precision, TOKENIZER if tokenizer else None)

    def write(place: Path) -> None:
        place.mkdir()
        model = graphs.in_precision(encoder.model, fp16)
        graphs.write_images(model, encoder, place, files)
        if model.text_tower is not None:
            graphs.write_texts(model, encoder, place, files)
        laid_out.write(place, encoder, settings, tokenizer)

    return Plan(
        write,
        lambda place: laid_out.load(place, encoder),
        nbytes=sum(value.numel() for value in encoder.model.state_dict().values()) * (2 if fp16 else 4),
        library="onnxruntime",
        majors=(1,),
        usage=laid_out.usage(encoder, tokenizer),
        notes=(*laid_out.notes(encoder, tokenizer), *([HALF] if fp16 else [])),
        texts=TEXTS,
        tolerance=TOLERANCES[precision],
    )


def check_libraries() -> None:
    for library in NEEDED:
        try:
            importlib.import_module(library)
        except ImportError:
            raise ExportError(
                f"{library} is not installed, and no ONNX graph can be written and tried without it",
                fix="Run `pip install 'openslip[onnx]'`",
            ) from None


def described(
    encoder: Encoder,
    source: Pretrained,
    files: graphs.Files,
    precision: str,
    tokenizer: str | None,
    form: str = "openslip-onnx",
) -> dict[str, Any]:
    """Return what a program must know to use the graphs."""
    views, text, model = encoder.config.views, encoder.config.model.text, encoder.model
    dim = model.image_tower.width if model.image_projection is None else model.image_projection.shape[1]
    settings: dict[str, Any] = {
        "format": form,
        "version": VERSION,
        "precision": precision,
        "embedding": {
            "dim": dim,
            "length": 1,
            "of": "image tower alone" if model.text_tower is None else "images and texts",
        },
        "image": {
            "file": files.image,
            "input": files.pixels,
            "output": files.output,
            "size": views.size,
            "fit": views.fit,
            "interpolation": views.interpolation,
            "mean": list(views.mean),
            "std": list(views.std),
        },
    }
    if model.text_tower is None:
        return settings
    own = encoder.tokenizer
    settings["text"] = {
        "file": files.text,
        "input": files.ids,
        "output": files.output,
        "context": text.context,
        "filled_up": text.padded,
        "padding": getattr(own, "pad", 0),
        "start": own.start,
        "end": own.end,
        "truncation": text.truncation,
        "tokenizer": tokenizer,
    }
    settings["logit_scale"] = encoder.logit_scale
    bias = source.weights.get("objective.siglip.bias")
    if bias is not None:
        settings["logit_bias"] = float(bias)
    return settings
