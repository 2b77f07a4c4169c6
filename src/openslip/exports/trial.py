"""Try an exported model: compare its library's results with ours, for the same pictures and texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from openslip.encoder import Encoder
from openslip.errors import ExportError
from openslip.exports.plan import Plan, version_of

CLASSES = ("logits", "probabilities")
"""What the plans of classifiers give."""
LEVELS = 4.0
"""Grey levels, of 255, by which another library's resizing may differ at most: the library may round in between."""


@dataclass(frozen=True)
class Trial:
    """The largest differences found (`Plan.tolerance`). picture: in grey levels. None: there is no such thing."""

    library: str
    image: float
    text: float | None
    picture: float | None
    of: str = "images"

    def described(self) -> str:
        """Return in words what was found."""
        parts = [f"{self.of} {_within(self.image)}"]
        parts += [f"texts {_within(self.text)}"] if self.text is not None else []
        if self.picture is not None:
            levels = f"within {self.picture:.2g} grey levels" if self.picture > 0.01 else "equal"
            parts.append(f"prepared pictures {levels}")
        return f"as {self.library} computes them, compared with slip: {', '.join(parts)}"


def _within(difference: float) -> str:
    return f"within {difference:.0e}" if difference else "equal"


def try_out(plan: Plan, encoder: Encoder, place: Path) -> Trial:
    """Load the export at `place` with its own library, and compare. Raises ExportError if the results differ."""
    try:
        found = _compared(plan, encoder, place)
    except (OSError, ExportError):
        raise
    except Exception as error:  # the library may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise ExportError(
            "The exported model does not work in its own library, so nothing was written",
            got=f"{plan.library} {version_of(plan.library)}",
            cause=f"{type(error).__name__}: {lines[-1].strip()}",
            fix="Export to another format, and please report the model and the versions",
        ) from error
    apart = [found.image, *([] if found.text is None else [found.text])]
    # Written this way round, the condition also catches NaN.
    if not all(one <= plan.tolerance for one in apart) or (found.picture or 0.0) > LEVELS:
        raise ExportError(
            "The exported model is not the same in its own library, so nothing was written",
            got=found.described(),
            cause="The library, or this version of it, computes something else than slip does",
            fix="Export to another format, and please report the model and the versions",
        )
    return found


@torch.no_grad()
def _compared(plan: Plan, encoder: Encoder, place: Path) -> Trial:
    """Return how far the library's results for pictures and texts are from ours."""
    consumer = plan.load(place)
    pictures, texts = list(_pictures(encoder.size)), list(plan.texts)
    ready = torch.stack([encoder.preprocess(picture) for picture in pictures])
    ours = encoder.encode_image(ready) if plan.gives == "embeddings" else encoder.image_features(ready)
    image = (_of_classes if plan.gives in CLASSES else _apart)(consumer.image(ready), ours, plan.gives)
    text = (
        None
        if consumer.text is None
        else _apart(consumer.text(texts), encoder.encode_text(texts), "embeddings")
    )
    levels = None
    if consumer.picture is not None:
        deviation = torch.tensor(encoder.config.views.std).view(3, 1, 1)
        levels = max(
            float(((consumer.picture(picture) - own) * deviation).abs().max()) * 255
            for picture, own in zip(pictures, ready)
        )
    of = plan.gives if plan.gives in CLASSES else "images"
    return Trial(f"{plan.library} {version_of(plan.library)}", image, text, levels, of)


def _pictures(size: int) -> Iterable[Image.Image]:
    """Yield pictures of several shapes: a smooth shade, a small picture of noise, and a wide one of coarse colours."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 2 * size, dtype=np.uint8)
    shade = np.broadcast_to(ramp[None, :, None], (size + 9, 2 * size, 3)).copy()
    shade[..., 1] = 255 - shade[..., 1]
    yield Image.fromarray(shade)
    yield Image.fromarray(rng.integers(0, 256, (size - size // 4, size, 3), dtype=np.uint8))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    yield coarse.resize((2 * size, size + size // 2), Image.Resampling.BICUBIC)


def _apart(theirs: Tensor, ours: Tensor, what: str) -> float:
    """Return the largest difference of two embeddings (N, D), brought to length 1."""
    theirs = _of_our_shape(theirs, ours, what)
    return float((F.normalize(theirs, dim=-1) - F.normalize(ours.cpu(), dim=-1)).abs().max())


def _of_classes(theirs: Tensor, logits: Tensor, what: str) -> float:
    """Return the largest difference of probabilities (N, C); of logits, as a share of the largest, or of 1 if more."""
    theirs, ours = _of_our_shape(theirs, logits, what), logits.cpu()
    if what == "probabilities":
        return float((theirs - ours.softmax(dim=-1)).abs().max())
    return float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1.0))


def _of_our_shape(theirs: Tensor, ours: Tensor, what: str) -> Tensor:
    """Return what a library gives, in float32 on the CPU. Raises ExportError if its shape is not ours."""
    if theirs.shape == ours.shape:
        return theirs.detach().cpu().float()
    raise ExportError(
        "The exported model is not the same in its own library, so nothing was written",
        got=f"{what} of {tuple(theirs.shape)}, ours {tuple(ours.shape)}",
    )
