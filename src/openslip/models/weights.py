"""A model as read from a weight file: the result of every reader of a format, and the start of training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openslip.config import Config


@dataclass(frozen=True)
class Origin:
    """The origin of weights, for messages and run folders."""

    spec: str
    """The spec that the user gave: a path, `open_clip:NAME/TAG`, `hf:owner/name`."""
    format: str
    """The writer of the weights, for people: `a run`, `openslip` (a file of ours), `a released SLIP checkpoint`,
    `open_clip`, `transformers`, `timm`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file that was read, by its path or address."""


@dataclass(frozen=True)
class Pretrained:
    """A trained model: configuration and weights.

    config: `model`, and the preprocessing in `views` (`size`, `mean`, `std`, `interpolation`, `fit`). Values that the
    weights do not tell are defaults.
    weights: tensors in fp32 under the names of our checkpoints: those of `openslip.models.Model`
    (`image_tower.trunk.…`, `text_tower.…`, `image_projection`, `text_projection`, `logit_scale`), and of objectives
    (`objective.NAME.…`), as far as the file has them. A file may lack whole parts, such as a text tower.
    unused: entries of the file that are no part of our model, each with the reason.
    notes: sentences that people should read.
    """

    config: Config
    weights: Mapping[str, Tensor]
    origin: Origin
    unused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower among the weights."""
        return any(name.startswith("text_tower.") for name in self.weights)

    @property
    def shared_space(self) -> bool:
        """Whether images and texts have embeddings in one space."""
        return self.has_text


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold an infinity or NaN."""
    return [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]


def digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights and buffers, with their names, shapes and types.

    If the tensors are spread over processes, all processes must call this function.
    """
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        found.update(f"{name} {tuple(whole.shape)} {whole.dtype}".encode())
        found.update(whole.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
