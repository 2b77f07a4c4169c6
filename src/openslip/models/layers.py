"""The layers of a tower, numbered from its input. Freezing and layer-wise learning rates go by these numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import VisionTransformer
from timm.models._manipulate import group_with_matcher
from torch import nn

_END = "~"
"""A name that no tower has. It is grouped with the parameters after the last block."""


@dataclass(frozen=True)
class Layers:
    """The layer of each parameter of a tower.

    of: name of the parameter → 0 for embeddings (or a convolutional stem), 1 to `depth` for the blocks, `depth` + 1 for
    the parameters after the last block: final norm, pooling. A convolutional tower may have none there.
    """

    of: Mapping[str, int]
    depth: int


def layers_of(tower: nn.Module) -> Layers | None:
    """Return the layers of a tower, None if they are not known.

    The layers come from the `group_matcher` of the tower, or of the timm model in it (timm's protocol, block by block).
    The final norm of a vision transformer is a separate layer, as in BEiT; timm counts it to the last block.
    """
    found = next(((n, m) for n, m in tower.named_modules() if hasattr(m, "group_matcher")), None)
    if found is None:
        return None
    prefix, module = found
    matcher: Any = module.group_matcher
    named = [*((name, None) for name, _ in module.named_parameters()), (_END, None)]
    layers: dict[str, int] = group_with_matcher(iter(named), matcher(coarse=False), reverse=True)  # type: ignore[assignment]
    last = layers.pop(_END)
    if isinstance(module, VisionTransformer):
        layers = {name: last if name.startswith("norm.") else layer for name, layer in layers.items()}
    before = f"{prefix}." if prefix else ""
    numbered = {f"{before}{name}": layer for name, layer in layers.items()}
    return Layers({name: numbered.get(name, last) for name, _ in tower.named_parameters()}, last - 1)
