"""Batch normalisation over the batch of all processes, or by fixed statistics."""

from __future__ import annotations

from functools import cache
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from openslip.collectives import add_up, world


class GlobalBatchNorm(nn.Module):
    """A BatchNorm whose statistics in training are those of the whole batch of all processes.

    Takes over the parameters and buffers of `norm`, under their names, and the steps of timm's BatchNormAct2d after
    normalising. Unlike torch's SyncBatchNorm it runs on any device, and subtracts the means before squaring. Every
    process must have equally many rows, and must call it equally often.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, …) by channel."""
        if self.training:
            mean, variance, count = _statistics(x)
            self._follow(mean.detach(), variance.detach(), count)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = torch.rsqrt(variance + self.eps)
        shape = [1, -1] + [1] * (x.ndim - 2)
        if self.weight is None:
            y = (x - mean.view(shape)) * scale.view(shape)
        else:
            y = torch.addcmul(self.bias.view(shape), x - mean.view(shape), (scale * self.weight).view(shape))
        return self.act(self.drop(y.to(x.dtype)))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, as torch's BatchNorm does: with the unbiased variance."""
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var.dtype), share)


def keep_statistics(module: nn.Module) -> None:
    """Keep every BatchNorm in `module` in evaluation mode, in place: running statistics do not change.

    Names stay. Scale and shift are trained like other parameters.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.track_running_stats:
            norm.__class__ = _keeping(type(norm))
            norm.eval()


def sees_the_batch(norm: nn.Module) -> bool:
    """Return whether a module is a BatchNorm that normalises by the statistics of the batch in training."""
    return isinstance(norm, _BatchNorm) and not isinstance(norm, KeptStatistics)


class KeptStatistics(nn.Module):
    """A base class, before a BatchNorm's class, that takes away the training mode."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


@cache
def _keeping(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """Return `kind` without a training mode. A class, not a wrapper: names stay, and copies are of the same kind."""
    return type(f"Kept{kind.__name__}", (KeptStatistics, kind), {})


def synchronise(model: nn.Module) -> None:
    """Make every BatchNorm in `model` that sees the batch normalise over all processes' batch, in place. Names stay."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm) and sees_the_batch(child) and child.track_running_stats:
            setattr(model, name, GlobalBatchNorm(child))
        else:
            synchronise(child)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return mean (C,), variance (C,) and the number of values behind each, of x (N, C, …) on all processes."""
    dims = [d for d in range(x.ndim) if d != 1]
    count = world() * x.numel() // x.shape[1]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = add_up(x.sum(dims)) / count
    centred = x - mean.view([1, -1] + [1] * (x.ndim - 2))
    return mean, add_up(centred.square().sum(dims)) / count, count
