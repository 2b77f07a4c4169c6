"""AdamW with the reference's decay groups, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openslip.config import OptimizerConfig


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to tensors of two or more dimensions (so no norm, no scale) that are no bias."""
    return parameter.ndim >= 2 and "bias" not in name


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.AdamW:
    """Return AdamW over the trainable ones of named parameters: a group with decay, one without.

    Each group carries the `names` of its parameters. Where some are spread over the processes and some are not, each
    has groups of its own. Fused where the device offers it (CPU, CUDA, MPS).
    """
    named = [(name, p) for name, p in parameters if p.requires_grad]
    groups = []
    for weight_decay, wanted, spread in (
        (config.weight_decay, True, False),
        (0.0, False, False),
        (config.weight_decay, True, True),
        (0.0, False, True),
    ):
        members = [(n, p) for n, p in named if (decays(n, p), isinstance(p, DTensor)) == (wanted, spread)]
        if members:
            names, tensors = zip(*members)
            groups.append({"params": list(tensors), "names": names, "weight_decay": weight_decay})
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for _, p in named)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate(config: OptimizerConfig, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of `step` (0-based) of `steps`, the first `warmup` of which rise linearly.

    As the reference: warm-up from `lr_start` that reaches `lr` on its last step, then a half cosine
    over the remaining steps towards `lr_end`.
    """
    if step < warmup:
        return config.lr_start + (config.lr - config.lr_start) * step / max(1, warmup - 1)
    share = (step - warmup) / max(1, steps - warmup)
    return config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + math.cos(math.pi * share))


def step_where(optimizer: torch.optim.AdamW, taken: Tensor) -> None:
    """Take the optimiser's step where `taken`, a scalar bool on the device, is true; else change nothing.

    Nobody waits for the device. On a CPU there is nobody to wait for.
    """
    if taken.device.type != "cpu":
        step_by_kernel(optimizer, taken)
    elif taken:
        optimizer.step()


def step_by_kernel(optimizer: torch.optim.AdamW, taken: Tensor) -> None:
    """`step_where` as the fused kernel decides it, by the mark that torch's GradScaler sets."""
    optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `parameter name|entry` → tensor, the form that safetensors can hold."""
    return {
        f"{name}|{entry}": torch.as_tensor(value)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` returned."""
    for key, place in make_state(optimizer, tensors).items():
        place.copy_(tensors[key])


def make_state(optimizer: torch.optim.Optimizer, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the optimiser a state of the names, shapes and dtypes of `like`; return it, to be filled.

    `like` is what `state_tensors` returned. The state is laid out in memory, and spread over processes, as the
    parameters are: fused AdamW relies on it.
    """
    optimizer.state.clear()
    parameters = {n: p for group in optimizer.param_groups for n, p in zip(group["names"], group["params"])}
    places: dict[str, Tensor] = {}
    for key, tensor in like.items():
        name, _, entry = key.rpartition("|")
        if name in parameters:
            parameter = parameters[name]
            options: dict[str, Any] = {"dtype": tensor.dtype, "device": parameter.device}
            if tensor.shape == parameter.shape:
                places[key] = torch.empty_like(parameter, requires_grad=False, **options)
            else:
                places[key] = torch.empty(tensor.shape, **options)
            optimizer.state[parameter][entry] = places[key]
    return places
