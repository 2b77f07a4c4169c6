"""The towers as ONNX graphs: preprocessed pixels or token ids in, embeddings of length 1 out."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from openslip.encoder import Encoder
from openslip.errors import ExportError
from openslip.models import Model
from openslip.models.text import TextTower

OPSET = 18
"""Of ONNX 1.13 (2022): the oldest that torch's exporter writes without converting, so that most programs read it."""
LARGEST_FILE = 1_800_000_000
"""Bytes of weights that stay in the graph's file, which protobuf lets have 2 GB; others lie beside, in `NAME.data`."""


@dataclass(frozen=True)
class Files:
    """Where the graphs lie, what their inputs and outputs are called, and what shapes they take.

    dtype: of the token ids. alone: a graph takes one picture or text at a time, else any number. whole: texts are
    filled up to the context, else they have any length up to that.
    """

    image: str
    text: str
    pixels: str
    ids: str
    output: str
    dtype: torch.dtype = torch.int64
    alone: bool = False
    whole: bool = False


Module = TypeVar("Module", bound=nn.Module)


class _Images(nn.Module):
    """Pixels (N, 3, S, S) float32 → embeddings (N, D) float32 of length 1."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels.to(self.dtype)).float(), dim=-1)


class _Texts(nn.Module):
    """Token ids (N, L) → embeddings (N, D) float32 of length 1.

    A row may be filled up with the token that ends texts, as transformers does, or with zeros: as in
    `Encoder.encode_text`, only the first of several ends in a row counts.
    """

    def __init__(self, model: Model, tower: TextTower) -> None:
        super().__init__()
        self.model, self.end = model, None if tower.pool == "last" else tower.end

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids.long()
        if self.end is not None:
            ends = ids == self.end
            before = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)[:, :-1]
            ids = ids.masked_fill(ends & before, 0)
        return F.normalize(self.model.encode_text(ids).float(), dim=-1)


def in_precision(model: Module, fp16: bool) -> Module:
    """Return the model itself, or a copy whose weights and arithmetic are in half precision."""
    return copy.deepcopy(model).half() if fp16 else model


def write_images(model: Model, encoder: Encoder, place: Path, files: Files) -> None:
    """Write the image tower with its projection to a folder.

    model: as `in_precision` gives it. Raises ExportError where torch cannot make a graph of the tower.
    """
    dtype = next(model.image_tower.parameters()).dtype
    # No size of an example may be 1 where it is to vary: torch takes ones for constants.
    pixels = torch.zeros(1 if files.alone else 2, 3, encoder.size, encoder.size)
    shapes = {} if files.alone else {0: Dim("batch")}
    called = f"image tower '{encoder.config.model.image.name}'"
    write_graph(
        _Images(model, dtype), pixels, shapes, place / files.image, files.pixels, files.output, called
    )


def write_texts(model: Model, encoder: Encoder, place: Path, files: Files) -> None:
    """Write the text tower with its projection to a folder; arguments and errors of `write_images`.

    The graph of a tower that is `padded` takes texts that are filled up to the context, whatever the files say.
    """
    tower = cast(TextTower, model.text_tower)
    whole = files.whole or tower.padded
    ids = torch.zeros(1 if files.alone else 2, tower.context if whole else 3, dtype=files.dtype)
    ids[:, -1] = tower.end
    shapes: dict[int, Any] = {} if files.alone else {0: Dim("batch")}
    if not whole:
        shapes[1] = Dim("length", max=tower.context)
    write_graph(_Texts(model, tower), ids, shapes, place / files.text, files.ids, files.output, "text tower")


def write_graph(
    module: nn.Module,
    example: Tensor,
    shapes: dict[int, Any],
    place: Path,
    given: str,
    output: str,
    called: str,
) -> None:
    """Write a module of one input as a graph. Raises ExportError where torch cannot, or a size cannot vary."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with torch.no_grad(), _quiet():
            # Not in one call: torch.onnx would fall back to graphs whose sizes are fixed, without a word.
            graph = torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,), strict=False)
            program: Any = torch.onnx.export(graph, dynamo=True, opset_version=OPSET, verbose=False)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # torch's, onnxscript's and those of the tower's own code have no common base
        lines = [line.strip() for line in str(error).strip().splitlines()[:3]]
        raise ExportError(
            f"torch cannot make an ONNX graph of the model's {called}",
            cause=f"{type(error).__name__}: {' '.join(lines):.400}",
            fix="Export it with --to open_clip, timm or huggingface; and please report the model",
        ) from error
    _forget_origins(program.model)
    _name(program.model, given, output)
    program.save(place, external_data=_size(program.model) > LARGEST_FILE)


def _size(model: Any) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def _forget_origins(model: Any) -> None:
    """Drop the lines of source and the paths on this machine that torch notes at every node."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for part in (model, model.graph, *model.graph.inputs, *model.graph.initializers.values()):
        part.metadata_props.clear()
    for node in RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _name(model: Any, given: str, output: str) -> None:
    """Name the input and the output; what is called so within the graph gets another name, as torch does not see to."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.name in (given, output):
                value.name = f"inner_{value.name}"
    model.graph.inputs[0].name, model.graph.outputs[0].name = given, output


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from telling what it does not simplify."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def runner(place: Path, name: str) -> Callable[[np.ndarray], Tensor]:
    """Return a function that runs a graph by onnxruntime, on the CPU: its input of this name → its output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(os.fspath(place), options, providers=["CPUExecutionProvider"])
    return lambda values: torch.from_numpy(session.run(None, {name: values})[0])
