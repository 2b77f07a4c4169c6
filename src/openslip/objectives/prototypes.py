"""Learning from a teacher's classes, which have no names: what `dino` and `ibot` have in common.

A head gives K scores: the cosines of its bottleneck with K prototypes. The student's softmax over the scores learns to
match the teacher's softmax, which is centred and sharpened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openslip.collectives import add_up, world
from openslip.errors import TrainingError
from openslip.objectives.contrast import row_blocks, unit
from openslip.objectives.objective import At, Curve, Dims, Objective, cosine_momentum
from openslip.ranges import ABOVE_0, FROM_0, FROM_1, SHARE, Range

if TYPE_CHECKING:
    from openslip.models import Model

# Shapes: R rows that are compared, D dimensions of the bottleneck, K prototypes.


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions:
    """The options that `dino` and `ibot` have in common."""

    prototypes: Annotated[int, Range("at least 2", 2)] = 4096
    """Classes that the head tells apart. 4096 is for ten thousand to a million pictures. Raise it with the data: the
    papers have 65,536 (DINO) and 8,192 (iBOT) for ImageNet. Lower it where the plan shows a head larger than the
    tower."""
    width: Annotated[int, FROM_1] = 2048
    """Width of the head's two hidden layers."""
    dim: Annotated[int, FROM_1] = 256
    """Dimension of the head's bottleneck, and so of the prototypes."""
    average: Literal["model", "head"] = "model"
    """What the teacher averages. model: towers and head, as in the papers. head: the head alone, which then sees the
    student's own features of the same step (TIPSv2). Take `head` where a second tower costs too much memory, or
    beside a loss such as clip, which keeps the features apart."""
    momentum: Annotated[float, SHARE] = 0.996
    """Share of its weights that the teacher keeps in the first step; it rises to 1 in the last. Lower it to 0.99 for
    runs of a few thousand steps."""
    temperature: Annotated[float, ABOVE_0] = 0.1
    """The student's scores are divided by this temperature."""
    teacher_temperature: Annotated[float, ABOVE_0] = 0.07
    """The teacher's scores are divided by this temperature after its warm-up. It is lower than the student's, so that
    the teacher's classes are sharper. Lower it where the teacher's entropy nears the logarithm of `prototypes`."""
    teacher_start: Annotated[float, ABOVE_0] = 0.04
    """The teacher's temperature in the first step."""
    teacher_warmup: Annotated[float, SHARE] = 0.3
    """Share of the run over which the teacher's temperature goes from `teacher_start` to `teacher_temperature`."""
    centre: Annotated[float, SHARE] = 0.9
    """Share of its value that the centre keeps in a step. Raise it where batches have only a few dozen pictures."""
    freeze: Annotated[float, SHARE] = 0.0
    """Share of the run, at its start, in which the prototypes do not change. Take about 0.01 where the loss does
    not fall at first."""
    block: Annotated[int, FROM_0] = 1024
    """Rows whose scores are held at a time, each with `prototypes` numbers for each view; 0 holds all. Lower it where
    memory is short."""


class Projector(nn.Module):
    """Linear–GELU twice, then Linear to the bottleneck (Caron et al. 2021, section 3.1 and appendix C).

    No BatchNorm, so that rows do not depend on each other. Computed in the precision of its weights, autocast or not.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.layer3 = nn.Linear(hidden, dim)
        for layer in (self.layer1, self.layer2, self.layer3):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features or patch tokens (R, width) to the bottleneck (R, dim), of any length."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.layer1.weight.dtype)
            return self.layer3(F.gelu(self.layer2(F.gelu(self.layer1(x)))))


class Prototypes(nn.Module):
    """K directions in the bottleneck: the last layer of DINO's head, normalised to length 1 and without a bias."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))

    def forward(self) -> Tensor:
        """Return the directions (K, D), each of length 1."""
        return unit(self.weight)


