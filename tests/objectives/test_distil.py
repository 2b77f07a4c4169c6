"""Learning from a fixed model, against the formulas written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from objectives.cases import DIMS, FIXED, features_for, make
from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError
from openslip.needs import IMAGE, SSL_VIEWS, TEXT, Need
from openslip.objectives import At, Distil, Preserve, parse
from openslip.objectives.distil import divergence

LIKE = replace(DIMS, fixed=DIMS)
"""Of a fixed model as wide as the student, as what a run starts from."""


def made(name: str, dims=DIMS, rows: int = 7, **options):
    """Return an objective, random features of what it needs, and its values for them."""
    objective = make(name, dims=dims, **options)
    features = features_for(objective.needs_for(objective.config), rows, dims=dims)
    return objective, features, objective(features, At())


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def mean_distance(rows: Tensor, targets: Tensor) -> float:
    """Return the mean squared distance of rows at length 1, from its definition."""
    distances = [(x / x.norm() - t / t.norm()).square().sum() for x, t in zip(rows, targets)]
    return float(torch.stack(distances).mean())


def slow_divergence(x: Tensor, y: Tensor, a: Tensor, b: Tensor, temperature: float, *, apart: bool) -> float:
    """Return the mean over rows of KL(q ‖ p): p by the student's rows x and keys y, q by the teacher's a and b."""
    total = 0.0
    for n in range(len(x)):
        keys = [m for m in range(len(y)) if not (apart and m == n)]
        p = [math.exp(cosine(x[n], y[m]) / temperature) for m in keys]
        q = [math.exp(cosine(a[n], b[m]) / temperature) for m in keys]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        total += sum(one * math.log(one / other) for one, other in zip(q, p))
    return total / len(x)


def parts(objective, features) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by view, and for texts, what is compared: through an own application of the heads."""
    found = {}
    for need, feature in features.items():
        if need.by == "student":
            head = None
            if need.out == "feature" and objective.name == "distil":
                head = objective.text_head if need.view == TEXT else objective.image_head
            rows = feature if head is None else feature @ head.weight.T + head.bias
            (target,) = (
                f for other, f in features.items() if other.by == "fixed" and other.view == need.view
            )
            found[need.view] = rows.detach(), target
    return found


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("match", "dims"), [("feature", DIMS), ("embedding", DIMS), ("feature", LIKE)])
@pytest.mark.parametrize("name", ["distil", "preserve"])
def test_it_is_the_distance_of_vectors_of_length_one(name, match, dims, text) -> None:
    if name == "preserve" and match == "feature":
        dims = LIKE
    objective, features, values = made(name, dims, match=match, text=text, kl=0.0)
    compared = parts(objective, features)
    assert compared.keys() == {"image", TEXT} if text else {"image"}
    expected = sum(mean_distance(*pair) for pair in compared.values())
    assert values["loss"].item() == pytest.approx(expected)
    assert values[f"{name}_loss"].item() == pytest.approx(expected)
    cosines = {view: 1 - mean_distance(*pair) / 2 for view, pair in compared.items()}
    assert values[f"{name}_cos"].item() == pytest.approx(cosines["image"])
    assert (f"{name}_text_cos" in values) is text
    if text:
        assert values[f"{name}_text_cos"].item() == pytest.approx(cosines[TEXT])


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("block", [0, 2, 100])
@pytest.mark.parametrize("name", ["distil", "preserve"])
def test_the_divergence_is_that_of_the_softmaxes_over_the_batch(name, block, text) -> None:
    options = {"text": text, "kl": 0.3, "temperature": 0.4, "block": block}
    objective, features, values = made(name, **options)
    compared = parts(objective, features)
    x, a = compared["image"]
    if text:
        y, b = compared[TEXT]
        pairs = (slow_divergence(x, y, a, b, 0.4, apart=False), slow_divergence(y, x, b, a, 0.4, apart=False))
        expected = sum(pairs) / 2
    else:
        expected = slow_divergence(x, x, a, a, 0.4, apart=True)
    assert values[f"{name}_kl"].item() == pytest.approx(expected)
    plain = sum(mean_distance(*pair) for pair in compared.values())
    assert values["loss"].item() == pytest.approx(plain + 0.3 * expected)


