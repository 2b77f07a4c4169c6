"""Contrast with relations between pairs, against whole matrices; and CLIP's options that rest on it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from objectives.cases import make
from objectives.test_clip import batch
from openslip.objectives import At
from openslip.objectives.relations import numbered, packed


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Tensor]:
    """Return captions (N, 2), records (N,) and labels (N,) of which some are equal."""
    n = draw(st.integers(1, 12))

    def numbers(low: int, high: int, count: int) -> Tensor:
        return torch.tensor(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    return {
        "captions": numbers(0, 2, 2 * n).view(n, 2),
        "records": numbers(0, n, n),
        "labels": numbers(-1, 2, n),
    }


def targets(
    given_pairs: dict[str, Tensor], equal: str, positives: str, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the target distribution of every row (N, N), and which pairs count for nothing (N, N) bool."""
    captions, records, labels = (given_pairs[name].tolist() for name in ("captions", "records", "labels"))
    n = len(labels)
    target, ignored = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        alike = [captions[i] == captions[j] or records[i] == records[j] for j in range(n)]
        right = [
            i == j
            or (equal == "positive" and alike[j])
            or (positives == "labels" and labels[i] == labels[j] >= 0)
            for j in range(n)
        ]
        for j in range(n):
            ignored[i, j] = equal == "ignore" and alike[j] and not right[j]
            target[i, j] = (1 - smoothing) * right[j] / sum(right)
        target[i] += smoothing * ~ignored[i] / (~ignored[i]).sum()
    return target, ignored


@settings(deadline=None, max_examples=40)
@given(
    given_pairs=pairs(),
    equal=st.sampled_from(["negative", "ignore", "positive"]),
    positives=st.sampled_from(["pairs", "labels"]),
    smoothing=st.sampled_from([0.0, 0.2]),
    block=st.integers(0, 13),
    seed=st.integers(0, 100),
)
def test_equal_pairs_and_smoothed_targets_equal_the_whole_matrix(
    given_pairs, equal, positives, smoothing, block, seed
) -> None:
    embeddings = batch(len(given_pairs["labels"]), seed)
    target, ignored = targets(given_pairs, equal, positives, smoothing)
    logits = embeddings["logit_scale"] * F.normalize(embeddings["image"]) @ F.normalize(embeddings["text"]).T
    least = torch.finfo(logits.dtype).min
    losses = []
    for z in (logits.where(~ignored, least), logits.T.where(~ignored, least)):
        losses.append(-(target * z.log_softmax(1).where(~ignored, 0)).sum(1).mean())
    expected = torch.stack(losses).mean()
    hits = [
        bool(target[i, best] > smoothing) for i, best in enumerate(logits.where(~ignored, least).argmax(1))
    ]
    objective = make("clip", equal=equal, positives=positives, smoothing=smoothing, block=block)
    found = objective.loss(embeddings | given_pairs, At())
    torch.testing.assert_close(found["loss"], expected)
    assert torch.equal(found["clip_loss"], found["loss"].detach())
    if not smoothing:  # else a target of several positives may be below the share that is spread
        assert found["clip_acc"].item() == pytest.approx(sum(hits) / len(hits))
    inputs = list(embeddings.values())
    for one, other in zip(torch.autograd.grad(found["loss"], inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(one, other)


def test_pairs_that_are_all_different_make_the_loss_of_pairs() -> None:
    embeddings, plain = batch(9), make("clip").loss(batch(9), At())
    different = {"captions": torch.arange(9)[:, None], "records": torch.arange(9)}
    for equal in ("ignore", "positive"):
        for name, value in make("clip", equal=equal, block=4).loss(embeddings | different, At()).items():
            torch.testing.assert_close(value, plain[name])


def test_a_fixed_temperature_has_a_gradient_of_zero() -> None:
    embeddings = batch(5)
    found, plain = (
        make("clip", temperature_rule=rule).loss(embeddings, At())["loss"] for rule in ("fixed", "learned")
    )
    assert torch.equal(found, plain)
    inputs = [embeddings["image"], embeddings["logit_scale"]]
    (of_image, of_scale), (of_plain, _) = (torch.autograd.grad(loss, inputs) for loss in (found, plain))
    assert of_scale == 0
    assert torch.equal(of_image, of_plain)


@settings(deadline=None)
@given(st.data())
def test_packing_and_numbering_tell_rows_apart(data) -> None:
    """Few values, so that rows are equal; and large ones, so that their bits meet."""
    bits = data.draw(st.integers(1, 32))
    high = 2**bits - 1
    values = st.sampled_from(sorted({0, 1 % (high + 1), high // 2, high}))
    length = data.draw(st.integers(1, 9))
    rows = data.draw(
        st.lists(st.lists(values, min_size=length, max_size=length), min_size=1, max_size=12).map(
            torch.tensor
        )
    )
    columns = packed(rows, bits)
    assert columns.shape[1] <= math.ceil(length / (64 // bits))
    _, expected = torch.unique(rows, dim=0, return_inverse=True)
    for found in (numbered(columns), numbered(rows)):
        assert torch.equal(found[:, None] == found, expected[:, None] == expected)
