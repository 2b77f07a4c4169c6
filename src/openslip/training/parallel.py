"""How the processes of a run share the student; model code knows nothing of it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from openslip.collectives import rank, world
from openslip.models.batchnorm import synchronise
from openslip.models.lora import merged, plain_name
from openslip.training.optimizer import make_state, state_tensors
from openslip.training.saving.tensors import Snapshot, read_into, slice_of, stored_like
from openslip.training.student import Student, stored_state


class Parallel:
    """A student as the processes of a run share it; this class is for a single process.

    `forward` gives the losses of this process's share of the batch. Call `finish_gradients` after their backward, and
    before the gradients are used.
    """

    parts = 1
    """The number of parts of `snapshot`: one for each process, or a single one, which the first process has."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.forward: Any = student

    def finish_gradients(self, *, whole: bool) -> None:
        """Make each gradient the mean over the processes; whole: the batch has passed `forward` undivided."""

    def snapshot(self, optimizer: torch.optim.Optimizer) -> Snapshot:
        """Return what this process has to write of weights and optimiser state, copied to the CPU's memory."""
        weights, moments = _slices(stored_state(self.student)), _slices(state_tensors(optimizer))
        return Snapshot(
            {name: tensor for name, (tensor, _) in weights.items()},
            {name: tensor for name, (tensor, _) in moments.items()},
            {name: offset for name, (_, offset) in (weights | moments).items()},
            part=rank(),
            parts=self.parts,
        )

    def load(self, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
        """Restore the weights and optimiser state of a checkpoint from any number of processes.

        Raises CheckpointError if it cannot be read, ValueError if it does not fit the student.
        """
        weights, stored = stored_state(self.student), stored_like(checkpoint)
        moments = {name: stored.pop(name) for name in list(stored) if "|" in name}
        wrong = sorted(weights.keys() ^ stored.keys())
        wrong = wrong or [name for name in weights if weights[name].shape != stored[name].shape]
        if wrong:
            raise ValueError(f"{len(wrong)} of its weights do not fit: {', '.join(wrong[:5])}")
        read_into(checkpoint, weights | make_state(optimizer, moments))

    def whole_weights(self, *, everywhere: bool = False) -> dict[str, Tensor]:
        """Return the model's weights as whole tensors, adapters merged, on the first process, or with `everywhere` on
        all; all must call it.

        Tensors that are spread over the processes are gathered one at a time, into the CPU's memory.
        """
        weights = {}
        for name, tensor in self.student.model.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if everywhere or rank() == 0:
                weights[plain_name(name)] = whole.cpu() if isinstance(tensor, DTensor) else whole
        return merged(weights)


class Replicas(Parallel):
    """Each process has the whole student (DistributedDataParallel).

    some_unused: whether there are steps that leave out a part of the student, which costs a look at each step's graph.
    """

    def __init__(self, student: Student, *, some_unused: bool = False) -> None:
        super().__init__(student)
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {buffers: False}  # they are the same on all, by the same statistics
        # Without this, gradients are put together anew after a process's first step, hence added up in another order: a
        # run that is resumed would not end with the bits of one that is not. GPUs do not keep that order anyway.
        steady = next(student.parameters()).device.type == "cpu"
        self.forward = DistributedDataParallel(
            student, gradient_as_bucket_view=True, find_unused_parameters=some_unused or steady, **options
        )

    def finish_gradients(self, *, whole: bool) -> None:
        if not whole:  # the towers have run a part at a time, past DistributedDataParallel
            _average([p.grad for p in self.student.parameters() if p.grad is not None])


class Shards(Parallel):
    """The towers' matrices are spread over the processes (FSDP2), a block at a time.

    The rest is small and stays whole on each, in fp32: the towers' vectors, the projections, and all that the
    objective has.

    dtype: the type of the towers' arithmetic. The blocks' matrices travel in it, as autocast would cast them. If
    autocast did so, every process would keep the result, the whole tower, until the backward pass. Gradients are added
    up in fp32.
    """

    def __init__(
        self, student: Student, *, dtype: torch.dtype = torch.float32, offload: bool = False
    ) -> None:
        super().__init__(student)
        model = student.model
        self.parts = world()
        # Where the model is, which need not be on the GPU that the machine has.
        options: dict[str, Any] = {
            "mesh": init_device_mesh(next(model.parameters()).device.type, (world(),)),
            "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
            "ignored_params": {p for p in model.parameters() if p.ndim < 2},
        }
        # Feature vectors may be views of tokens, because our code changes nothing in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        policy = half if dtype in (torch.bfloat16, torch.float16) else MixedPrecisionPolicy()
        for tower in model.towers:
            for block in reversed(_blocks(tower)):  # inner blocks first
                fully_shard(block, mp_policy=policy, **options)
            fully_shard(tower, **options)

    def finish_gradients(self, *, whole: bool) -> None:
        stay = (p for p in self.student.parameters() if not isinstance(p, DTensor))
        _average([p.grad for p in stay if p.grad is not None])


def parallelise(
    student: Student,
    kind: Literal["ddp", "fsdp"] = "ddp",
    *,
    dtype: torch.dtype = torch.float32,
    offload: bool = False,
    some_unused: bool = False,
) -> Parallel:
    """Return the student, shared by the processes of the run in the way that `kind` names.

    dtype, offload: for fsdp, see `Shards` and `TrainingConfig`. some_unused: see `Replicas`. Works in place; call it
    after `prepare` and before the optimiser is made. Every BatchNorm becomes one over the whole batch.
    """
    if world() == 1:
        return Parallel(student)
    synchronise(student)
    if kind == "ddp":
        return Replicas(student, some_unused=some_unused)
    return Shards(student, dtype=dtype, offload=offload)


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the repeated parts of a tower: modules in a list or sequence that has several of one type."""
    return [
        block
        for module in tower.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(b) for b in module}) < len(module)
        for block in module
        if not isinstance(block, FSDPModule) and any(True for _ in block.parameters())
    ]


def _slices(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    slices = {name: slice_of(tensor, first=rank() == 0) for name, tensor in tensors.items()}
    return {name: found for name, found in slices.items() if found is not None}


def _average(tensors: Sequence[Tensor], bucket: int = 2**25) -> None:
    """Replace each tensor by its mean over the processes, in buckets of about so many bytes; in place."""
    bunch: list[Tensor] = []
    size = 0
    for number, tensor in enumerate(tensors, 1):
        bunch.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= bucket or number == len(tensors):
            flat = torch.cat([t.reshape(-1) for t in bunch])
            dist.all_reduce(flat)
            flat /= world()
            for t, mean in zip(bunch, flat.split([t.numel() for t in bunch])):
                t.copy_(mean.view_as(t))
            bunch, size = [], 0
