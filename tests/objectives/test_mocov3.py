"""MoCo v3's loss against the paper's algorithm, one row at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import DIMS, chances, features_for, make, trained
from openslip.errors import TrainingError
from openslip.needs import Need
from openslip.objectives import At, MoCoV3

NAMES = [f"{kind}_ssl_{n}" for kind in ("query", "key") for n in (1, 2)]


def loss_of(embeddings: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    return MoCoV3(MoCoV3.Config(width=4, dim=4, **options), DIMS).loss(embeddings, At())


def batch(n: int, seed: int = 0, dim: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (3 * torch.randn(n, dim, dtype=torch.float64, generator=generator)).requires_grad_()
        for name in NAMES
    }


def plain(embeddings: dict[str, Tensor], temperature: float) -> tuple[Tensor, float, float]:
    """The slow, obvious twin: algorithm 1, a query at a time. Returns the loss, the cross-entropy, the accuracy."""
    losses, hits = [], []
    count = len(embeddings["key_ssl_1"])
    for mine, other in (("ssl_1", "ssl_2"), ("ssl_2", "ssl_1")):
        for n in range(count):
            q = embeddings[f"query_{mine}"][n]
            cosines = []
            for m in range(count):
                k = embeddings[f"key_{other}"][m].detach()
                cosines.append((q @ k) / (q.norm() * k.norm()))
            odds = torch.stack(cosines).div(temperature).exp()
            losses.append(-(odds[n] / odds.sum()).log())
            hits.append(int(odds.argmax()) == n)
    total = 2 * temperature * torch.stack(losses).sum() / count
    return total, sum(map(float, losses)) / len(losses), sum(hits) / len(hits)


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 7), seed=st.integers(0, 100), temperature=st.sampled_from((0.07, 0.2, 1.0)))
def test_equals_the_paper_row_by_row(n, seed, temperature) -> None:
    embeddings = batch(n, seed)
    expected, cross, accuracy = plain(embeddings, temperature)
    ours = loss_of(embeddings, temperature=temperature, block=3)
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-9, atol=1e-12)
    assert ours["mocov3_loss"].item() == pytest.approx(cross, abs=1e-9)
    assert ours["mocov3_acc"].item() == pytest.approx(accuracy, abs=1e-6)
    queries = [embeddings[name] for name in NAMES if "query" in name]
    for one, other in zip(torch.autograd.grad(ours["loss"], queries), torch.autograd.grad(expected, queries)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_no_gradient_but_the_queries() -> None:
    embeddings = batch(4)
    gradients = torch.autograd.grad(loss_of(embeddings)["loss"], list(embeddings.values()), allow_unused=True)
    found = {name for name, gradient in zip(embeddings, gradients) if gradient is not None}
    assert found == {"query_ssl_1", "query_ssl_2"}


def test_agreeing_is_found_and_a_point_is_at_chance() -> None:
    embeddings = batch(6, dim=64)
    for mine, other in (("ssl_1", "ssl_2"), ("ssl_2", "ssl_1")):
        embeddings[f"query_{mine}"] = 2 * embeddings[f"key_{other}"].detach()
    assert loss_of(embeddings)["mocov3_acc"] == 1
    point = loss_of({name: torch.ones(50, 64) for name in NAMES})
    assert point["mocov3_loss"].item() == pytest.approx(chances(MoCoV3, 50, 50)[0], abs=1e-5)
    assert chances(MoCoV3, 50, 50)[0] == pytest.approx(math.log(50))


def test_what_passes_which_head() -> None:
    objective = make("mocov3")
    features = features_for(objective.needs, 5)
    embeddings = objective.embed(features)
    for name in ("ssl_1", "ssl_2"):
        query = objective.predictor(objective.projector(features[Need(name)]))
        torch.testing.assert_close(embeddings[f"query_{name}"], query)
        key = objective.teacher["projector"](features[Need(name, by="teacher")])
        torch.testing.assert_close(embeddings[f"key_{name}"], key)
        assert not embeddings[f"key_{name}"].requires_grad
        # Both heads end in a norm without weights.
        assert query.mean(0).abs().max() < 1e-9
        assert query.std(0, correction=0).sub(1).abs().max() < 1e-2
    objective.loss(embeddings, At())["loss"].backward()
    assert all(p.grad is not None for p in trained(objective).values())
    assert not any("teacher" in name for name in trained(objective))


def test_the_momentum_rises_to_one_along_a_cosine() -> None:
    objective = MoCoV3(MoCoV3.Config(width=4, dim=4), DIMS)
    assert [objective.momentum(At(step, 100)) for step in (0, 50, 100)] == pytest.approx([0.99, 0.995, 1])


def test_what_it_cannot_train_on_is_said() -> None:
    objective = make("mocov3")
    with pytest.raises(TrainingError, match="single image"):
        objective(features_for(objective.needs, 1), At())
    objective.teacher = None
    with pytest.raises(TrainingError, match="no teacher"):
        objective(features_for(objective.needs, 4), At())
