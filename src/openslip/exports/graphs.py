"""The towers as graphs, ONNX's or torch's own: preprocessed pixels or token ids in, embeddings of length 1 out."""

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
"""ONNX 1.13's opset (2022), the oldest that torch's exporter writes without converting. Most programs read it."""
ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""What torch notes at the nodes of its graphs: lines of source, and paths on this machine."""
LARGEST_FILE = 1_800_000_000
"""Up to this many bytes, weights stay in the graph's file, which protobuf limits to 2 GB; else `NAME.data` has them."""


@dataclass(frozen=True)
class Files:
    """The files of the graphs, the names of their inputs and outputs, and the shapes that they take.

    dtype: of the token ids. alone: a graph takes one picture or text at a time, else any number. whole: texts are
    filled up to the context, else they have any length up to the context.
    """

    image: str
    text: str
    pixels: str
    ids: str
    output: str
    dtype: torch.dtype = torch.int64
    alone: bool = False
    whole: bool = False


Writer = Callable[[nn.Module, Tensor, dict[int, Any], Path, str, str, str], None]
"""Writes a module of one input. Arguments: the module, an example, the sizes that vary, the file, the names of input
and output, and what messages call the module."""
Module = TypeVar("Module", bound=nn.Module)


class _Images(nn.Module):
    """Pixels (N, 3, S, S) float32 → embeddings (N, D) float32 of length 1."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = _without(model, "text"), dtype

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels.to(self.dtype)).float(), dim=-1)


class _Texts(nn.Module):
    """Token ids (N, L) → embeddings (N, D) float32 of length 1.

    A text may be filled up with zeros or, as transformers does, with the token that ends texts. As in
    `Encoder.encode_text`, only the first of several end tokens in a row counts.
    """

    def __init__(self, model: Model, tower: TextTower) -> None:
        super().__init__()
        self.model, self.end = _without(model, "image"), None if tower.pool == "last" else tower.end

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids.long()
        if self.end is not None:
            ends = ids == self.end
            before = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)[:, :-1]
            ids = ids.masked_fill(ends & before, 0)
        return F.normalize(self.model.encode_text(ids).float(), dim=-1)


def _without(model: Model, kind: str) -> Model:
    """Return a model without one tower, its projection and the logit scale. The weights are shared, not copied."""
    part = copy.copy(model)
    for name in ("_modules", "_parameters"):
        held = getattr(model, name)
        left = {key: None if key.startswith((kind, "logit")) else value for key, value in held.items()}
        object.__setattr__(part, name, left)
    return part


def in_precision(model: Module, fp16: bool) -> Module:
    """Return the model itself, or a copy whose weights and arithmetic are in half precision."""
    return copy.deepcopy(model).half() if fp16 else model


def write_images(
    model: Model, encoder: Encoder, place: Path, files: Files, write: Writer | None = None
) -> None:
    """Write the image tower with its projection to a folder.

    model: as `in_precision` gives it. write: `write_graph` for ONNX, the default, or `write_program`.
    Raises ExportError if torch cannot make a graph of the tower.
    """
    dtype = next(model.image_tower.parameters()).dtype
    # A size that varies must not be 1 in the example: torch takes ones for constants.
    pixels = torch.zeros(1 if files.alone else 2, 3, encoder.size, encoder.size)
    shapes = {} if files.alone else {0: Dim("batch")}
    called = f"image tower '{encoder.config.model.image.name}'"
    write = write or write_graph
    write(_Images(model, dtype), pixels, shapes, place / files.image, files.pixels, files.output, called)


def write_texts(
    model: Model, encoder: Encoder, place: Path, files: Files, write: Writer | None = None
) -> None:
    """Write the text tower with its projection to a folder; arguments and errors of `write_images`.

    The graph of a tower that is `padded` takes texts that are filled up to the context, whatever `files` says.
    """
    tower = cast(TextTower, model.text_tower)
    whole = files.whole or tower.padded
    ids = torch.zeros(1 if files.alone else 2, tower.context if whole else 3, dtype=files.dtype)
    ids[:, -1] = tower.end
    shapes: dict[int, Any] = {} if files.alone else {0: Dim("batch")}
    if not whole:
        shapes[1] = Dim("length", max=tower.context)
    write = write or write_graph
    write(_Texts(model, tower), ids, shapes, place / files.text, files.ids, files.output, "text tower")


def write_graph(
    module: nn.Module,
    example: Tensor,
    shapes: dict[int, Any],
    place: Path,
    given: str,
    output: str,
    called: str,
) -> None:
    """Write a module of one input as an ONNX graph. Raises ExportError if torch cannot, or if a size cannot vary."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _told(called):
        # In two calls: torch.onnx alone would fall back to graphs of fixed sizes, without a message.
        graph = _exported(module, example, shapes)
        program: Any = torch.onnx.export(graph, dynamo=True, opset_version=OPSET, verbose=False)
    _forget_origins(program.model)
    _name(program.model, given, output)
    program.save(place, external_data=_size(program.model) > LARGEST_FILE)


def write_program(
    module: nn.Module,
    example: Tensor,
    shapes: dict[int, Any],
    place: Path,
    given: str,
    output: str,
    called: str,
) -> None:
    """Write a module of one input as a program for `torch.export.load`; arguments and errors of `write_graph`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _told(called):
        program = _exported(module, example, shapes)
        for part in program.graph_module.modules():
            for node in getattr(getattr(part, "graph", None), "nodes", ()):
                for noted in ORIGINS:
                    node.meta.pop(noted, None)
        torch.export.save(program, place)


def _exported(module: nn.Module, example: Tensor, shapes: dict[int, Any]) -> torch.export.ExportedProgram:
    """Return a module of one input as torch's graph."""
    return torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,), strict=False)


@contextmanager
def _told(called: str) -> Iterator[None]:
    """Turn what torch raises into an ExportError. Within, nothing is printed, and no gradients are computed."""
    try:
        with torch.no_grad(), _quiet():
            yield
    except (KeyboardInterrupt, MemoryError, OSError):
        raise
    except Exception as error:  # torch's, onnxscript's and those of the tower's own code have no common base
        lines = [line.strip() for line in str(error).strip().splitlines()[:3]]
        raise ExportError(
            f"torch cannot make a graph of the model's {called}",
            cause=f"{type(error).__name__}: {' '.join(lines):.400}",
            fix="Export the model with --to open_clip, timm or huggingface, and please report it",
        ) from error


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
    """Name the input and the output. Inner values with these names are renamed, which torch does not do itself."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.name in (given, output):
                value.name = f"inner_{value.name}"
    model.graph.inputs[0].name, model.graph.outputs[0].name = given, output


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about what it does not simplify."""
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
    """Return a function that runs a graph with onnxruntime, on the CPU: the input of this name → the output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(os.fspath(place), options, providers=["CPUExecutionProvider"])
    return lambda values: torch.from_numpy(session.run(None, {name: values})[0])
