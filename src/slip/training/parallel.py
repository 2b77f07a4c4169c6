"""The model of a run as its processes share it; model code itself knows nothing of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from slip.collectives import world
from slip.models import Model
from slip.models.batchnorm import synchronise
from slip.training.optimizer import load_state_tensors, state_tensors
from slip.training.processes import average

Snapshot = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Weights by name, and the optimiser's state as `state_tensors` names it: whole tensors."""


class Parallel:
    """A model as the processes of a run share it; this one is for a single process.

    `forward` gives the embeddings of this process's share of the batch. After the backward of their loss, and before
    anybody looks at the gradients, comes `finish_gradients`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forward: Any = model

    def finish_gradients(self, *, whole: bool) -> None:
        """Make each gradient the mean over the processes; whole: the batch has passed `forward` in one piece."""

    def snapshot(self, optimizer: torch.optim.Optimizer) -> Snapshot:
        """Return weights and optimiser state as whole tensors; all processes must call it."""
        return _whole(self.model.state_dict()), _whole(state_tensors(optimizer))

    def load(
        self, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> None:
        """Put back what a `snapshot` holds, of however many processes it was."""
        places = self.model.state_dict()
        self.model.load_state_dict(
            {name: _spread_like(places[name], value) for name, value in weights.items()}
        )
        parameters = dict(self.model.named_parameters())
        load_state_tensors(
            optimizer,
            {key: _spread_like(parameters[key.rpartition("|")[0]], value) for key, value in moments.items()},
        )


class Replicas(Parallel):
    """Each process has the whole model (DistributedDataParallel).

    some_unused: whether there are steps that leave out a part of the model, which costs a look at each step's graph.
    """

    def __init__(self, model: Model, *, some_unused: bool = False) -> None:
        super().__init__(model)
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {buffers: False}  # they are the same on all, by the same statistics
        # Without this, gradients are put together anew after a process's first step, hence added up in another order: a
        # run that is resumed would not end with the bits of one that is not. GPUs do not keep that order anyway.
        steady = next(model.parameters()).device.type == "cpu"
        self.forward = DistributedDataParallel(
            model, gradient_as_bucket_view=True, find_unused_parameters=some_unused or steady, **options
        )

    def finish_gradients(self, *, whole: bool) -> None:
        if not whole:  # the towers have run a part at a time, past DistributedDataParallel
            average([p.grad for p in self.model.parameters() if p.grad is not None])


class Shards(Parallel):
    """The towers' weights are spread over the processes (FSDP2), a block at a time.

    What stands after them, the self-supervised head above all, is small and stays whole on each, in fp32.
    """

    def __init__(self, model: Model, *, offload: bool = False) -> None:
        super().__init__(model)
        policy = CPUOffloadPolicy() if offload else OffloadPolicy()
        for tower in (model.image_tower, model.text_tower):
            if tower is not None:
                for block in _blocks(tower):
                    fully_shard(block, offload_policy=policy)
                fully_shard(tower, offload_policy=policy)

    def finish_gradients(self, *, whole: bool) -> None:
        heads = (p for p in self.model.parameters() if not isinstance(p, DTensor))
        average([p.grad for p in heads if p.grad is not None])


def parallelise(
    model: Model, kind: Literal["ddp", "fsdp"] = "ddp", *, offload: bool = False, some_unused: bool = False
) -> Parallel:
    """Return the model as this process's part of what the processes of the run train together.

    offload: of fsdp, see `TrainingConfig`. some_unused: see `Replicas`. In place, after `prepare` and before the
    optimiser is made. Every BatchNorm becomes one over the whole batch.
    """
    if world() == 1:
        return Parallel(model)
    synchronise(model)
    if kind == "ddp":
        return Replicas(model, some_unused=some_unused)
    return Shards(model, offload=offload)


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the repeated parts of a tower: those that stand in a list or a sequence of their like."""
    return [
        block
        for module in tower.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(b) for b in module}) < len(module)
        for block in module
        if not isinstance(block, FSDPModule) and any(True for _ in block.parameters())
    ]


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}


def _spread_like(place: Tensor, value: Tensor) -> Tensor:
    """Return `value` spread over the processes as `place` is, if it has its shape."""
    if isinstance(place, DTensor) and value.shape == place.shape:
        return distribute_tensor(value.to(place.device), place.device_mesh, place.placements)
    return value
