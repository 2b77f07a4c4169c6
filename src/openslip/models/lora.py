"""Low-rank adapters (LoRA; Hu et al. 2022). peft adds adapters to a tower; this module merges them into its weights.

For a linear layer with weights W (out, in), an adapter of rank r trains A (r, in) and B (out, r). The layer computes
with W + 2·B·A. B starts at 0, so the tower starts unchanged. The factor 2 is peft's alpha / r, with alpha twice the
rank. Checkpoints have W under the layer's own name, and beside it the entries `lora_A` and `lora_B`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openslip.errors import ConfigError

SCALE = 2
ADAPTER = "default"
"""peft's name for an adapter without a name."""
_NAMES = (
    (re.compile(r"\.base_layer\.(weight|bias)$"), r".\1"),
    (re.compile(rf"\.(lora_[AB])\.{ADAPTER}\.weight$"), r".\1"),
)


def check_peft() -> None:
    """Raise ConfigError if peft, the library that adds adapters, is not installed."""
    if find_spec("peft") is None:
        raise ConfigError(
            "Adapters (LoRA) need the library peft, which is not installed",
            fix="`pip install 'openslip[lora]'`, or leave --model.image.lora and --model.text.lora at 0",
        )


def linear_layers(tower: nn.Module) -> list[str]:
    """Return the names of a tower's linear layers, in attention and MLPs."""
    return [name for name, module in tower.named_modules() if type(module) is nn.Linear]


def add_adapters(tower: nn.Module, layers: Collection[str], rank: int) -> None:
    """Add an adapter to these linear layers, by name, and freeze everything else in the tower; in place.

    The initial A is drawn from torch's generator. Raises ConfigError without peft.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    # The whole name of each layer, because the names of two layers may end alike.
    pattern = "|".join(re.escape(name) for name in layers)
    config = LoraConfig(
        r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, bias="none", target_modules=pattern
    )
    inject_adapter_in_model(config, tower, adapter_name=ADAPTER)


def is_adapted(module: nn.Module) -> bool:
    """Return whether there are adapters in the module."""
    return any(hasattr(part, "lora_A") for part in module.modules())


def unused_adapters(tower: nn.Module, compute: Callable[[], object]) -> list[str]:
    """Return the names of layers whose adapters `compute` does not use, because it reads the weights directly."""
    downs = {name: part.lora_A for name, part in tower.named_modules() if hasattr(part, "lora_A")}
    used: set[str] = set()
    hooks = [
        down[ADAPTER].register_forward_hook(lambda *_, name=name: used.add(name))  # type: ignore[operator]
        for name, down in downs.items()
    ]
    try:
        with torch.no_grad():
            compute()
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in downs if name not in used]


def split_linear(linear: nn.Module, sizes: Sequence[int]) -> list[Callable[[Tensor], Tensor]]:
    """Return functions that compute consecutive parts of a linear layer's outputs, including the adapter.

    sizes: how many outputs each part has.
    """
    layer: Any = linear
    weights = layer.weight.split(sizes)
    biases = [None] * len(sizes) if layer.bias is None else layer.bias.split(sizes)
    parts: list[Callable[[Tensor], Tensor]] = [
        partial(F.linear, weight=weight, bias=bias) for weight, bias in zip(weights, biases)
    ]
    if not hasattr(layer, "lora_A"):
        return parts
    ups = layer.lora_B[ADAPTER].weight.split(sizes)
    return [partial(_adapted, part, layer.lora_A[ADAPTER], up) for part, up in zip(parts, ups)]


def _adapted(part: Callable[[Tensor], Tensor], down: nn.Module, up: Tensor, x: Tensor) -> Tensor:
    return part(x) + F.linear(down(x), up) * SCALE


def plain_name(name: str) -> str:
    """Return a tensor's name in checkpoints of a tower with adapters: `X.weight`, `X.bias`, `X.lora_A`, `X.lora_B`."""
    for pattern, ours in _NAMES:
        name = pattern.sub(ours, name)
    return name


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights, by the names of checkpoints, with W + 2·B·A in place of every layer's W, A and B.

    Entries that do not fit together stay as they are.
    """
    found = dict(weights)
    for name in weights:
        layer = name.removesuffix(".lora_A")
        down, up, weight = (found.get(f"{layer}.{part}") for part in ("lora_A", "lora_B", "weight"))
        if layer == name or down is None or up is None or weight is None:
            continue
        fit = down.ndim == up.ndim == 2 and up.shape[1] == down.shape[0]
        if fit and weight.shape == (up.shape[0], down.shape[1]):
            found[f"{layer}.weight"] = weight + (up @ down) * SCALE
            del found[name], found[f"{layer}.lora_B"]
    return found
