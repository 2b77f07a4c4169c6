"""CLIP's gradient as the reference implementation computes it on several processes, against its formula."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distributed.ranks import run_on
from openslip.collectives import add_up, gather_rows, rank, world
from openslip.objectives import At, Clip, Dims

ROWS, DIM, SCALE = 8, 5, 7.0


def embeddings() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64) for name in ("image", "text")
    }


def gradients_of_this_process(gradient: Literal["exact", "reference"]) -> dict[str, np.ndarray]:
    """Return the gradients of this process's loss, as DistributedDataParallel would average them."""
    mine = {
        name: value.chunk(world())[rank()].clone().requires_grad_() for name, value in embeddings().items()
    }
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    clip = Clip(Clip.Config(block=3, gradient=gradient), Dims(DIM))
    loss = clip.loss({**mine, "logit_scale": scale}, At())["loss"]
    *of_mine, of_scale = torch.autograd.grad(loss, [*mine.values(), scale])
    found = {name: gradient / world() for name, gradient in zip(mine, of_mine)}
    found |= {"loss": add_up(loss.detach()) / world(), "scale": add_up(of_scale) / world()}
    return {name: value.numpy() for name, value in found.items()}


def formula(processes: int) -> dict[str, np.ndarray]:
    """Each process's rows against all others' as constants, averaged over the processes."""
    leaves = {name: value.requires_grad_() for name, value in embeddings().items()}
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    image, text = (F.normalize(leaves[name], dim=-1) for name in ("image", "text"))
    labels = torch.arange(ROWS)
    losses = [
        F.cross_entropy(scale * mine[part] @ others.detach().T, labels[part]) / 2
        for part in torch.arange(ROWS).chunk(processes)
        for mine, others in ((image, text), (text, image))
    ]
    loss = torch.stack(losses).sum() / processes
    leaves["scale"] = scale
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())))) | {"loss": loss.detach()}
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("processes", [2, 4])
def test_it_is_the_partial_gather(processes: int) -> None:
    found, expected = run_on(processes, gradients_of_this_process, "reference"), formula(processes)
    for name in ("image", "text"):
        np.testing.assert_allclose(np.concatenate([f[name] for f in found]), expected[name], rtol=1e-10)
    for name in ("loss", "scale"):
        np.testing.assert_allclose(found[0][name], expected[name], rtol=1e-10)


def test_it_is_not_the_exact_one_unless_alone() -> None:
    exact = gradients_of_this_process("exact")
    (alone,) = run_on(1, gradients_of_this_process, "reference")
    np.testing.assert_array_equal(alone["image"], exact["image"])
    partial = np.concatenate([f["image"] for f in run_on(2, gradients_of_this_process, "reference")])
    assert np.abs(partial - exact["image"]).max() > 0.05 * np.abs(exact["image"]).max()


def rows_and_sums() -> tuple[np.ndarray, ...]:
    rows = torch.full((2, 3), float(rank() + 1), requires_grad=True)
    total = torch.tensor(float(rank() + 1), requires_grad=True)
    gathered, added = gather_rows(rows), add_up(total)
    # A loss that differs by process: row i of all counts i times for the first process, not at all for the others.
    weights = torch.arange(len(gathered)).float()[:, None] * (rank() == 0)
    ((gathered * weights).sum() + added * (rank() + 1)).backward()
    assert rows.grad is not None
    assert total.grad is not None
    return tuple(t.detach().numpy() for t in (gathered, rows.grad, added, total.grad))


def test_rows_and_sums_of_all_processes() -> None:
    for number, (gathered, rows_gradient, added, gradient) in enumerate(run_on(2, rows_and_sums)):
        np.testing.assert_array_equal(gathered[:, 0], [1, 1, 2, 2])
        np.testing.assert_array_equal(rows_gradient[:, 0], [2 * number, 2 * number + 1])
        assert added == 3
        assert gradient == 3  # 1 from the first process's loss, 2 from the second's
