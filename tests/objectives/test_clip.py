"""CLIP's loss against the two cross-entropies of the whole matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from objectives.cases import chances, features_for, make
from openslip.errors import ConfigError
from openslip.objectives import At, Clip


def loss_of(embeddings: dict[str, Tensor], block: int = 1024) -> dict[str, Tensor]:
    return make("clip", block=block).loss(embeddings, At())


def batch(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (3 * torch.randn(n, 8, dtype=dtype, generator=generator) for _ in range(2))
    scale = torch.tensor(1 / 0.07, dtype=dtype)
    return {k: v.requires_grad_() for k, v in {"image": image, "text": text, "logit_scale": scale}.items()}


def plain(embeddings: dict[str, Tensor]) -> tuple[Tensor, float]:
    """The slow, obvious twin."""
    image = F.normalize(embeddings["image"], dim=-1)
    text = F.normalize(embeddings["text"], dim=-1)
    per_image = embeddings["logit_scale"] * image @ text.T
    labels = torch.arange(len(image))
    loss = (F.cross_entropy(per_image, labels) + F.cross_entropy(per_image.T, labels)) / 2
    return loss, (per_image.argmax(1) == labels).double().mean().item()


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 20), block=st.integers(0, 24), seed=st.integers(0, 100))
def test_equals_the_whole_matrix(n: int, block: int, seed: int) -> None:
    embeddings = batch(n, seed)
    expected, accuracy = plain(embeddings)
    ours = loss_of(embeddings, block)
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(ours["clip_loss"], ours["loss"].detach())
    assert ours["clip_acc"].item() == pytest.approx(accuracy)
    inputs = list(embeddings.values())
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=15),
    block=st.integers(0, 16),
    seed=st.integers(0, 100),
)
def test_positives_of_labels_are_a_target_uniform_over_the_class(labels, block, seed) -> None:
    """Against the cross-entropies with the whole target distribution, in both directions."""
    embeddings, n = batch(len(labels), seed), len(labels)
    target = torch.eye(n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            target[i, j] = float(i == j or (labels[i] == labels[j] and labels[i] >= 0))
    per_image = (
        embeddings["logit_scale"] * F.normalize(embeddings["image"]) @ F.normalize(embeddings["text"]).T
    )
    hits = [bool(target[i, best]) for i, best in enumerate(per_image.argmax(1).tolist())]
    target = target / target.sum(1, keepdim=True)
    expected = (F.cross_entropy(per_image, target) + F.cross_entropy(per_image.T, target)) / 2
    objective = make("clip", block=block, positives="labels")
    ours = objective.loss(embeddings | {"labels": torch.tensor(labels)}, At())
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-6, atol=1e-9)
    assert ours["clip_acc"].item() == pytest.approx(sum(hits) / n)
    inputs = list(embeddings.values())
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_rows_without_a_class_make_the_loss_of_pairs() -> None:
    embeddings = batch(9)
    objective = make("clip", block=4, positives="labels")
    found = objective.loss(embeddings | {"labels": torch.full((9,), -1)}, At())
    for name, value in loss_of(embeddings, 4).items():
        assert torch.equal(found[name], value)


def test_one_pair_costs_nothing() -> None:
    result = loss_of(batch(1))
    assert result["loss"].item() == 0
    assert result["clip_acc"].item() == 1


def test_collapsed_embeddings_are_at_chance() -> None:
    embeddings = {"image": torch.ones(8, 4), "text": torch.ones(8, 4), "logit_scale": torch.tensor(10.0)}
    result = loss_of(embeddings, block=3)
    loss, accuracy = chances(Clip, 8)
    assert result["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert loss == pytest.approx(math.log(8))
    assert result["clip_acc"].item() == accuracy == 1 / 8


def test_fp32_loss_under_bf16_autocast() -> None:
    embeddings = {k: v.detach().float() for k, v in batch(64).items()}
    leaves = {k: v.clone().requires_grad_() for k, v in embeddings.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_of(leaves, block=16)["loss"]
        inside.backward()
    assert inside.dtype == torch.float32
    outside = {k: v.clone().requires_grad_() for k, v in embeddings.items()}
    loss = loss_of(outside, block=16)["loss"]
    loss.backward()
    assert torch.equal(inside, loss)
    for name in leaves:
        assert torch.equal(leaves[name].grad, outside[name].grad)  # type: ignore[arg-type]


def test_half_precision_embeddings_get_their_gradient() -> None:
    embeddings = {k: v.detach().float().requires_grad_() for k, v in batch(16).items()}
    embeddings["image"] = embeddings["image"].detach().bfloat16().requires_grad_()
    loss_of(embeddings)["loss"].backward()
    assert embeddings["image"].grad is not None
    assert embeddings["image"].grad.dtype == torch.bfloat16


def test_values_reported_hold_no_graph() -> None:
    result = loss_of(batch(4))
    assert result["loss"].requires_grad
    assert not result["clip_loss"].requires_grad
    assert not result["clip_acc"].requires_grad


@pytest.mark.parametrize("options", [{}, {"equal": "ignore"}, {"positives": "labels", "smoothing": 0.1}])
def test_several_captions_are_told_apart_from_those_of_their_own_place(options) -> None:
    """The mean over places of the loss of one caption, each against the batch's captions of that place."""
    several, one = make("clip", captions=3, **options), make("clip", **options)
    features = features_for(several.needs_for(several.config), 9)
    found, each = several(features, At()), []
    for place in range(3):
        own = {
            replace(need, captions=1): feature[:, place] if need.captions > 1 else feature
            for need, feature in features.items()
        }
        each.append(one(own, At()))
    for name, value in found.items():
        expected = torch.stack([values[name] for values in each]).mean()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["loss"].detach(), found["clip_loss"])


def test_the_running_numbers_are_of_one_caption() -> None:
    with pytest.raises(ConfigError, match="room for one caption in a step"):
        make("clip", captions=2, negatives="global")
