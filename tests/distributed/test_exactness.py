"""One step, and three, on 1, 2 and 4 processes: the same losses, gradients, statistics and weights.

For every objective and for sums, in fp64 with the similarities in blocks and in fp32 with all of them at once, with
micro-batches, and with weights that are spread over the processes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from distributed.ranks import run_on
from openslip.collectives import rank, world
from openslip.config import Config, ObjectiveConfig
from openslip.objectives import At
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import parallelise
from openslip.training.step import backward, gradient_norm
from openslip.training.student import stored_parameters
from toys import CASES as ALL_CASES
from toys import LOSSES, TUNED, make_inputs, make_student, make_tiny_config, small_loss, tuned, with_loss

ROWS, SIZE, STEPS = 8, 32, 3
TOGETHER = 12
"""Cases that processes compute before they end."""
FP32 = torch.float32


@dataclass(frozen=True)
class Case:
    loss: str = ObjectiveConfig().loss
    dtype: torch.dtype = torch.float64
    block: int = 3
    tower: str = "vit"
    kind: Literal["ddp", "fsdp"] = "ddp"
    micro_batch: int = 0
    clip_grad: float = 0.0
    drop_path: float = 0.3
    drop_tokens: float = 0.0
    ssl_rows: int = ROWS
    offload: bool = False
    tuning: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        default = Case()
        given = {k: str(v) for k, v in vars(self).items() if v != getattr(default, k)}
        return ", ".join(f"{k} {v.removeprefix('torch.')}" for k, v in given.items()) or "default"

    @property
    def config(self) -> Config:
        config = make_tiny_config()
        image = replace(config.model.image, name=self.tower, drop_path=self.drop_path)
        ssl = replace(config.views.ssl, drop_tokens=self.drop_tokens)
        config = replace(
            config,
            model=replace(config.model, image=image),
            views=replace(config.views, size=SIZE, ssl=ssl),
        )
        config = with_loss(config, self.loss, block=self.block, **dict(self.options))
        return tuned(config, **dict(self.tuning))


def three_steps(case: Case) -> dict[str, np.ndarray]:
    """Train on this process's share; return the first step's losses and gradients, and the state after the third."""
    config = case.config
    student = make_student(config, case.dtype)
    parallel = parallelise(student, case.kind, offload=case.offload)
    # With the usual eps AdamW makes steps of rounding errors where a gradient is zero, as before a BatchNorm.
    optimizer = build_optimizer(stored_parameters(student), replace(config.optimizer, lr=1e-2, eps=1e-2))
    batch = make_inputs(config, ROWS, case.ssl_rows, case.dtype)
    part = list(batch.split(ROWS // world()))[rank()]
    share = replace(part, rows={})  # those that are this process's by default
    found: dict[str, Any] = {}
    for step in range(STEPS):
        at = At(step, STEPS)
        student.train()
        losses = backward(parallel, share, at, dtype=FP32, micro_batch=case.micro_batch, seed=step)
        norm = gradient_norm(student, case.clip_grad)
        if step == 0:
            found |= {f"loss/{name}": value for name, value in losses.items()} | {
                "norm": torch.as_tensor(norm)
            }
            gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
            found |= {f"gradient/{name}": whole(value) for name, value in gradients.items()}
        optimizer.step()
        student.after_step(at, torch.tensor(True))
        optimizer.zero_grad()
    found |= {f"weights/{name}": whole(value) for name, value in student.state_dict().items()}
    return {name: np.array(value.detach()) for name, value in found.items()}


def whole(gradient: Any) -> torch.Tensor:
    return (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).clone()


def each(cases: list[Case]) -> dict[Case, dict[str, np.ndarray] | str]:
    """Return what `three_steps` does of every case, or the error."""
    found: dict[Case, dict[str, np.ndarray] | str] = {}
    for case in cases:
        try:
            found[case] = three_steps(case)
        except Exception:
            found[case] = traceback.format_exc()
    return found


WITH_OPTIONS = [
    (loss, tuple(options.items())) for loss, options in ALL_CASES if options != {"positives": "pairs"}
]
"""The losses whose options make them compute something else."""
CASES = [
    *(Case(loss) for loss in LOSSES),
    *(Case(loss, FP32, block=0) for loss in LOSSES),
    *(Case(loss, micro_batch=1, clip_grad=0.01) for loss in LOSSES),
    Case(micro_batch=1, dtype=FP32),
    Case(tower="test_resnet"),
    Case(drop_tokens=0.5, ssl_rows=4),
    Case(drop_tokens=0.5, ssl_rows=4, micro_batch=1),
    *(Case("clip + byol", tuning=tuple(tuning.items())) for tuning in TUNED),
    *(Case("clip + byol", tuning=tuple(tuning.items()), micro_batch=1, clip_grad=0.01) for tuning in TUNED),
    Case("clip + byol", tower="test_resnet", tuning=(("image", "2"),)),
    Case("clip + byol", tower="test_resnet", tuning=(("image", "all"),), micro_batch=1),
    *(Case(loss, options=options) for loss, options in WITH_OPTIONS),
    *(Case(loss, options=options, micro_batch=1) for loss, options in WITH_OPTIONS),
]
SPREAD = {
    2: [
        *(Case("clip + byol", kind="fsdp", tuning=tuple(tuning.items())) for tuning in TUNED),
        *(Case("clip + byol", kind="fsdp", tuning=tuple(tuning.items()), micro_batch=2) for tuning in TUNED),
        *(Case(loss, kind="fsdp") for loss in LOSSES),
        *(Case(loss, kind="fsdp", micro_batch=2, clip_grad=0.01) for loss in LOSSES),
        *(Case(loss, kind="fsdp", options=options) for loss, options in WITH_OPTIONS),
    ],
    4: [Case(kind="fsdp"), Case(kind="fsdp", dtype=FP32)],
}
QUICK = {Case(loss) for loss in LOSSES}
"""What four processes compute by default, besides what is spread; the rest, which takes them half a minute, is slow."""
ALL = [
    pytest.param(
        processes,
        case,
        marks=pytest.mark.slow if processes == 4 and case in CASES and case not in QUICK else (),
    )
    for processes in (2, 4)
    for case in (*CASES, *SPREAD[processes])
]


@pytest.fixture(scope="module")
def on(request) -> Callable[[int, Case], list[Any]]:
    """What each of several processes makes of a case. They are started once for some cases that follow each other.

    Not once for all: where two workers of pytest share this file, each would compute all of them.
    """
    wanted = [item.callspec.params for item in request.session.items if item.path == request.path]
    results: dict[tuple[int, int], list[Any]] = {}

    def run(processes: int, case: Case) -> list[Any]:
        cases = [params["case"] for params in wanted if params["processes"] == processes]
        group = cases.index(case) // TOGETHER
        if (processes, group) not in results:
            some = cases[group * TOGETHER : (group + 1) * TOGETHER]
            results[processes, group] = run_on(processes, each, some)
        return [found[case] for found in results[processes, group]]

    return run


@pytest.mark.parametrize(("processes", "case"), ALL, ids=str)
def test_processes_equal_one(on, processes: int, case: Case) -> None:
    expected = three_steps(replace(case, micro_batch=0))
    everyones = on(processes, case)
    errors = [found for found in everyones if isinstance(found, str)]
    assert not errors, errors[0]
    losses = {name: np.mean([found[name] for found in everyones]) for name in expected if "loss/" in name}
    relative, absolute = (1e-9, 1e-11) if case.dtype == torch.float64 else (1e-4, 1e-4)
    if any(view.kind == "local" for view in small_loss(case.loss).views):
        relative, absolute = max(relative, 1e-6), max(absolute, 1e-8)  # timm resamples positions in fp32
    for found in everyones:
        assert found.keys() == expected.keys()
        for name, value in (found | losses).items():
            allowed = relative * np.abs(expected[name]).max() + absolute
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=allowed, err_msg=f"{case}: {name}")
