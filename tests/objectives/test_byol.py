"""BYOL's loss against the paper's, one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import DIMS, chances, features_for, make, trained
from openslip.errors import TrainingError
from openslip.needs import Need
from openslip.objectives import At, Byol

NAMES = [f"{kind}_ssl_{n}" for kind in ("projected", "predicted", "target") for n in (1, 2)]


def loss_of(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    return Byol(Byol.Config(width=4, dim=4), DIMS).loss(embeddings, At())


def batch(n: int, seed: int = 0, dim: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (3 * torch.randn(n, dim, dtype=torch.float64, generator=generator)).requires_grad_()
        for name in NAMES
    }


def plain(embeddings: dict[str, Tensor]) -> tuple[Tensor, float]:
    """The slow, obvious twin: the squared distance of what is of length 1, for each image and direction."""
    losses, points = [], []
    for n in range(len(embeddings["target_ssl_1"])):
        for mine, other in (("ssl_1", "ssl_2"), ("ssl_2", "ssl_1")):
            q, z = embeddings[f"predicted_{mine}"][n], embeddings[f"target_{other}"][n].detach()
            losses.append(((q / q.norm() - z / z.norm()) ** 2).sum())
            p = embeddings[f"projected_{mine}"][n].detach()
            points.append((p / p.norm()).tolist())
    deviations = []
    for values in zip(*points):
        mean = sum(values) / len(values)
        deviations.append(math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)))
    spread = math.sqrt(len(deviations)) * sum(deviations) / len(deviations)
    return torch.stack(losses).sum() / (len(losses) / 2), spread


@given(n=st.integers(1, 9), seed=st.integers(0, 100), dim=st.integers(1, 6))
def test_equals_the_paper_row_by_row(n, seed, dim) -> None:
    embeddings = batch(n, seed, dim)
    expected, spread = plain(embeddings)
    ours = loss_of(embeddings)
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(ours["byol_loss"], ours["loss"].detach())
    assert ours["byol_std"].item() == pytest.approx(spread, abs=1e-12)
    inputs = [embeddings[name] for name in NAMES if "predicted" in name]
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_no_gradient_but_the_predictions() -> None:
    embeddings = batch(4)
    gradients = torch.autograd.grad(loss_of(embeddings)["loss"], list(embeddings.values()), allow_unused=True)
    found = {name for name, gradient in zip(embeddings, gradients) if gradient is not None}
    assert found == {"predicted_ssl_1", "predicted_ssl_2"}


def test_agreeing_costs_nothing_and_disagreeing_eight() -> None:
    embeddings = batch(3)
    for mine, other in (("ssl_1", "ssl_2"), ("ssl_2", "ssl_1")):
        embeddings[f"predicted_{mine}"] = 2 * embeddings[f"target_{other}"].detach()
    assert loss_of(embeddings)["loss"].item() == pytest.approx(0, abs=1e-12)
    for name in ("predicted_ssl_1", "predicted_ssl_2"):
        embeddings[name] = -embeddings[name]
    assert loss_of(embeddings)["loss"].item() == pytest.approx(8)


def test_the_spread_tells_collapse() -> None:
    far = batch(2000, dim=64)
    assert loss_of(far)["byol_std"].item() == pytest.approx(1, abs=0.02)
    assert loss_of(far)["loss"].item() == pytest.approx(chances(Byol, 2000, 2000)[0], abs=0.1)
    point = {name: torch.ones(50, 64) for name in NAMES}
    collapsed = loss_of(point)
    assert collapsed["byol_std"].item() == pytest.approx(0, abs=1e-6)
    assert collapsed["loss"].item() == pytest.approx(0, abs=1e-5)
    one = {name: rows[:1] for name, rows in point.items()}
    assert loss_of(one)["byol_std"].item() == pytest.approx(0, abs=1e-6)


def test_its_gradient_is_that_of_its_values() -> None:
    """Through projector and predictor, by the parameters too; the teacher has none."""
    objective = make("byol")
    features = features_for(objective.needs, 5)
    student = [Need("ssl_1"), Need("ssl_2")]

    def loss(one: Tensor, two: Tensor) -> Tensor:
        return objective(features | dict(zip(student, (one, two))), At())["loss"]

    assert torch.autograd.gradcheck(loss, [features[need] for need in student])
    loss(*(features[need] for need in student)).backward()
    assert all(p.grad is not None for p in trained(objective).values())
    assert not any("teacher" in name for name in trained(objective))
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_what_passes_which_head() -> None:
    objective = make("byol")
    features = features_for(objective.needs, 5)
    embeddings = objective.embed(features)
    for name in ("ssl_1", "ssl_2"):
        projected = objective.projector(features[Need(name)])
        torch.testing.assert_close(embeddings[f"projected_{name}"], projected)
        torch.testing.assert_close(embeddings[f"predicted_{name}"], objective.predictor(projected))
        target = objective.teacher["projector"](features[Need(name, by="teacher")])
        torch.testing.assert_close(embeddings[f"target_{name}"], target)
        assert not embeddings[f"target_{name}"].requires_grad


def test_the_momentum_rises_to_one_along_a_cosine() -> None:
    objective = Byol(Byol.Config(width=4, dim=4, momentum=0.9), DIMS)
    found = [objective.momentum(At(step, 100)) for step in range(101)]
    assert found[0] == pytest.approx(0.9)
    assert found[50] == pytest.approx(0.95)
    assert found[25] == pytest.approx(1 - 0.1 * (math.sqrt(0.5) + 1) / 2)
    assert found[100] == 1
    assert found == sorted(found)


def test_a_single_image_cannot_train_it() -> None:
    objective = make("byol")
    with pytest.raises(TrainingError, match="single image"):
        objective(features_for(objective.needs, 1), At())


def test_without_a_teacher_there_is_no_target() -> None:
    objective = make("byol")
    objective.teacher = None
    with pytest.raises(TrainingError, match="no teacher"):
        objective(features_for(objective.needs, 4), At())
