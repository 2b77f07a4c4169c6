"""SigLIP's loss against the paper's sum over all pairs, one at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.cases import DIMS, captions, chances, features_for, make
from openslip.needs import TEXT, Need
from openslip.objectives import At, SigLip

IDS = Need(TEXT, "ids")


def loss_of(embeddings: dict[str, Tensor], **options) -> dict[str, Tensor]:
    return make("siglip", **options).loss(embeddings, At())


def batch(n: int, seed: int = 0, scale: float = 10.0, kinds: int = 1000) -> dict[str, Tensor]:
    """Return embeddings of n pairs whose captions are of `kinds` kinds."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (3 * torch.randn(n, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    leaves = {"image": image, "text": text, "logit_scale": torch.tensor(scale, dtype=torch.float64)}
    same = torch.randint(kinds, (n, 1), generator=generator) if kinds < 1000 else torch.arange(n)[:, None]
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()} | {"captions": same}


def plain(
    embeddings: dict[str, Tensor], bias: Tensor, labels: list[int] | None = None
) -> tuple[Tensor, float]:
    """The slow, obvious twin: pair by pair."""
    image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
    captions, n = embeddings["captions"].tolist(), len(image)
    total, hits = torch.zeros((), dtype=torch.float64), 0

    def belong(i: int, j: int) -> bool:
        return captions[i] == captions[j] or bool(labels and labels[i] == labels[j] >= 0)

    for i in range(n):
        logits = [embeddings["logit_scale"] * (image[i] @ text[j]) + bias for j in range(n)]
        for j, logit in enumerate(logits):
            z = 1 if belong(i, j) else -1
            total = total - torch.log(1 / (1 + torch.exp(-z * logit)))
        best = max(range(n), key=lambda j: logits[j].item())
        hits += belong(i, best)
    return total / n, hits / n


@given(
    n=st.integers(1, 9),
    block=st.integers(0, 11),
    seed=st.integers(0, 100),
    kinds=st.sampled_from([1, 2, 4, 1000]),
    scale=st.sampled_from([1.0, 10.0, 100.0]),
    bias=st.sampled_from([-10.0, 0.0, 3.0]),
)
def test_equals_the_sum_over_pairs(n, block, seed, kinds, scale, bias) -> None:
    embeddings, objective = batch(n, seed, scale, kinds), make("siglip", block=block, bias=bias)
    expected, accuracy = plain(embeddings, objective.bias)
    ours = objective.loss(embeddings, At())
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(ours["siglip_loss"], ours["loss"].detach())
    assert ours["siglip_acc"].item() == pytest.approx(accuracy)
    inputs = [embeddings["image"], embeddings["text"], embeddings["logit_scale"], objective.bias]
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@given(
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=9),
    block=st.integers(0, 11),
    kinds=st.sampled_from([2, 1000]),
)
def test_texts_of_an_images_class_are_its_texts(labels, block, kinds) -> None:
    embeddings = batch(len(labels), kinds=kinds)
    objective = make("siglip", block=block, bias=-3.0, positives="labels")
    expected, accuracy = plain(embeddings, objective.bias, labels)
    ours = objective.loss(embeddings | {"labels": torch.tensor(labels)}, At())
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-9, atol=1e-12)
    assert ours["siglip_acc"].item() == pytest.approx(accuracy)
    inputs = [embeddings["image"], embeddings["text"], embeddings["logit_scale"], objective.bias]
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_its_gradient_is_that_of_its_values() -> None:
    objective, embeddings = make("siglip", block=2, bias=-1.0), batch(5, kinds=3)

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        given = {"image": image, "text": text, "logit_scale": scale, "captions": embeddings["captions"]}
        return objective.loss(given, At())["loss"]

    assert torch.autograd.gradcheck(loss, [embeddings[k] for k in ("image", "text", "logit_scale")])


def test_it_starts_as_in_the_paper() -> None:
    objective = make("siglip")
    assert objective.bias.item() == -10
    assert SigLip.logit_scale is not None
    assert SigLip.logit_scale.initial == 10
    assert objective.bias.requires_grad


def test_one_pair_is_one_question() -> None:
    result = loss_of({k: v.detach() * 0 for k, v in batch(1).items()})
    assert result["loss"].item() == pytest.approx(math.log1p(math.exp(10)))
    assert result["siglip_acc"].item() == 1


