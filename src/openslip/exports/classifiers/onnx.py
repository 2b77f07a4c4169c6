"""Export a classifier to ONNX: one graph from prepared pixels to probabilities, and what programs need beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from openslip.classifier import FinetunedClassifier
from openslip.exports.graphs import Files, in_precision, runner, write_graph
from openslip.exports.onnx import HALF, TOLERANCES, VERSION, check_libraries
from openslip.exports.onnx_plain import RUN, SETTINGS, pixels, prepared
from openslip.exports.plan import Consumer, Plan

FILES = Files("image.onnx", "", "pixels", "", "probabilities")


def plan(classifier: FinetunedClassifier, *, fp16: bool = False) -> Plan:
    """Return how the classifier is written as an ONNX graph.

    fp16: weights and arithmetic in half precision; pixels and probabilities stay float32. Raises ExportError if a
    library is missing.
    """
    check_libraries()
    precision = "fp16" if fp16 else "fp32"
    settings = _settings(classifier, precision)

    def write(place: Path) -> None:
        place.mkdir()
        module = in_precision(classifier.module, fp16)
        graph = _Probabilities(module, torch.float16 if fp16 else torch.float32)
        size = classifier.model.size
        # Two pictures: torch takes the size of a batch of one for a constant.
        write_graph(
            graph,
            torch.zeros(2, 3, size, size),
            {0: Dim("batch")},
            place / FILES.image,
            FILES.pixels,
            FILES.output,
            "classifier",
        )
        (place / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    return Plan(
        write,
        _load,
        nbytes=sum(value.numel() for value in classifier.module.state_dict().values()) * (2 if fp16 else 4),
        library="onnxruntime",
        majors=(1,),
        usage=_usage(classifier),
        notes=(HALF.replace("embeddings", "probabilities"),) if fp16 else (),
        gives="probabilities",
        tolerance=TOLERANCES[precision],
    )


class _Probabilities(nn.Module):
    """Pixels (N, 3, S, S) float32 → probabilities (N, C) float32."""

    def __init__(self, classifier: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.classifier, self.dtype = classifier, dtype

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(pixels.to(self.dtype)).softmax(dim=-1)


def _settings(classifier: FinetunedClassifier, precision: str) -> dict[str, Any]:
    """Return what a program must know to use the graph."""
    views, recipe = classifier.model.config.views, classifier.recipe
    crop = 1.0 if views.fit == "squash" else recipe.crop
    return {
        "format": "openslip-onnx",
        "version": VERSION,
        "precision": precision,
        "names": list(classifier.names),
        "image": {
            "file": FILES.image,
            "input": FILES.pixels,
            "output": FILES.output,
            "size": views.size,
            "resize": math.floor(views.size / crop),
            "fit": views.fit,
            "interpolation": recipe.interpolation,
            "mean": list(views.mean),
            "std": list(views.std),
        },
    }


def _usage(classifier: FinetunedClassifier) -> str:
    """Return lines that classify a `picture`, without torch and without slip."""
    lines = pixels("onnxruntime", classifier.model.config.views.fit)
    lines = lines.replace("[size *", '[about["resize"] *') + RUN.format(output="probabilities")
    return f'{lines}\nnames = json.load(open("PLACE/{SETTINGS}"))["names"]\nprint(names[probabilities[0].argmax()])'


def _load(place: Path) -> Consumer:
    image = json.loads((place / SETTINGS).read_text())["image"]
    run = runner(place / image["file"], image["input"])

    def pictures(ready: Tensor) -> Tensor:
        return torch.cat([run(ready[:1].numpy()), run(ready[1:].numpy())])

    return Consumer(pictures, picture=lambda one: prepared(image, one))
