"""The classifier that is finetuned, and the learning rate of each of its parameters."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import torch
from timm.layers.drop import DropPath
from timm.layers.weight_init import trunc_normal_
from timm.models import VisionTransformer
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from openslip.evaluation.finetune.recipe import FinetuneRecipe
from openslip.models.layers import layers_of

HEAD = float("inf")
"""Ordinal of the layers that learn at the full rate. It sorts after every layer of the tower."""


class Classifier(nn.Module):
    """A copy of an image tower with a new linear head on its feature. The given tower stays as it is.

    If the recipe freezes the tower, the copy is always in evaluation mode and computes no gradient.
    """

    def __init__(self, tower: nn.Module, classes: int, recipe: FinetuneRecipe) -> None:
        super().__init__()
        self.frozen = recipe.frozen
        self.tower: Any = copy.deepcopy(tower).requires_grad_(not self.frozen)
        set_drop_path(self.tower, recipe.drop_path)
        self.head = nn.Linear(int(tower.width), classes)  # type: ignore[arg-type]
        self.width = classes  # of the output, as in towers
        with torch.no_grad():
            (nn.init.normal_ if self.frozen else trunc_normal_)(self.head.weight, std=0.02)
            self.head.weight.mul_(recipe.head_scale)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 logits (N, classes) of normalised images (N, 3, S, S)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.tower(images)
        return self.head(features).float()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        return self

    def group_matcher(self, coarse: bool = False) -> Any:
        """Return a function from a parameter's name to the ordinal of its layer (timm's layer-wise decay)."""
        layers = layers_of(self.tower)
        if layers is None:
            return lambda name: HEAD
        # BEiT trains the final norm at the head's rate. In other towers, layers after the last block are one below it.
        transformer = any(isinstance(module, VisionTransformer) for module in self.tower.modules())
        full = layers.depth + 1 if transformer else HEAD
        ordinals = {f"tower.{name}": HEAD if layer >= full else layer for name, layer in layers.of.items()}
        return lambda name: ordinals.get(name, HEAD)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay in timm's model (class token, positions)."""
        return {
            f"tower.{prefix}.{name}" if prefix else f"tower.{name}"
            for prefix, module in self.tower.named_modules()
            if hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()  # type: ignore[operator]
        }


def set_drop_path(tower: nn.Module, rate: float) -> None:
    """Set the transformer blocks' stochastic depth: 0 in the first, `rate` in the last, linear between.

    Towers without such blocks keep their own rate.
    """
    blocks: list[Any] = [m for m in tower.modules() if hasattr(m, "drop_path1") and hasattr(m, "drop_path2")]
    for i, block in enumerate(blocks):
        share = rate * i / max(1, len(blocks) - 1)
        block.drop_path1 = DropPath(share) if share else nn.Identity()
        block.drop_path2 = DropPath(share) if share else nn.Identity()


def build_optimizer(model: Classifier, recipe: FinetuneRecipe, batch: int) -> torch.optim.Optimizer:
    """Return AdamW with a group per layer and weight decay; for a frozen tower, SGD on the head alone.

    The `lr_scale` of a group is layer_decay ** (layers above it). BEiT's layers: embeddings 0, block i at i + 1, then
    final norm and head at scale 1. Groups carry the `names` of their parameters.
    """
    if recipe.frozen:
        head = [{"params": list(model.head.parameters()), "names": ("head.weight", "head.bias")}]
        lr, momentum = recipe.lr * batch / 256, recipe.betas[0]
        return torch.optim.SGD(head, lr=lr, momentum=momentum, weight_decay=recipe.weight_decay)
    groups = param_groups_layer_decay(
        model,
        weight_decay=recipe.weight_decay,
        no_weight_decay_list=model.no_weight_decay(),
        layer_decay=recipe.layer_decay,
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        group["names"] = tuple(names[id(parameter)] for parameter in group["params"])
    return torch.optim.AdamW(groups, lr=recipe.lr * batch / 1024, betas=recipe.betas, fused=True)


class EpochCosine:
    """A cosine from the optimiser's rates to 0 that changes once an epoch, as in MoCo v3's linear protocol."""

    def __init__(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int) -> None:
        self.optimizer, self.epochs, self.steps = optimizer, epochs, steps
        self.rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]

    def step_update(self, step: int) -> None:
        """Set the rates for `step`, from 0."""
        share = 0.5 * (1 + math.cos(math.pi * (step // self.steps) / self.epochs))
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * share


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: FinetuneRecipe, steps: int
) -> CosineLRScheduler | EpochCosine:
    """Return a warm-up and a cosine over `recipe.epochs` of `steps` steps each; for a frozen tower, an `EpochCosine`.

    `step_update(step)` sets the learning rates.
    """
    if recipe.frozen:
        return EpochCosine(optimizer, recipe.epochs, steps)
    total = recipe.epochs * steps
    warmup = min(recipe.warmup_epochs * steps, total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        lr_min=recipe.lr_end,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
