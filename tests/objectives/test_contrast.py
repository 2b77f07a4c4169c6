"""The blocked reductions against the whole matrix written down plainly, loss and gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openslip.objectives.contrast import contrast, unit


def whole_matrix(
    queries: Tensor, keys: Tensor, scale: Tensor, positive: Tensor, excluded: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The slow, obvious twin: every logit at once."""
    logits = scale * queries @ keys.T
    if excluded is not None:
        mask = torch.zeros_like(logits, dtype=torch.bool)
        for row, column in enumerate(excluded.tolist()):
            mask[row, column] = True
        logits = logits.masked_fill(mask, -torch.inf)
    positives = torch.stack([logits[row, column] for row, column in enumerate(positive.tolist())])
    return logits.logsumexp(1), logits.logsumexp(0), positives, logits.argmax(1) == positive


def problem(n: int, m: int, seed: int, scale: float = 7.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (
        unit(torch.randn(rows, 5, dtype=torch.float64, generator=generator)).requires_grad_()
        for rows in (n, m)
    )
    positive = torch.randint(m, (n,), generator=generator)
    return queries, keys, torch.tensor(scale, dtype=torch.float64, requires_grad=True), positive


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 13),
    m=st.integers(2, 13),
    block=st.integers(0, 15),
    exclude=st.booleans(),
    columns=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_whole_matrix(n: int, m: int, block: int, exclude: bool, columns: bool, seed: int) -> None:
    queries, keys, scale, positive = problem(n, m, seed)
    excluded = (positive + 1) % m if exclude else None
    # Every reduction gets its own random weights, so that no two gradients can be mistaken for one another.
    weights = torch.randn(3, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))

    def loss(rows: Tensor, by_column: Tensor | None, positives: Tensor) -> Tensor:
        total = rows @ weights[0, :n] + positives @ weights[1, :n]
        if columns:
            assert by_column is not None
            finite = by_column.isfinite()  # a key that every query excludes has no logits at all
            total = total + by_column[finite] @ weights[2, :m][finite]
        return total

    *expected, hits = whole_matrix(queries, keys, scale, positive, excluded)
    inputs = (queries, keys, scale)
    expected_gradients = torch.autograd.grad(loss(*expected), inputs)
    ours = contrast(queries, keys, scale, positive, excluded=excluded, columns=columns, block=block)
    gradients = torch.autograd.grad(loss(ours.rows, ours.columns, ours.positives), inputs)

    torch.testing.assert_close(ours.rows, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.positives, expected[2], rtol=1e-9, atol=1e-9)
    if columns:
        torch.testing.assert_close(ours.columns, expected[1], rtol=1e-9, atol=1e-9)
    else:
        assert ours.columns is None
    assert torch.equal(ours.hits, hits)
    for one, other in zip(gradients, expected_gradients):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 13),
    m=st.integers(2, 13),
    block=st.integers(0, 15),
    groups=st.lists(st.integers(-2, 3), min_size=13, max_size=13),
    seed=st.integers(0, 1000),
)
def test_groups_have_the_mean_of_their_logits(
    n: int, m: int, block: int, groups: list[int], seed: int
) -> None:
    queries, keys, scale, positive = problem(n, m, seed)
    weights = torch.randn(3, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    logits = scale * queries @ keys.T
    alike = [[k for k in range(m) if groups[k] == groups[p]] for p in positive.tolist()]
    means = torch.stack([torch.stack([logits[q, k] for k in some]).mean() for q, some in enumerate(alike)])

    def loss(rows: Tensor, columns: Tensor, positives: Tensor) -> Tensor:
        return rows @ weights[0, :n] + columns @ weights[1, :m] + positives @ weights[2, :n]

    expected = torch.autograd.grad(
        loss(logits.logsumexp(1), logits.logsumexp(0), means), (queries, keys, scale)
    )
    grouped = torch.tensor(groups[:m])
    ours = contrast(queries, keys, scale, positive, groups=grouped, columns=True, block=block)
    assert ours.columns is not None
    torch.testing.assert_close(ours.positives, means, rtol=1e-9, atol=1e-9)
    assert ours.hits.tolist() == [best in some for best, some in zip(logits.argmax(1).tolist(), alike)]
    gradients = torch.autograd.grad(loss(ours.rows, ours.columns, ours.positives), (queries, keys, scale))
    for one, other in zip(gradients, expected):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_groups_of_one_are_the_positives_themselves() -> None:
    queries, keys, scale, positive = problem(6, 9, seed=5)
    alone = contrast(queries, keys, scale, positive, columns=True, block=4)
    grouped = contrast(queries, keys, scale, positive, groups=torch.arange(9) - 4, columns=True, block=4)
    for one, other in zip(alone, grouped):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for one, other in zip(
        *(torch.autograd.grad(found.positives.sum(), queries) for found in (alone, grouped))
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["rows", "columns", "positives"])
def test_gradient_of_each_reduction_alone(part: str) -> None:
    queries, keys, scale, positive = problem(6, 7, seed=3)

    def reduce(queries: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
        return getattr(contrast(queries, keys, scale, positive, columns=True, block=4), part)

    assert torch.autograd.gradcheck(reduce, (queries, keys, scale))


@pytest.mark.parametrize("trained", ["queries", "keys", "scale"])
def test_gradient_when_only_one_input_needs_it(trained: str) -> None:
    queries, keys, scale, positive = problem(6, 6, seed=4)
    inputs = {"queries": queries, "keys": keys, "scale": scale}

    def gradient(needed: list[str]) -> Tensor:
        given = {name: tensor.detach().requires_grad_(name in needed) for name, tensor in inputs.items()}
        rows = contrast(given["queries"], given["keys"], given["scale"], positive, block=4).rows
        return torch.autograd.grad(rows.sum(), given[trained])[0]

    assert torch.equal(gradient([trained]), gradient(list(inputs)))


def test_rows_held_by_several_processes_make_the_whole() -> None:
    queries, keys, scale, positive = problem(12, 12, seed=5)
    whole = contrast(queries, keys, scale, positive, columns=True)
    parts = [
        contrast(queries[p], keys, scale, positive[p], columns=True) for p in (slice(0, 5), slice(5, 12))
    ]
    assert whole.columns is not None
    torch.testing.assert_close(torch.cat([p.rows for p in parts]), whole.rows)
    columns = torch.logsumexp(torch.stack([p.columns for p in parts if p.columns is not None]), 0)
    torch.testing.assert_close(columns, whole.columns)
    expected = torch.autograd.grad(whole.columns.sum(), (queries, keys, scale))
    for one, other in zip(torch.autograd.grad(columns.sum(), (queries, keys, scale)), expected):
        torch.testing.assert_close(one, other)


def test_a_second_derivative_is_refused() -> None:
    queries, keys, scale, positive = problem(4, 4, seed=6)
    loss = contrast(queries, keys, scale, positive).rows.sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, queries, create_graph=True)


def test_largest_logits_stay_finite_and_losses_are_never_negative() -> None:
    embeddings = unit(torch.randn(300, 64, generator=torch.Generator().manual_seed(0)))
    twin = torch.arange(300)
    for scale in (1.0, 100.0, 1e4):
        logits = contrast(embeddings, embeddings, scale, twin, columns=True, block=64)
        assert logits.columns is not None
        for losses in (logits.rows - logits.positives, logits.columns - logits.positives):
            assert losses.isfinite().all()
            assert (losses >= 0).all()


def test_repeats_bit_for_bit() -> None:
    def once() -> list[Tensor]:
        queries, keys, scale, positive = problem(50, 50, seed=8)
        out = contrast(queries, keys, scale, positive, columns=True, block=16)
        assert out.columns is not None
        return [out.rows, *torch.autograd.grad((out.rows + out.columns).sum(), (queries, keys, scale))]

    for one, other in zip(once(), once()):
        assert torch.equal(one, other)


def test_unit_is_fp32_under_autocast_and_keeps_fp64() -> None:
    x = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unit(x.bfloat16()).dtype == torch.float32
        torch.testing.assert_close(unit(x).norm(dim=1), torch.ones(3))
    assert unit(x.double()).dtype == torch.float64
    assert torch.equal(unit(torch.zeros(1, 4)), torch.zeros(1, 4))
    assert unit(x.to("meta")).shape == x.shape  # where a model is built without numbers


def test_memory_does_not_hold_the_matrix() -> None:
    """No tensor saved for backward or made on the way has N · M numbers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return out

    n, block = 256, 16
    queries, keys, scale, positive = problem(n, n, seed=9)
    with Watch():
        out = contrast(queries, keys, scale, positive, columns=True, block=block)
        assert out.columns is not None
        (out.rows + out.columns).sum().backward()
    assert largest == block * n
