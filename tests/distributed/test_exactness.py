"""One step, and three, on 1, 2 and 4 processes: the same losses, gradients, statistics and weights.

For CLIP, SimCLR and SLIP, in fp64 and fp32, with the similarities in blocks and whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from distributed.ranks import run_on
from openslip.collectives import rank, world
from openslip.config import SSL_VIEWS
from openslip.models import build
from openslip.objectives import parse
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import parallelise
from openslip.training.step import Inputs, backward, gradient_norm
from toys import make_tiny_config

ROWS, SIZE = 8, 32


@dataclass(frozen=True)
class Case:
    loss: str = "clip + 1.0 * simclr"
    dtype: torch.dtype = torch.float64
    block: int = 3
    tower: str = "vit"
    kind: str = "ddp"
    micro_batch: int = 0
    clip_grad: float = 0.0
    drop_path: float = 0.3
    drop_tokens: float = 0.0
    ssl_rows: int = ROWS
    offload: bool = False

    def __str__(self) -> str:
        default = Case()
        given = {k: str(v) for k, v in vars(self).items() if v != getattr(default, k)}
        return ", ".join(f"{k} {v.removeprefix('torch.')}" for k, v in given.items()) or "default"


def batch(needs: tuple[str, ...], case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    rows = {name: case.ssl_rows if name in SSL_VIEWS else ROWS for name in needs if name != "text"}
    views = {
        name: torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=case.dtype) for name, n in rows.items()
    }
    tokens = torch.zeros(ROWS, 12, dtype=torch.long)
    for row in range(ROWS):
        length = 3 + row % 7
        tokens[row, :length] = torch.randint(1, 400, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = 49406, 49407
    return Inputs(views, tokens if "text" in needs else None)


def three_steps(case: Case) -> dict[str, np.ndarray]:
    """Train on this process's share; return the first step's losses and gradients, and the state after the third."""
    config = make_tiny_config()
    image = replace(config.model.image, name=case.tower, drop_path=case.drop_path)
    objective = parse(case.loss, block=case.block)
    torch.manual_seed(0)
    views = replace(config.views, size=SIZE, ssl=replace(config.views.ssl, drop_tokens=case.drop_tokens))
    model = build(replace(config.model, image=image), SIZE, objective.needs, views).to(case.dtype).train()
    parallel = parallelise(model, case.kind, offload=case.offload)
    # With the usual eps AdamW makes steps of rounding errors where a gradient is zero, as before a BatchNorm.
    optimizer = build_optimizer(parallel.model, replace(config.optimizer, lr=1e-2, eps=1e-2))
    part = list(batch(objective.needs, case).split(ROWS // world()))[rank()]
    share = Inputs(part.views, part.tokens)
    found: dict[str, Any] = {}
    for step in range(3):
        losses = backward(
            parallel, objective, share, dtype=torch.float32, micro_batch=case.micro_batch, seed=step
        )
        norm = gradient_norm(parallel.model, case.clip_grad)
        if step == 0:
            found |= {f"loss/{name}": value for name, value in losses.items()} | {"norm": torch.tensor(norm)}
            gradients = {name: p.grad for name, p in parallel.model.named_parameters() if p.grad is not None}
            found |= {f"gradient/{name}": whole(value) for name, value in gradients.items()}
        optimizer.step()
        optimizer.zero_grad()
    found |= {f"weights/{name}": whole(value) for name, value in parallel.model.state_dict().items()}
    return {name: np.array(value.detach()) for name, value in found.items()}


def whole(gradient: Any) -> torch.Tensor:
    return (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).clone()


def assert_same(case: Case, processes: int, expected: dict[str, np.ndarray]) -> None:
    everyones = run_on(processes, three_steps, case)
    losses = {name: np.mean([found[name] for found in everyones]) for name in expected if "loss/" in name}
    relative, absolute = (1e-9, 1e-11) if case.dtype == torch.float64 else (1e-4, 1e-4)
    for found in everyones:
        assert found.keys() == expected.keys()
        for name, value in (found | losses).items():
            allowed = relative * np.abs(expected[name]).max() + absolute
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=allowed, err_msg=f"{case}: {name}")


FP32 = torch.float32
CASES = [
    *(
        Case(loss, dtype, block)
        for loss in (Case().loss, "clip", "simclr")
        for dtype in (torch.float64, FP32)
        for block in (3, 0)
    ),
    Case(micro_batch=1, clip_grad=0.01),
    Case(micro_batch=1, dtype=FP32),
    Case(tower="test_resnet"),
    Case(drop_tokens=0.5, ssl_rows=4),
    Case(drop_tokens=0.5, ssl_rows=4, micro_batch=1),
]
SPREAD = [
    (2, Case(kind="fsdp")),
    (4, Case(kind="fsdp")),
    (4, Case(kind="fsdp", dtype=FP32)),
    (2, Case(kind="fsdp", micro_batch=2, clip_grad=0.01)),
]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_processes_equal_one(case: Case, processes: int) -> None:
    one = replace(case, micro_batch=0)
    assert_same(case, processes, three_steps(one))


@pytest.mark.parametrize(("processes", "case"), SPREAD, ids=str)
def test_spread_weights_equal_whole_ones(case: Case, processes: int) -> None:
    assert_same(case, processes, three_steps(replace(case, micro_batch=0)))
