"""Export to programs of `torch.export`: one for each tower, for Python or C++ with torch and without our code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openslip.encoder import Encoder
from openslip.errors import ExportError
from openslip.exports import graphs, onnx_plain
from openslip.exports.onnx import described
from openslip.exports.plan import Consumer, Plan
from openslip.exports.tokenizer_files import TEXTS, TOKENIZER, tokenizer_json
from openslip.models.weights import Pretrained

FILES = graphs.Files("image.pt2", "text.pt2", "pixels", "ids", "embeddings")
UNTRUSTED = (
    "torch.export.load uses pickle, so load only what you trust; other versions of torch may not read it"
)
RUN = """image = torch.export.load("PLACE/image.pt2").module()(torch.from_numpy(pixels))"""
TEXT = """text = torch.export.load("PLACE/text.pt2").module()(torch.from_numpy(ids))
print(image @ text.T)"""


def plan(encoder: Encoder, source: Pretrained) -> Plan:
    """Return how the model is written as programs of `torch.export`. Raises ExportError if a library is missing."""
    texts = encoder.model.text_tower is not None
    if texts:
        _check_libraries()
    tokenizer = tokenizer_json(encoder) if texts else None
    name = TOKENIZER if tokenizer else None
    settings = described(encoder, source, FILES, "fp32", name, "openslip-torch-export")

    def write(place: Path) -> None:
        place.mkdir()
        graphs.write_images(encoder.model, encoder, place, FILES, graphs.write_program)
        if texts:
            graphs.write_texts(encoder.model, encoder, place, FILES, graphs.write_program)
        onnx_plain.write(place, encoder, settings, tokenizer)

    return Plan(
        write,
        lambda place: _load(place, encoder),
        nbytes=sum(value.nbytes for value in encoder.model.state_dict().values()),
        library="torch",
        majors=(2,),
        usage=onnx_plain.pixels("torch", encoder.config.views.fit)
        + RUN
        + (onnx_plain.ids(encoder, tokenizer) + TEXT if tokenizer is not None else ""),
        notes=(
            *(line.replace("image.onnx", FILES.image) for line in onnx_plain.notes(encoder, tokenizer)),
            UNTRUSTED,
        ),
        texts=TEXTS,
    )


def _check_libraries() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise ExportError(
            "tokenizers is not installed, and the model's tokenizer cannot be written without it",
            fix="Run `pip install 'openslip[transformers]'`",
        ) from None


def _load(place: Path, encoder: Encoder) -> Consumer:
    """Read the folder from its own files alone. Without a tokenizer.json, the model's tokenizer gives the ids."""
    settings = json.loads((place / onnx_plain.SETTINGS).read_text())
    image = settings["image"]
    run_image = _runner(place / image["file"])

    def pictures(pixels: Tensor) -> Tensor:
        return torch.cat([run_image(pixels[:1]), run_image(pixels[1:])])

    text = None
    if "text" in settings:
        run_text, ids = _runner(place / settings["text"]["file"]), onnx_plain.ids_of(place, settings, encoder)

        def text(texts: list[str]) -> Tensor:
            # The first text goes alone, so that batch and length differ from the example the program was made from.
            parts = [run_text(torch.from_numpy(ids(part))) for part in (texts[:1], texts[1:])]
            return torch.cat(parts)

    return Consumer(pictures, text, lambda one: onnx_plain.prepared(image, one))


def _runner(place: Path) -> Any:
    return torch.export.load(place).module()
