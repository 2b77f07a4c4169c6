"""What a run is going to do, in words, before it does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slip.config import Config
from slip.data.order import epoch_length
from slip.data.record import Source
from slip.errors import ConfigError
from slip.models import Model
from slip.training.precision import autocast, choose_device, choose_precision

TYPICAL_CAPTION = 24
"""Tokens of a longish caption, for the estimate of memory."""


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from a configuration, a source's length and the machine."""

    config: Config
    records: int
    steps: int
    warmup: int
    device: torch.device
    dtype: torch.dtype
    needs: tuple[str, ...]

    @property
    def steps_per_epoch(self) -> float:
        return self.records / self.config.training.batch


def make_plan(config: Config, records: int, needs: tuple[str, ...]) -> Plan:
    """Work out steps, device and precision; ConfigError where the values cannot work together."""
    training = config.training
    for name, value in (("training.batch", training.batch), ("training.epochs", training.epochs)):
        if value <= 0:
            raise ConfigError(f"'{name}' must be positive", got=value)
    if training.batch > records:
        raise ConfigError(
            f"The batch of {training.batch} is larger than the source's {records} records",
            fix="Lower --training.batch, or give more data",
        )
    if training.batch < 2:
        raise ConfigError(
            "A contrast needs at least two samples in a batch",
            got=training.batch,
            fix="Raise --training.batch",
        )
    steps = max(1, int(training.epochs * records / training.batch))
    warmup = min(steps, round(config.optimizer.warmup_epochs * records / training.batch))
    device = choose_device(training.device)
    return Plan(config, records, steps, warmup, device, choose_precision(training.precision, device), needs)


def check_ssl(needs: tuple[str, ...]) -> None:
    """Raise ConfigError when the objective has no use for pictures of their own for the self-supervised views."""
    if "ssl_1" not in needs:
        raise ConfigError(
            "The objective takes no self-supervised views", got=needs, fix="Leave --data.ssl out"
        )
    if "image" not in needs:
        raise ConfigError(
            "The objective takes nothing but self-supervised views",
            got=needs,
            fix="Give the pictures as --data.train, and leave --data.ssl out",
        )


def describe(plan: Plan, model: Model, run: Path, source: Source, ssl: Source | None = None) -> str:
    """Return the plan in words: parameters, samples, global batch, steps, memory, where things go."""
    config, training = plan.config, plan.config.training
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    total = sum(p.numel() for p in model.parameters())
    weights, activations = memory(plan, model)
    at_a_time = min(training.micro_batch or training.batch, training.batch)
    micro = f", {at_a_time} at a time through the towers" if at_a_time < training.batch else ""
    dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[plan.dtype]
    if training.precision == "fp8":
        dtype = "fp8 and bf16"
    shares = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in parts.items())
    gib = f"{weights / 2**30:.2f} weights and optimiser, {activations / 2**30:.2f} activations"
    samples = plan.steps * training.batch
    rates = f"learning rate {config.optimizer.lr:g} after {plan.warmup:,} warm-up steps"
    recomputed = {
        "none": "",
        "selective": ", activations partly recomputed",
        "full": ", activations recomputed",
    }
    how = (", compiled" if training.compile else "") + recomputed[training.checkpoint_activations]
    lines = {
        "recipe": f"{config.name}: minimise {config.objective.loss}",
        "model": f"{total / 1e6:.1f} M parameters ({shares})",
        "data": _data(plan.records, source),
        **({"ssl data": _data(epoch_length(ssl), ssl)} if ssl is not None else {}),
        "views": f"{', '.join(n for n in plan.needs if n != 'text')} at {config.views.size} px",
        "length": f"{training.epochs:g} epochs = {samples:,} samples = {plan.steps:,} steps of {training.batch}{micro}",
        "schedule": f"{rates}, cosine to {config.optimizer.lr_end:g}",
        "machine": f"{plan.device.type}, towers in {dtype}{how}, {torch.get_num_threads()} threads",
        "memory": f"about {(weights + activations) / 2**30:.1f} GiB ({gib}) beside the libraries",
        "written to": str(run),
    }
    return "\n".join(
        f"  {name:<11}{text.replace(chr(10), chr(10) + 13 * ' ')}" for name, text in lines.items()
    )


def _data(records: int, source: Source) -> str:
    """Return what there is of a source, with what it guessed on opening."""
    return "\n".join(filter(None, (f"{records:,} records from {source.name}", getattr(source, "note", ""))))


def memory(plan: Plan, model: Model) -> tuple[int, int]:
    """Return the expected bytes of weights with gradients and AdamW's two moments, and of saved activations.

    Activations are counted, not guessed: the towers run on batches of 2 and 4, what then waits for the backward
    pass is added up, and the line through the two sums is read at the batch's size.
    """
    few, more = _saved_bytes(plan, model, 2), _saved_bytes(plan, model, 4)
    at_a_time = min(
        plan.config.training.micro_batch or plan.config.training.batch, plan.config.training.batch
    )
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) * 4
    return weights, few + (more - few) // 2 * (at_a_time - 2)


def _saved_bytes(plan: Plan, model: Model, batch: int) -> int:
    size, context = plan.config.views.size, plan.config.model.text.context
    views = {
        name: torch.zeros(batch, 3, size, size, device=plan.device) for name in plan.needs if name != "text"
    }
    tokens = torch.ones(batch, min(TYPICAL_CAPTION, context), dtype=torch.long, device=plan.device)
    # Uncompiled: these two small batches are not worth a graph of their own, which training would then be stuck with.
    with torch.compiler.set_stance("force_eager"), Made(model.parameters()) as made:
        with autocast(plan.device, plan.dtype):
            outputs = model.features(views, tokens if "text" in plan.needs else None)
        total = made.alive()
    del outputs
    return total


class Made(TorchDispatchMode):
    """Notes all memory that tensors are given while it is entered, but for that of `known` ones.

    `alive()` is the bytes of it still held by anyone. Unlike hooks on saved tensors this also sees what
    selective activation checkpointing keeps.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {StorageWeakRef(tensor.untyped_storage()) for tensor in known}
        self.made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if (reference := StorageWeakRef(storage)) not in self.known:
                    self.made[reference] = storage.nbytes()
        return result

    def alive(self) -> int:
        return sum(size for reference, size in self.made.items() if not reference.expired())
