"""SimCLR's loss against NT-Xent written as the paper writes it, one term at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from objectives.cases import DIMS, chances, features_for, make
from openslip.objectives import At, SimClr


def loss_of(embeddings: dict[str, Tensor], **options) -> dict[str, Tensor]:
    return SimClr(SimClr.Config(width=4, dim=4, **options), DIMS).loss(embeddings, At())


def batch(n: int, seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, 8, dtype=torch.float64, generator=generator)
    second = first + spread * torch.randn(n, 8, dtype=torch.float64, generator=generator)
    return {"ssl_1": first.requires_grad_(), "ssl_2": (2 * second).detach().requires_grad_()}


def plain(embeddings: dict[str, Tensor], temperature: float) -> tuple[Tensor, float]:
    """The slow, obvious twin: for each view, its twin against all views but itself."""
    n = len(embeddings["ssl_1"])
    views = [F.normalize(v, dim=0) for name in ("ssl_1", "ssl_2") for v in embeddings[name]]
    losses, hits = [], []
    for i, view in enumerate(views):
        others = [j for j in range(2 * n) if j != i]
        logits = torch.stack([view @ views[j] / temperature for j in others])
        twin = others.index((i + n) % (2 * n))
        losses.append(-logits.log_softmax(0)[twin])
        hits.append(logits.argmax().item() == twin)
    return torch.stack(losses).mean(), sum(hits[:n]) / n


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 9),
    block=st.integers(0, 20),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    seed=st.integers(0, 100),
)
def test_equals_the_paper_term_by_term(n: int, block: int, temperature: float, seed: int) -> None:
    embeddings = batch(n, seed)
    expected, accuracy = plain(embeddings, temperature)
    ours = loss_of(embeddings, temperature=temperature, block=block)
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(ours["simclr_loss"], ours["loss"].detach())
    assert ours["simclr_acc"].item() == pytest.approx(accuracy)
    inputs = list(embeddings.values())
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_one_image_costs_nothing() -> None:
    result = loss_of(batch(1))
    assert result["loss"].item() == pytest.approx(0, abs=1e-12)
    assert result["simclr_acc"].item() == 1


def test_equal_twins_far_from_the_rest_are_found() -> None:
    embeddings = {"ssl_1": torch.eye(8), "ssl_2": torch.eye(8)}
    result = loss_of(embeddings, temperature=0.1, block=5)
    assert result["loss"].item() == pytest.approx(math.log(1 + 14 * math.exp(-10)), abs=1e-5)
    assert result["simclr_acc"].item() == 1


def test_collapsed_embeddings_are_near_chance() -> None:
    result = loss_of({"ssl_1": torch.ones(8, 4), "ssl_2": torch.ones(8, 4)})
    loss = chances(SimClr, 100, 8)[0]
    assert result["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert loss == pytest.approx(math.log(15))
    assert result["simclr_acc"].item() <= 1 / 8


def test_each_view_is_normalised_by_statistics_of_its_own() -> None:
    """The two views pass the head one after the other: what is added to all of one of them changes nothing."""
    objective = make("simclr")
    features = features_for(objective.needs, 7)
    shifted = {need: x + 5 if need.view == "ssl_1" else x for need, x in features.items()}
    torch.testing.assert_close(objective(shifted, At())["loss"], objective(features, At())["loss"])
    head = copy.deepcopy(objective.head)
    embeddings = objective.embed(features)
    for need, feature in features.items():
        torch.testing.assert_close(embeddings[need.view], head(feature))


def test_the_head_has_the_sizes_of_the_options() -> None:
    head = SimClr(SimClr.Config(width=24, dim=10), DIMS).head
    assert [tuple(layer.weight.shape) for layer in (head.layer1, head.layer2, head.layer3)] == [
        (24, DIMS.width), (24, 24), (10, 24),
    ]  # fmt: skip