class PrototypeObjective(Objective):
    """L = mean of H(p, q) over the pairs that are compared (Caron et al. 2021, equations 1 and 2).

    q = softmax(s / τ_s) with s (K,) the student's cosines with its prototypes. p = softmax((t − c) / τ_t) with t the
    teacher's cosines with the teacher's prototypes, a constant. H(p, q) = −Σ p log q.

    c is the centre, which keeps one prototype from winning everywhere. After each step it moves to c ← m c + (1 − m) t̄,
    with t̄ the mean of t over the batch of all processes (equation 4). The low τ_t keeps all prototypes from winning
    alike. `_entropy` and `_used` show which of the two collapses happens, if one does (section 5.3): they are log K
    and K where all prototypes win alike, and 0 and 1 where one always wins.
    """

    teacher_heads = ("projector", "prototypes")
    config: Any
    centre: Tensor

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.projector = Projector(dims.width, config.width, config.dim)
        self.prototypes = Prototypes(config.dim, config.prototypes)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self._batch_mean: Tensor | None = None  # t̄ of the last loss, for `after_step` of the same step

    def averaged(self, head: str, *inputs: Tensor) -> Tensor:
        """Return the output of the teacher's average of a head, without gradient."""
        if self.teacher is None:
            raise TrainingError(
                f"{self.title} has no teacher", fix="Train it with openslip.train, which makes one."
            )
        return self.teacher(head, *inputs)

    def compared(
        self,
        students: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        weights: Tensor,
        at: At,
    ) -> dict[str, Tensor]:
        """Return `loss` and the values of a batch: the mean of H(p, q) over all pairs of a target and another student.

        students, targets: rows (R, D) of the bottleneck, by name, from the student's and the teacher's projector, of
        any length. Row r of all of them is of the same image. A target and a student of the same name are no pair.
        weights: (R,), the weight of each row; they sum to 1 in each process.
        """
        config = self.config
        prototypes, averaged = self.prototypes(), self.averaged("prototypes")
        if at.step < config.freeze * at.steps:
            # A gradient of zeros, because DDP would wait for a gradient that is None.
            prototypes = prototypes.detach() + 0 * prototypes
        student = {name: unit(rows) for name, rows in students.items()}
        target = {name: unit(rows).detach() for name, rows in targets.items()}
        sharpness = 1 / self.teacher_temperature(at)

        def rows_of(
            weights_R: Tensor, prototypes_KD: Tensor, averaged_KD: Tensor, *rows: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            students_RD, targets_RD = rows[: len(student)], rows[len(student) :]
            logs = [(sharpness * (t_RD @ averaged_KD.T - self.centre)).log_softmax(1) for t_RD in targets_RD]
            goals = dict(zip(target, (log.exp() for log in logs)))
            crosses, pairs = [], 0
            for name, s_RD in zip(student, students_RD):
                others = [goal for other, goal in goals.items() if other != name]
                if others:
                    guess_RK = (s_RD @ prototypes_KD.T / config.temperature).log_softmax(1)
                    crosses.append(-(sum(others) * guess_RK).sum(1))
                    pairs += len(others)
            cross_R = torch.stack(crosses).sum(0) / pairs
            with torch.no_grad():
                entropies = [-(goal * log).sum(1) for goal, log in zip(goals.values(), logs)]
                entropy_R = torch.stack(entropies).mean(0)
                share_K = weights_R @ torch.stack(list(goals.values())).mean(0)
            return (weights_R * cross_R).sum(), (weights_R * entropy_R).sum(), share_K

        parts = row_blocks(len(weights), config.block)
        found = []
        for part in parts:
            rows = [x[part] for x in (*student.values(), *target.values())]
            inputs = (weights[part], prototypes, averaged, *rows)
            # Backward computes a block's scores once more instead of keeping them.
            found.append(
                rows_of(*inputs)
                if len(parts) == 1
                else checkpoint(rows_of, *inputs, use_reentrant=False, preserve_rng_state=False)
            )
        cross, entropy, share = (torch.stack(pieces).sum(0) for pieces in zip(*found))
        with torch.no_grad():
            mean = torch.stack([weights @ rows for rows in target.values()]).mean(0)
            self._batch_mean = averaged @ (add_up(mean) / world())
            share = add_up(share) / world()
            used = torch.special.entr(share).sum().exp()
        values = {"loss": cross, "entropy": entropy, "kl": cross - entropy, "used": used}
        return {"loss": cross} | {f"{self.name}_{key}": value.detach() for key, value in values.items()}

    def teacher_temperature(self, at: At) -> float:
        """Return τ_t of the step, which goes from its start to its end on a straight line (section 3.2)."""
        config = self.config
        passed = min(1.0, at.step / max(config.teacher_warmup * at.steps, 1e-9))
        return config.teacher_start + passed * (config.teacher_temperature - config.teacher_start)

    def momentum(self, at: At) -> float:
        """Return the teacher's momentum of the step, which rises to 1 along a cosine (section 3.1)."""
        return cosine_momentum(self.config.momentum, at)

    def after_step(self, model: Model, at: At) -> None:
        """Move the centre towards the mean of the batch (equation 4)."""
        super().after_step(model, at)
        if self._batch_mean is not None:
            self.centre.lerp_(self._batch_mean, 1 - self.config.centre)


def curves_of(name: str, what: str) -> tuple[Curve, ...]:
    """Return the curves of an objective with this name, whose student predicts the teacher's classes of `what`."""
    return (
        Curve(
            f"{name}_loss", f"Cross-entropy with the teacher, of {what}", "of use beside the two below", "low"
        ),
        Curve(f"{name}_kl", f"Divergence from the teacher, of {what}", "0: the teacher's classes", "low"),
        Curve(
            f"{name}_entropy",
            f"Entropy of the teacher, of {what}",
            "0 where one prototype always wins, the logarithm of the prototypes where all win alike",
            "low",
        ),
        Curve(f"{name}_used", f"Prototypes in use, of {what}", "1: all in one point", "high"),
    )
