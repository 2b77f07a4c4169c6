"""Leave out residual branches (stochastic depth) and tokens at random, in training.

The draws belong to the rows of the batch, not to the process that computes them. A tower may see a batch in parts, and
a process only its share. So each draw is made for the whole batch, and the rows at hand take theirs. Any number of
parts and processes leaves out the same.
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
    """Positions of the rows at hand among the `total` of all views. As a tensor, so one compiled graph serves them."""

    index: Tensor
    total: int


_layout: _Layout | None = None


@contextmanager
def laid_out(rows: Sequence[Rows] | None, device: torch.device) -> Iterator[None]:
    """Within this context, a tower on `device` sees these rows, one view after another. None: it sees all rows."""
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
    """Return `function` bound to the present layout, for computing it again in the backward pass."""
    layout = _layout

    @wraps(function)
    def as_now(*arguments: Any, **options: Any) -> Any:
        with _with(layout):
            return function(*arguments, **options)

    return as_now


def drawn_for_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """Return the draws of the `rows` at hand. `draw` is called with the number of rows of the whole batch."""
    return draw(rows) if _layout is None else draw(_layout.total).index_select(0, _layout.index)


class DropPath(nn.Module):
    """Leave a residual branch out for some samples (Huang et al. 2016), as timm's module of this name does."""

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
    """Leave out a share of each sample's T tokens in (n, prefix + T, D) (FLIP; Li et al. 2023, section 3).

    The first `prefix` tokens stay. Of the others, T · (1 - share) stay, rounded down, but at least one.
    """
    count, width = x.shape[1] - prefix, x.shape[2]
    kept = max(1, int(count * (1 - share)))
    noise = drawn_for_rows(lambda rows: torch.randn(rows, count, device=x.device), len(x))
    indices = noise.argsort(dim=1)[:, :kept, None].expand(-1, -1, width)
    return torch.cat((x[:, :prefix], x[:, prefix:].gather(1, indices)), dim=1)


def replace_drop_path(module: nn.Module) -> None:
    """Replace each of timm's `DropPath` modules by this one, in place."""
    for name, child in module.named_children():
        if isinstance(child, TimmDropPath):
            setattr(module, name, DropPath(child.drop_prob))
        else:
            replace_drop_path(child)
