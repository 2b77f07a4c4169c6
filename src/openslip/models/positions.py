"""Fit positions of weights to a model of another size: positions of images by interpolation, of texts by cutting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed, resample_abs_pos_embed_nhwc
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from openslip.errors import ConfigError
from openslip.models.model import Model

IMAGE = "image_tower.trunk."
TEXT = "text_tower.positional_embedding"


def fitted(model: Model, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights with positions in the shapes of `model`, and notes on the changes, for people.

    An image tower's position embeddings are resampled to the grid of the model's patches (bicubic, antialiased), and
    tables of relative positions to the model's windows, both by timm's functions. A text tower with a shorter context
    keeps the first positions. If its feature is at the last token, the last token keeps its position too.

    The model may have no weights (`torch.device("meta")`). Entries of other shapes that are not positions, or that timm
    has no function for, come back unchanged. Raises ConfigError if the model's text context is longer than that of the
    weights.
    """
    own = model.state_dict()
    found, notes = dict(weights), []
    for name, tensor in weights.items():
        if name not in own or own[name].shape == tensor.shape:
            continue
        new, note = None, ""
        if name == TEXT:
            new, note = _text(model, tensor, tuple(own[name].shape))
        elif name.startswith(IMAGE) and own[name].ndim == tensor.ndim:
            new, note = _image(model.image_tower.trunk, name.removeprefix(IMAGE), tensor, own[name].shape)
        if new is not None and new.shape == own[name].shape:
            found[name] = new
            notes.append(note)
    return found, list(dict.fromkeys(notes))


def _text(model: Model, positions: Tensor, shape: tuple[int, ...]) -> tuple[Tensor | None, str]:
    if positions.ndim != 2 or positions.shape[1] != shape[1]:
        return None, ""
    (had, _), context = positions.shape, shape[0]
    if context > had:
        raise ConfigError(
            "The text context is longer than that of the weights, which have no positions for the rest",
            got=f"model.text.context {context}; the weights have {had}",
            fix=f"Leave out --model.text.context, or set --model.text.context {had} or less.",
        )
    if model.text_tower is not None and model.text_tower.pool == "last":
        kept = torch.cat([positions[: context - 1], positions[-1:]])
        return kept, f"text positions {had} to {context}: the first ones and the last"
    return positions[:context].clone(), f"text positions {had} to {context}: the first ones"


def _image(trunk: nn.Module, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor | None, str]:
    """Return an image tower's positions in another shape, and a note; None if they are of no known kind.

    name: within the trunk.
    """
    path, _, kind = name.rpartition(".")
    if kind == "pos_embed" and len(shape) == 3 and tensor.shape[::2] == shape[::2]:
        return _absolute(trunk, tensor, shape)
    if kind == "pos_embed" and len(shape) == 4 and tensor.shape[::3] == shape[::3]:
        if tuple(shape[1:3]) != tuple(getattr(getattr(trunk, "patch_embed", None), "grid_size", ())):
            return None, ""
        new = resample_abs_pos_embed_nhwc(tensor, list(shape[1:3]))
        return new, f"position embeddings {_grid(tensor.shape[1:3])} to {_grid(shape[1:3])}"
    window = getattr(trunk.get_submodule(path), "window_size", None)
    if kind != "relative_position_bias_table" or not isinstance(window, tuple) or len(window) != 2:
        return None, ""
    distances = (2 * window[0] - 1) * (2 * window[1] - 1)
    sides = _side(len(tensor) - (shape[0] - distances)) if len(shape) == 2 else tensor.shape[-1]
    if not sides or tensor.shape[1 if len(shape) == 2 else 0] != shape[1 if len(shape) == 2 else 0]:
        return None, ""
    new = resize_rel_pos_bias_table(tensor, cast(Any, window), tuple(shape))
    return new, f"relative positions of windows {_grid(((sides + 1) // 2,) * 2)} to {_grid(window)}"


def _absolute(trunk: nn.Module, tensor: Tensor, shape: torch.Size) -> tuple[Tensor | None, str]:
    """Resample embeddings (1, tokens, width) of a square grid. Class and register tokens come before the grid."""
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    prefixes = {int(getattr(trunk, "num_prefix_tokens", 1)), 0}
    for prefix in sorted(prefixes, reverse=True):
        old, side = _side(tensor.shape[1] - prefix), _side(shape[1] - prefix)
        new = tuple(grid) if grid and math.prod(grid) == shape[1] - prefix else (side, side)
        if old and all(new):
            resampled = resample_abs_pos_embed(tensor, list(new), [old, old], num_prefix_tokens=prefix)
            return resampled, f"position embeddings {_grid((old, old))} to {_grid(new)}"
    return None, ""


def _side(count: int) -> int:
    """Return the side of a square of `count` tokens, 0 if they make no square."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _grid(sides: Any) -> str:
    return f"{sides[0]}x{sides[1]}"