@pytest.mark.parametrize("n", [2, 8, 100])
def test_collapsed_embeddings_with_the_best_bias_are_at_chance(n) -> None:
    same = torch.ones(n, 4, dtype=torch.float64)
    embeddings = {
        "image": same,
        "text": same,
        "logit_scale": torch.tensor(1e-9, dtype=torch.float64),
        "captions": torch.arange(n)[:, None],
    }
    loss, accuracy = chances(SigLip, n)
    result = loss_of(embeddings, bias=-math.log(n - 1) if n > 1 else 0.0)
    assert result["loss"].item() == pytest.approx(loss)
    assert result["siglip_acc"].item() == pytest.approx(accuracy)
    assert accuracy == 1 / n
    for other in (-1, 1):
        assert loss_of(embeddings, bias=-math.log(n - 1) + other)["loss"].item() > loss


def test_an_image_belongs_to_every_text_that_equals_its_own() -> None:
    """The same image and caption twice: as the diagonal has it, each would be the other's negative."""
    once = batch(4)
    twice = {k: v.repeat(2, 1) if v.ndim else v for k, v in once.items()}
    told_apart = twice | {"captions": torch.arange(8)[:, None]}
    torch.testing.assert_close(loss_of(twice)["loss"], 2 * loss_of(once)["loss"])
    torch.testing.assert_close(loss_of(twice)["siglip_acc"], loss_of(once)["siglip_acc"])
    assert loss_of(told_apart)["loss"].item() != pytest.approx(loss_of(twice)["loss"].item(), rel=1e-3)


def test_far_logits_cost_nothing_or_what_they_are_off_by() -> None:
    """No overflow, and no loss of small numbers, where exp of a logit would be neither."""
    eye = torch.eye(4)
    embeddings = {"image": eye, "text": eye, "captions": torch.arange(4)[:, None]}
    right = loss_of(embeddings | {"logit_scale": torch.tensor(1000.0)}, bias=-500.0)
    wrong = loss_of(embeddings | {"logit_scale": torch.tensor(1000.0), "image": -eye}, bias=-500.0)
    assert right["loss"].item() == 0
    assert wrong["loss"].item() == pytest.approx(1500)
    near = loss_of(embeddings | {"logit_scale": torch.tensor(40.0)}, bias=-20.0)
    assert near["loss"].item() == pytest.approx(4 * math.exp(-20), rel=1e-5)


def test_repeats_bit_for_bit() -> None:
    def once() -> list[Tensor]:
        embeddings = batch(50, kinds=20)
        loss = loss_of(embeddings, block=16)["loss"]
        return [loss, *torch.autograd.grad(loss, [embeddings["image"], embeddings["logit_scale"]])]

    for one, other in zip(once(), once()):
        assert torch.equal(one, other)


def test_memory_does_not_hold_the_matrix() -> None:
    """No tensor made on the way, there or back, has N · M numbers; none of a block waits for the backward pass."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return out

    n, block, saved = 256, 16, []
    embeddings, objective = batch(n), make("siglip", block=block)
    with Watch(), torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        loss = objective.loss(embeddings, At())["loss"]
        kept = max(tensor.numel() for tensor in saved)
        loss.backward()
    assert largest == block * n
    assert kept <= n * 8


@pytest.mark.parametrize("context", [9, 0, 30])
def test_captions_are_equal_where_their_tokens_are(context) -> None:
    """Whatever the longest text of a process is, and the tower's context."""
    dims = type(DIMS)(**{**vars(DIMS), "context": context})
    ids = captions(12, DIMS, torch.Generator().manual_seed(2))
    objective = make("siglip", dims=dims)
    features = features_for(objective.needs, 12)
    found = objective.embed(features | {IDS: ids})["captions"]
    for i in range(12):
        for j in range(12):
            assert torch.equal(found[i], found[j]) == torch.equal(ids[i], ids[j])
    if context:
        short = ids[(ids > 0).sum(1) < 7][:, :7]
        assert objective.embed(features | {IDS: short})["captions"].shape[1] == found.shape[1]


def test_several_captions_are_told_apart_from_those_of_their_own_place() -> None:
    several, one = make("siglip", captions=2), make("siglip")
    features = features_for(several.needs_for(several.config), 9)
    found = several(features, At())
    each = [
        one({replace(n, captions=1): f[:, place] if n.captions > 1 else f for n, f in features.items()}, At())
        for place in range(2)
    ]
    for name, value in found.items():
        expected = torch.stack([values[name] for values in each]).mean()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
