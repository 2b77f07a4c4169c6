"""What training leaves out at random: residual branches (stochastic depth) and tokens.

The draws belong to the rows of the batch, not to whoever computes them. A tower may see a batch in parts, or this
process only its share of one: each draw is made for the whole batch, and the rows at hand take theirs. So parts,
processes and the batch in one piece all leave out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate
from typing import Any

import torch
from timm.layers.drop import DropPath as TimmDropPath
from torch import Tensor, nn


@dataclass(frozen=True)
class Rows:
    """Rows `first` to `first + count` of the `total` that a view has in the whole batch."""

    first: int
    count: int
    total: int


@dataclass(frozen=True)
class _Layout:
    """Where the rows at hand are among the `total` of all views. A tensor: one compiled graph serves any of them."""

    index: Tensor
    total: int


_layout: _Layout | None = None


@contextmanager
def laid_out(rows: Sequence[Rows] | None, device: torch.device) -> Iterator[None]:
    """Within, what passes a tower on `device` are these rows of one view after another's; None: all there are."""
    layout = None
    if rows and any(view.count < view.total for view in rows):
        starts = accumulate((view.total for view in rows), initial=0)
        parts = [
            torch.arange(start + view.first, start + view.first + view.count, device=device)
            for start, view in zip(starts, rows)
        ]
        layout = _Layout(torch.cat(parts), sum(view.total for view in rows))
    with _with(layout):
        yield


@contextmanager
def _with(layout: _Layout | None) -> Iterator[None]:
    global _layout
    before, _layout = _layout, layout
    try:
        yield
    finally:
        _layout = before


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` as it runs now, for when it is computed again in the backward pass."""
    layout = _layout

    @wraps(function)
    def as_now(*arguments: Any, **options: Any) -> Any:
        with _with(layout):
            return function(*arguments, **options)

    return as_now


def drawn_for_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """Return what `draw` gives for the `rows` at hand: it is called with the rows of the whole batch."""
    return draw(rows) if _layout is None else draw(_layout.total).index_select(0, _layout.index)


class DropPath(nn.Module):
    """Leaves a residual branch out for some samples (Huang et al. 2016), as timm's module of this name does."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.drop_prob = probability

    def forward(self, x: Tensor) -> Tensor:
        """Zero whole samples of x (n, …), and scale the others up, while training."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = 1 - self.drop_prob
        shape = (1,) * (x.ndim - 1)
        drawn = drawn_for_rows(lambda rows: x.new_empty((rows, *shape)).bernoulli_(kept), len(x))
        return x * (drawn / kept if kept > 0 else drawn)


def leave_out_tokens(x: Tensor, share: float, prefix: int) -> Tensor:
    """Map tokens (n, prefix + T, D) to fewer: a share of each sample's T is left out (FLIP; Li et al. 2023, section 3).

    As many stay as fit whole into the rest, one at least. The first `prefix` stay.
    """
    count, width = x.shape[1] - prefix, x.shape[2]
    kept = max(1, int(count * (1 - share)))
    noise = drawn_for_rows(lambda rows: torch.randn(rows, count, device=x.device), len(x))
    indices = noise.argsort(dim=1)[:, :kept, None].expand(-1, -1, width)
    return torch.cat((x[:, :prefix], x[:, prefix:].gather(1, indices)), dim=1)


def replace_drop_path(module: nn.Module) -> None:
    """Put this `DropPath` in the place of each of timm's; in place."""
    for name, child in module.named_children():
        if isinstance(child, TimmDropPath):
            setattr(module, name, DropPath(child.drop_prob))
        else:
            replace_drop_path(child)