@pytest.mark.parametrize("apart", [False, True])
def test_the_divergence_has_the_gradient_of_torchs_own(apart) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 4), (5, 4), (5, 6), (5, 6))
    x, y, a, b = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes)
    x.requires_grad_()
    y.requires_grad_()
    found = divergence((x, a), (y, b), 2.5, block=2, apart=apart)
    logits, target = 2.5 * x @ y.T, 2.5 * a @ b.T
    if apart:
        logits, target = (z[~torch.eye(5, dtype=torch.bool)].view(5, 4) for z in (logits, target))
    kl = nn.KLDivLoss(reduction="batchmean", log_target=True)
    expected = kl(logits.log_softmax(1), target.log_softmax(1))
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y))):
        torch.testing.assert_close(one, other)


def test_who_equals_the_teacher_has_no_loss() -> None:
    for text in (True, False):
        objective = make("preserve", text=text, kl=1.0)
        features = features_for(objective.needs_for(objective.config), 6)
        given = {need: 3 * features[replace(need, by="student")].detach() for need in features}
        values = objective(
            {need: feature.requires_grad_(need.by == "student") for need, feature in given.items()}, At()
        )
        assert values["loss"].item() == pytest.approx(0, abs=1e-12)
        assert values["preserve_cos"].item() == pytest.approx(1)


def test_two_views_count_half_each() -> None:
    objective, features, values = made("distil", views="ssl", text=False, kl=0.0)
    assert objective.views_for(objective.config) == SSL_VIEWS
    compared = parts(objective, features)
    assert values["loss"].item() == pytest.approx(sum(mean_distance(*pair) for pair in compared.values()) / 2)


def test_what_is_needed() -> None:
    assert Distil.needs == Distil.needs_for(Distil.Config())
    assert Preserve.needs == Preserve.needs_for(Preserve.Config())
    loss = parse(ObjectiveConfig(loss="clip + distil", options={"distil": {"teacher": "x"}}))
    assert loss.views == (IMAGE,)
    other = Preserve.Config(pictures="other", text=True)
    (view,) = Preserve.views_for(other)
    assert (view.kind, view.scheduled) == ("image", True)
    assert Preserve.needs_for(other) == (
        Need(view.name, "embedding"),
        Need(TEXT, "embedding"),
        Need(view.name, "embedding", by="fixed"),
        Need(TEXT, "embedding", by="fixed"),
    )


def test_a_teacher_without_a_space_for_texts_is_matched_by_its_feature() -> None:
    alone = replace(DIMS, fixed=replace(FIXED, embed_dim=0, text_width=0))
    head = make("distil", dims=alone, text=False, match="feature").image_head
    assert (head.in_features, head.out_features) == (DIMS.width, FIXED.width)
    with pytest.raises(ConfigError, match="an image tower alone, without embeddings.*preserve.match feature"):
        make("preserve", dims=alone, text=False)


def test_other_dimensions_are_refused_in_words() -> None:
    with pytest.raises(
        ConfigError, match="model.embed_dim 8, the teacher's 14.*--model.embed-dim 14"
    ) as raised:
        make("distil", dims=replace(DIMS, fixed=replace(FIXED, embed_dim=14)), match="embedding")
    assert "--objective.distil.match feature" in str(raised.value)
    with pytest.raises(ConfigError, match="model.embed_dim 8; the start has embeddings of 14"):
        make("preserve", dims=replace(DIMS, fixed=replace(FIXED, embed_dim=14)))


def test_a_teacher_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="has no teacher to learn from.*--objective.distil.teacher"):
        Distil.fixed_model(Distil.Config())
    assert Distil.fixed_model(Distil.Config(teacher="a")) == "a"
    assert Preserve.fixed_model(Preserve.Config()) == ""
