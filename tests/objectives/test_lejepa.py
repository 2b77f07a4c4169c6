"""LeJEPA's two terms against the paper's, one row and one direction at a time."""

from __future__ import annotations

import cmath
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import features_for, make, trained
from openslip.errors import TrainingError
from openslip.needs import Need, View
from openslip.objectives import At, LeJepa
from openslip.objectives.lejepa import directions, epps_pulley
from toys import make_inputs, make_student, make_tiny_config, with_loss

GAUSSIAN = math.sqrt(2 * math.pi) * (1 - math.sqrt(1 / 3))
"""The mean of the statistic of Gaussian rows, however many they are."""
POINT = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + math.sqrt(1 / 3))
"""The statistic of rows that are all 0, for each of them."""


def batch(n: int, seed: int = 0, dim: int = 3, views: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = [f"ssl_{number}" for number in (1, 2)] + [f"local_{number}" for number in range(1, views - 1)]
    return {
        name: (2 * torch.randn(n, dim, dtype=torch.float64, generator=generator)).requires_grad_()
        for name in names
    }


def normal(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(embeddings: dict[str, Tensor], along: Tensor, share: float, points: int, reach: float) -> float:
    """The slow, obvious twin: both integrals whole, with complex numbers, from −reach to reach."""
    views = [view.tolist() for view in embeddings.values()]
    large, n, dim = views[:2], len(views[0]), len(views[0][0])
    distances = []
    for i in range(n):
        for view in views:
            for d in range(dim):
                distances.append((view[i][d] - (large[0][i][d] + large[1][i][d]) / 2) ** 2)
    knots = [-reach + k * reach / (points - 1) for k in range(2 * points - 1)]
    statistics = []
    for view in views:
        for a in along.T.tolist():
            u = [sum(x * y for x, y in zip(row, a)) for row in view]
            heights = []
            for t in knots:
                phi = sum(cmath.exp(1j * t * each) for each in u) / n
                heights.append(abs(phi - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2))
            integral = sum((x + y) / 2 for x, y in itertools.pairwise(heights)) * (knots[1] - knots[0])
            statistics.append(n * integral)
    return (1 - share) * sum(distances) / len(distances) + share * sum(statistics) / len(statistics)


def lejepa(**options: Any) -> LeJepa:
    return make("lejepa", **options)


@given(
    n=st.integers(1, 5),
    seed=st.integers(0, 100),
    views=st.integers(2, 4),
    share=st.floats(0, 1),
    points=st.integers(2, 6),
    reach=st.floats(0.5, 6),
)
def test_equals_the_paper_row_by_row(n, seed, views, share, points, reach) -> None:
    at, embeddings = At(step=seed, seed=3), batch(n, seed, views=views)
    objective = lejepa(directions=4, sigreg=share, points=points, reach=reach, local=views - 2, dim=3)
    expected = plain(embeddings, directions(3, 4, at).double(), share, points, reach)
    ours = objective.loss(embeddings, at)
    assert ours["loss"].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert torch.equal(ours["lejepa_loss"], ours["loss"].detach())
    whole = (1 - share) * ours["lejepa_distance"] + share * ours["lejepa_statistic"]
    assert whole.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_its_gradient_is_that_of_its_values() -> None:
    objective, embeddings = lejepa(directions=3, sigreg=0.5, dim=3, local=1), batch(4, views=3)

    def loss(*views: Tensor) -> Tensor:
        return objective.loss(dict(zip(embeddings, views)), At())["loss"]

    assert torch.autograd.gradcheck(loss, list(embeddings.values()))


def test_it_trains_through_every_view_and_its_projector() -> None:
    objective = lejepa(local=1)
    features = features_for(objective.needs_for(objective.config), 6)
    loss = objective(features, At())["loss"]
    gradients = torch.autograd.grad(loss, [*features.values(), *trained(objective).values()])
    assert len(features) == 3
    assert all(gradient.abs().max() > 0 for gradient in gradients[: len(features)])


def test_the_quadrature_is_close_to_the_integral() -> None:
    """The closed form of the integral over all t, a mean over pairs of rows (Epps & Pulley 1983)."""
    u = normal(40, 1) * 1.3 + 0.4
    apart = (u - u.T).square()
    root = math.sqrt(2 * math.pi)
    whole = root * (
        torch.exp(-apart / 2).mean() - math.sqrt(2) * torch.exp(-u.square() / 4).mean() + math.sqrt(1 / 3)
    )
    found = epps_pulley(u, torch.ones(1, 1, dtype=torch.float64), 9, 5.0)
    assert found.item() == pytest.approx(40 * whole.item(), rel=1e-3)
    assert found.item() == pytest.approx(
        epps_pulley(u, torch.ones(1, 1, dtype=torch.float64), 99, 9.0).item(), rel=1e-3
    )


@pytest.mark.parametrize("rows", [64, 512])
def test_a_gaussian_batch_has_one_whatever_its_size_and_a_point_grows_with_it(rows) -> None:
    along = directions(8, 64, At()).double()
    gaussian = [epps_pulley(normal(rows, 8, seed), along, 9, 5.0).item() for seed in range(32)]
    assert sum(gaussian) / 32 == pytest.approx(GAUSSIAN, rel=0.15)
    point = epps_pulley(torch.zeros(rows, 8, dtype=torch.float64), along, 9, 5.0)
    assert point.item() == pytest.approx(POINT * rows, rel=1e-3)
    assert abs(GAUSSIAN - 1.06) < 0.005
    assert abs(POINT - 0.41) < 0.005


def test_a_model_that_knows_nothing_is_half_a_variance_from_its_centre() -> None:
    """Gaussian embeddings that have nothing to do with the image: the loss of docs/objectives.md."""
    embeddings = {"ssl_1": normal(4000, 8, 1), "ssl_2": normal(4000, 8, 2)}
    result = lejepa(dim=8, directions=64).loss(embeddings, At())
    assert result["lejepa_distance"].item() == pytest.approx(0.5, rel=0.05)
    assert result["lejepa_loss"].item() == pytest.approx(0.95 * 0.5 + 0.05 * GAUSSIAN, rel=0.1)
    same = dict.fromkeys(embeddings, embeddings["ssl_1"])
    assert lejepa(dim=8, directions=64).loss(same, At())["lejepa_distance"].item() == 0


@pytest.mark.parametrize("start", ["point", "line"])
def test_it_spreads_what_has_collapsed(start) -> None:
    """Gradient descent on the embeddings themselves, from one point (but for a little noise) or a short line.

    Short, as rows far out hardly feel the statistic: there the characteristic functions turn too quickly.
    """
    rows, dim = 64, 4
    free = 0.01 * normal(rows, dim)
    if start == "line":
        free = free + normal(rows, 1, 1) * torch.full((dim,), 0.25, dtype=torch.float64)
    free.requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.05)
    for step in range(400):
        loss = epps_pulley(free, directions(dim, 32, At(step=step)).double(), 9, 5.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    variances = torch.linalg.eigvalsh(torch.cov(free.detach().T))
    assert variances.min() > 0.6
    assert variances.max() < 1.4


def test_directions_are_of_length_one_and_follow_from_seed_and_step() -> None:
    found = directions(16, 50, At(step=3, seed=1))
    assert found.shape == (16, 50)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(50))
    torch.manual_seed(9)  # whatever the global generator has drawn
    assert torch.equal(found, directions(16, 50, At(step=3, steps=99, seed=1)))
    assert not torch.equal(found, directions(16, 50, At(step=4, seed=1)))
    assert not torch.equal(found, directions(16, 50, At(step=3, seed=2)))
    before = torch.random.get_rng_state()
    directions(16, 50, At())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_local_crops_are_views_of_their_own() -> None:
    config = with_loss(make_tiny_config(), "lejepa", local=2)
    views = LeJepa.views_for(LeJepa.Config(local=2))
    assert views[2:] == (View("local_1", "local"), View("local_2", "local"))
    assert LeJepa.needs_for(LeJepa.Config(local=2))[2:] == (Need("local_1"), Need("local_2"))
    student = make_student(config)
    assert [view.name for view in student.views] == ["ssl_1", "ssl_2", "local_1", "local_2"]
    result = student(make_inputs(config), At())
    result["loss"].backward()
    assert result["lejepa_distance"] > 0


def test_a_single_image_cannot_train_it() -> None:
    objective = lejepa()
    with pytest.raises(TrainingError, match="single image"):
        objective(features_for(objective.needs, 1), At())
