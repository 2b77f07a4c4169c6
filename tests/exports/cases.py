"""What each format makes of models, as docs/export.md lists it, exported once for all tests that ask.

Each case is a small model with random weights. `EXAMPLES` says where the docs show how a format's library loads it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import openslip
from exports.models import MODELS, model_of, saved
from interop.public import CASES as PUBLIC
from openslip import recipes
from openslip.exports import Exported, export, onnx_rclip
from openslip.exports.plan import TEXTS

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_FOLDER = tempfile.TemporaryDirectory(prefix="openslip-exports-")


def _public(library: str, architecture: str) -> Callable[[Path], str]:
    """Return what writes a model of a library, as interop.public has it, and returns its spec."""
    (case,) = [one for one in PUBLIC if (one.library, one.architecture) == (library, architecture)]
    return lambda folder: case.make(folder).spec


def _rclip() -> Any:
    """Return the configuration of a small model that rclip takes."""
    config = model_of(
        image={"patch": 64},
        text={"context": 77},
        interpolation="bicubic",
        mean=onnx_rclip.MEAN,
        std=onnx_rclip.STD,
    )
    return replace(config, views=replace(config.views, size=256), model=replace(config.model, embed_dim=512))


WRITERS: dict[str, Callable[[Path], str | Path]] = {
    **{name: partial(saved, config) for name, config in MODELS.items()},
    "rclip": partial(saved, _rclip()),
    "vit-s": partial(saved, recipes.get("slip-vit-s16-yfcc15m")),
    "siglip of open_clip": _public("open_clip", "SigLIP: attention pooling, tokenizer of its own"),
    "siglip of transformers": _public("transformers", "SiglipModel"),
}
"""What writes a model to a folder and returns where it is, by a name of ours."""


@dataclass(frozen=True)
class Example:
    """Where the docs' example of a format has the model, and what its lines call the embeddings.

    install: the distributions that the example needs.
    """

    place: str
    install: tuple[str, ...]
    image: str = "image"
    text: str = "text"


EXAMPLES = {
    "open_clip": Example("mine-open-clip", ("open_clip_torch",)),
    "timm": Example("mine-timm", ("timm",), "features", ""),
    "huggingface": Example(
        "mine-transformers",
        ("transformers", "torch", "torchvision", "pillow"),
        "outputs.image_embeds",
        "outputs.text_embeds",
    ),
    "openslip": Example("mine-openslip", ("openslip",)),
    "reference": Example("mine.pt", ("torch",), "", ""),
    "onnx": Example("mine-onnx", ("onnxruntime", "tokenizers", "numpy", "pillow")),
    "torch_export": Example("mine-torch", ("torch", "tokenizers", "numpy", "pillow")),
}


@dataclass(frozen=True)
class Case:
    """A format, what a model becomes there, and the model that is tried (one of `WRITERS`).

    options: of the format. besides: distributions that this kind of model needs besides those of the example; instead:
    others, in their place; none where the program is no distribution.
    changed: what the docs tell to write otherwise in the example. tolerance: of numbers of vectors of length 1.
    slow: takes some seconds, and no other quick test has it.
    """

    to: str
    becomes: str
    model: str
    options: tuple[tuple[str, Any], ...] = ()
    besides: tuple[str, ...] = ()
    instead: tuple[str, ...] | None = None
    changed: tuple[str, str] = ("", "")
    tolerance: float = 1e-5
    slow: bool = False

    @property
    def library(self) -> str:
        """The distribution that reads it."""
        return {"reference": "torch"}.get(self.to, EXAMPLES[self.to].install[0])

    @property
    def install(self) -> tuple[str, ...]:
        """The distributions that an environment gets for the example."""
        return (*EXAMPLES[self.to].install, *self.besides) if self.instead is None else self.instead


CASES = (
    Case("open_clip", "open_clip's vision transformer", "gelu"),
    Case("open_clip", "a tower of timm", "timm"),
    Case(
        "open_clip",
        "a tokenizer of its own (SigLIP, CLIPA)",
        "siglip of open_clip",
        besides=("transformers",),
    ),
    Case("huggingface", "CLIPModel", "clip"),
    Case(
        "huggingface",
        "SiglipModel",
        "siglip of transformers",
        changed=("padding=True", 'padding="max_length"'),
    ),
    Case("huggingface", "VisionTextDualEncoderModel, Dinov2Model", "plain"),
    Case("huggingface", "VisionTextDualEncoderModel, a tower of timm", "timm", besides=("timm",)),
    Case("timm", "timm's vision transformer with other numbers", "plain"),
    Case("timm", "a tower by its name", "timm"),
    Case("onnx", "graphs", "plain", tolerance=1e-4),
    Case("onnx", "graphs, `--fp16`", "plain", (("fp16", True),), tolerance=1e-2, slow=True),
    Case(
        "onnx", "graphs, `--layout immich`", "squashed", (("layout", "immich"),), instead=(), tolerance=1e-4
    ),
    Case(
        "onnx",
        "graphs, `--layout rclip`",
        "rclip",
        (("layout", "rclip"),),
        instead=("rclip",),
        tolerance=1e-4,
        slow=True,
    ),
    Case("torch_export", "programs", "plain"),
    Case("openslip", "one file", "plain"),
    Case("reference", "the paper's ViT-S, -B or -L", "vit-s", slow=True),
)
"""What models leave as."""


@functools.cache
def exported(model: str, to: str, **options: Any) -> tuple[str | Path, Exported]:
    """Return where a model of `WRITERS` is, and its export, beside which there is nothing else in the folder."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    (folder / "model").mkdir()
    (folder / "out").mkdir()
    written = WRITERS[model](folder / "model")
    return written, export(
        written, to, folder / "out" / ("there.pt" if to == "reference" else "there"), **options
    )


def farthest(done: Exported) -> float:
    """Return the larger difference of an export's images and of its texts."""
    assert done.trial.text is not None
    return max(done.trial.image, done.trial.text)


@dataclass(frozen=True)
class Measured:
    """The largest differences of vectors of length 1: in the library, and read back by openslip (None: it does not)."""

    library: str
    out: float
    again: float | None


@functools.cache
def measured(case: Case) -> Measured:
    """Return how far a model is from itself in the format's library, and when it has come back."""
    model, done = exported(case.model, case.to, **dict(case.options))
    out = max(done.trial.image, done.trial.text or 0.0)
    if case.to in ("onnx", "torch_export"):
        return Measured(done.trial.library, out, None)
    ours, back = openslip.load(model), openslip.load(done.place)
    pictures = torch.randn(3, 3, ours.size, ours.size, generator=torch.Generator().manual_seed(0))
    if case.to == "timm":
        pairs = [(back.image_features(pictures), ours.image_features(pictures))]
    else:
        pairs = [
            (back.encode_image(pictures), ours.encode_image(pictures)),
            (back.encode_text(TEXTS), ours.encode_text(TEXTS)),
        ]
    unit = torch.nn.functional.normalize
    again = max(float((unit(theirs, dim=-1) - unit(own, dim=-1)).abs().max()) for theirs, own in pairs)
    return Measured(done.trial.library, out, again)
