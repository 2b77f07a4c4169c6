"""A teacher: the average of the students' weights over the steps; the students learn from its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.modules.dropout import _DropoutNd

from openslip.errors import ConfigError, TrainingError


class Teacher(nn.ModuleDict):
    """Copies of `students`, by their names, that follow the students' weights and have no gradient.

    A student is a tower or a head; heads alone make the cheaper teacher of TIPSv2. `Student.after_step` calls `follow`
    after each step. The teacher is part of the state dict of the objective that it belongs to. Every process has the
    whole teacher, bit for bit the same, also where the students are spread over the processes. Make the teacher before
    the students are spread.

    Weights are fp32 where the students' have fewer bits: in bf16 an average would not move. The teacher draws no random
    number: stochastic depth and dropout are off.

    Norms with running statistics work as in BYOL's implementation (Grill et al. 2020). In training they normalise by
    the statistics of the teacher's own batch, and their running statistics are those of the teacher's own batches. The
    student's running statistics would not fit the teacher's weights. All other buffers are copied from the student.
    """

    def __init__(self, students: Mapping[str, nn.Module]) -> None:
        for name, student in students.items():
            if any(isinstance(p, DTensor) for p in student.parameters()):
                raise TrainingError(
                    "A teacher cannot be made of a student that is spread over the processes",
                    got=name,
                    fix="Make the teacher before the model is spread.",
                )
        super().__init__(deepcopy(dict(students)))
        self.requires_grad_(False)
        for module in self.modules():
            _without_chance(module)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))

    @torch.no_grad()
    def forward(self, name: str, *inputs: Any, **options: Any) -> Any:
        """Return what the copy of the student called `name` gives, without gradient; arguments are the student's.

        The copy of an image tower takes `tokens`, `masked` and `mask_token`, as `ImageTower` does.
        """
        return self[name](*inputs, **options)

    @torch.no_grad()
    def follow(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Replace each weight p by momentum · p + (1 - momentum) · the student's, in place; all processes must call it.

        momentum: 0 to 1. Parameters are matched by name, so students may have been prepared for training: activation
        checkpointing, compiled blocks, channels-last memory, norms over all processes. What is spread over the
        processes is gathered one tensor at a time. Nothing waits for the device.

        Raises TrainingError where names or shapes are not those of the teacher, ConfigError for another momentum.
        """
        if not 0 <= momentum <= 1:
            raise ConfigError("A teacher's momentum is between 0 and 1", got=momentum)
        followed = nn.ModuleDict(dict(students))
        for module in followed.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # whole weights kept from the forward pass may be older than the step
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for p, student in _pairs(dict(self.named_parameters()), dict(followed.named_parameters())):
            if isinstance(student, DTensor):
                p.lerp_(student.full_tensor().to(p), 1 - momentum)
            else:
                mine.append(p)
                theirs.append(student.to(p))
        if mine:
            torch._foreach_lerp_(mine, theirs, 1 - momentum)
        for buffer, student in _pairs(_common_buffers(self), _common_buffers(followed)):
            buffer.copy_(student)


def _without_chance(module: nn.Module) -> None:
    """Switch off what the module leaves out at random."""
    if isinstance(module, _DropoutNd):
        module.p = 0.0
    # Stochastic depth and DropBlock, timm's convolutional models before their classifier, torch's attention.
    for name in ("drop_prob", "drop_rate", "dropout"):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, 0.0)


def _common_buffers(modules: nn.Module) -> dict[str, Tensor]:
    """Return, by name, the buffers that teacher and student share: all but the running statistics of norms."""
    own = {
        f"{prefix}.{name}"
        for prefix, module in modules.named_modules()
        if hasattr(module, "running_mean")
        for name, _ in module.named_buffers(recurse=False)
    }
    return {name: buffer for name, buffer in modules.named_buffers() if name not in own}


def _pairs(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the teacher's tensors, each with the student's of its name."""
    wrong = sorted(mine.keys() ^ theirs.keys())
    wrong = wrong or [name for name in mine if mine[name].shape != theirs[name].shape]
    if wrong:
        raise TrainingError(
            "The teacher's weights are not those of the students that it was told to follow",
            got=f"{len(wrong)} that differ in name or shape: {', '.join(wrong[:5])}",
            fix="Follow the modules that the teacher was made of, under the same names, without wrappers.",
        )
    return [(tensor, theirs[name]) for name, tensor in mine.items()]
