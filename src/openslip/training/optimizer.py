"""AdamW with the reference's decay groups, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openslip.config import OptimizerConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.layers import layers_of
from openslip.models.lora import plain_name


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to tensors of two or more dimensions that are no bias (so to no norm or scale)."""
    return parameter.ndim >= 2 and "bias" not in name


def rate_factors(model: Model, config: OptimizerConfig) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter of the towers, by name; it is 1 for all others.

    A tower's own `lr` is a factor on the whole schedule, from `lr_start` to `lr_end`. `layer_decay` is a factor for
    each layer above: no layer is above the final norm, one is above the last block (BEiT; Bao et al. 2022).
    Raises ConfigError if the tower has no known layers, or if its rate would be a multiple of 0.
    """
    factors: dict[str, float] = {}
    for name, tower, rate in (
        ("image", model.image_tower, config.image),
        ("text", model.text_tower, config.text),
    ):
        if tower is None or (rate.lr < 0 and rate.layer_decay == 1):
            continue
        if rate.lr > 0 and config.lr == 0:
            raise ConfigError(
                f"The {name} tower's learning rate follows the schedule of optimizer.lr, which is 0 throughout",
                got=f"optimizer.{name}.lr {rate.lr:g}, optimizer.lr 0",
                fix="Set --optimizer.lr",
            )
        layers = layers_of(tower)
        if layers is None and rate.layer_decay != 1:
            raise ConfigError(
                "The tower's layers have no known order",
                got=f"optimizer.{name}.layer_decay {rate.layer_decay:g}, of a {type(tower).__name__}",
                fix=f"Leave layer_decay at 1, and set --optimizer.{name}.lr",
            )
        own = 1.0 if rate.lr < 0 else rate.lr / config.lr if rate.lr else 0.0
        for parameter, _ in tower.named_parameters():
            above = 0 if layers is None else layers.depth + 1 - layers.of[parameter]
            factors[plain_name(f"{name}_tower.{parameter}")] = own * rate.layer_decay**above
    return factors


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimizerConfig,
    factors: Mapping[str, float] | None = None,
    fresh: Collection[str] = (),
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters among `parameters`: one group with decay, one without.

    Each group carries the `names` of its parameters. Parameters that are spread over the processes have groups of their
    own. AdamW is fused where the device offers it (CPU, CUDA, MPS).

    factors: see `rate_factors`; each factor has a group, with its `factor`. fresh: names of the parameters that start
    with random weights where others do not. `fresh_lr` is their rate, in place of a factor. With `fresh_epochs` they
    have groups of their own, marked `fresh`. Raises ConfigError if `fresh_epochs` is set and no trainable parameter is
    fresh.
    """
    named = [(name, p) for name, p in parameters if p.requires_grad]
    known, early = dict(factors or {}), set(fresh) if config.fresh_epochs else set()
    if config.fresh_lr >= 0 and config.lr:
        known |= dict.fromkeys(fresh, config.fresh_lr / config.lr)
    if config.fresh_epochs and early.isdisjoint(name for name, _ in named):
        raise ConfigError(
            "All weights that learn come from the model that the run starts from: none is fresh",
            got=f"optimizer.fresh_epochs {config.fresh_epochs:g}",
            fix="Leave --optimizer.fresh-epochs out",
        )
    groups = []
    for weight_decay, wanted, spread in (
        (config.weight_decay, True, False),
        (0.0, False, False),
        (config.weight_decay, True, True),
        (0.0, False, True),
    ):
        members: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
        for name, p in named:
            if (decays(name, p), isinstance(p, DTensor)) == (wanted, spread):
                members.setdefault((known.get(name, 1.0), name in early), []).append((name, p))
        for (factor, is_fresh), some in members.items():
            names, tensors = zip(*some)
            rate = {"factor": factor, "fresh": is_fresh}
            groups.append({"params": list(tensors), "names": names, "weight_decay": weight_decay, **rate})
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for _, p in named)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate(config: OptimizerConfig, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of `step` (0-based) of `steps`, the first `warmup` of which rise linearly.

    As in the reference, the warm-up from `lr_start` reaches `lr` on its last step. A half cosine over the
    remaining steps then goes towards `lr_end`.
    """
    if step < warmup:
        return config.lr_start + (config.lr - config.lr_start) * step / max(1, warmup - 1)
    share = (step - warmup) / max(1, steps - warmup)
    return config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + math.cos(math.pi * share))


def step_where(optimizer: torch.optim.AdamW, taken: Tensor) -> None:
    """Take the optimiser's step if `taken`, a scalar bool on the device, is true; else change nothing.

    Nothing waits for the device. On a CPU there is nothing to wait for.
    """
    if taken.device.type != "cpu":
        step_by_kernel(optimizer, taken)
    elif taken:
        optimizer.step()


def step_by_kernel(optimizer: torch.optim.AdamW, taken: Tensor) -> None:
    """Do what `step_where` does, with the fused kernel deciding, by the mark that torch's GradScaler sets."""
    optimizer.found_inf = (~taken).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def set_learning_rates(
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    step: int,
    steps: int,
    warmup: int,
    fresh: int = 0,
) -> dict[str, float]:
    """Give every group of `build_optimizer` its learning rate at `step`; return the rates for the log.

    A group's rate is `learning_rate` times its factor. The log has `lr`, and `lr_image` or `lr_text` where a tower's
    rate differs: the highest of its layers. In the first `fresh` steps the rate is 0 for groups that are not fresh;
    their warm-up begins afterwards.
    """
    first = rest = learning_rate(config, step, steps, warmup)
    if fresh:
        rest = learning_rate(config, step - fresh, steps - fresh, warmup) if step >= fresh else 0.0
    highest: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = (first if group["fresh"] else rest) * group["factor"]
        for tower in ("image", "text"):
            if any(name.startswith(f"{tower}_tower.") for name in group["names"]):
                highest[f"lr_{tower}"] = max(group["lr"], highest.get(f"lr_{tower}", 0.0))
    return {"lr": first} | {name: lr for name, lr in highest.items() if lr != first}


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `parameter name|entry` → tensor, a form that safetensors can hold."""
    return {
        f"{name}|{entry}": torch.as_tensor(value)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `state_tensors` returned."""
    for key, place in make_state(optimizer, tensors).items():
        place.copy_(tensors[key])


def make_state(optimizer: torch.optim.Optimizer, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the optimiser a state with the names, shapes and dtypes of `like`; return the state, to be filled.

    `like` is what `state_tensors` returned. The state is laid out in memory, and spread over processes, as the
    parameters are, because fused AdamW relies on that.
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
