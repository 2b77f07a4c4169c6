"""Exchange rows and sums between processes that train together, differentiably.

The processes are those of `torch.distributed`'s default group. Without a group this process is alone, and nothing is
copied. Each process has its own loss, and training minimises the sum of all losses. The backward pass of each function
here gives the exact gradient of that sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Make this process the only one inside: for computations beside training."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world() -> int:
    """Return the number of processes."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank."""
    return dist.get_rank() if world() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (n, …) of all processes, by rank: (world · n, …). All processes give equally many rows."""
    return rows if world() == 1 else _GatherRows.apply(rows)


def add_up(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    return value if world() == 1 else _AddUp.apply(value)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((world() * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        """Return each row's gradient, summed over all processes."""
        (gradient,) = grad_outputs
        mine = gradient.new_empty((len(gradient) // world(), *gradient.shape[1:]))
        dist.reduce_scatter_tensor(mine, gradient.contiguous())
        return mine


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        """Return the sum of all processes' gradients, because every process's loss uses the same sum."""
        total = grad_outputs[0].clone()
        dist.all_reduce(total)
        return total
