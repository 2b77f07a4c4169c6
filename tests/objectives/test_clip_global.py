"""The global contrastive loss of CLIP against a loop that is written as the papers' equations are."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.cases import DIMS, make
from openslip.errors import ConfigError
from openslip.needs import LABELS, RECORDS, TEXT, Need
from openslip.objectives import At, Clip, Dims, Sum
from openslip.objectives.estimates import gamma_at
from toys import small_loss

RECORDS_OF = [[0, 3, 5, 8], [1, 2, 4, 6], [8, 7, 9, 9], [0, 1, 2, 3], [5, 4, 3, 3]]
"""The records of five batches: each once, then some again; two batches have a record twice."""
STEPS = len(RECORDS_OF)


def batch(step: int, rows: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    image, text = (torch.randn(rows, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    scale = torch.tensor(9.0 + step, dtype=torch.float64)
    found = {"image": image, "text": text, "logit_scale": scale}
    return {name: value.requires_grad_() for name, value in found.items()}


class Papers:
    """SogCLR and FastCLIP as their equations have them, for a record at a time, with plain numbers u.

    A record that is seen for the first time begins with the batch's estimate; one that is in a batch twice has the mean
    of its two. `loss` has the gradient estimate for its gradient, times the temperature at the start in `divergence`.
    """

    def __init__(self, gamma: float, schedule: str, epsilon: float, temperature: str, rho: float) -> None:
        self.last, self.schedule, self.epsilon = gamma, schedule, epsilon
        self.temperature, self.rho = temperature, rho
        self.u: dict[tuple[str, int], float] = {}

    def gamma(self, step: int) -> float:
        if self.schedule == "constant" or step >= STEPS / 2:
            return self.last
        return 0.5 * (1 + math.cos(math.pi * step / (STEPS / 2))) * (1 - self.last) + self.last

    def loss(self, embeddings: dict[str, Tensor], records: list[int], step: int) -> Tensor:
        image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
        tau, rows = 1 / embeddings["logit_scale"], len(records)
        if self.temperature == "fixed":
            tau = tau.detach()
        g: dict[tuple[str, int], Tensor] = {}
        for i in range(rows):
            others = [j for j in range(rows) if j != i]
            own = image[i] @ text[i]
            g["image", i] = torch.stack([torch.exp((image[i] @ text[j] - own) / tau) for j in others]).mean()
            g["text", i] = torch.stack([torch.exp((image[j] @ text[i] - own) / tau) for j in others]).mean()
        gamma = self.gamma(step)
        for kind in ("image", "text"):
            for record in set(records):
                mine = [g[kind, i].item() for i in range(rows) if records[i] == record]
                mean, old = sum(mine) / len(mine), self.u.get((kind, record))
                self.u[kind, record] = mean if old is None else (1 - gamma) * old + gamma * mean
        # g over the number u + ε has the gradient ∇ g / (u + ε).
        pulls = [g[key] / (self.u[key[0], records[key[1]]] + self.epsilon) for key in g]
        logs = [math.log(self.u[key[0], records[key[1]]] + self.epsilon) for key in g]
        pull, value = torch.stack(pulls).mean(), sum(logs) / len(logs)
        if self.temperature == "divergence":
            return tau.detach() * (pull - pull.detach()) + tau * (value + self.rho)
        return pull - pull.detach() + value


@pytest.mark.parametrize("temperature", ["learned", "fixed", "divergence"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("epsilon", "block"), [(1e-14, 0), (0.05, 3)])
def test_equals_the_equations_of_the_papers(temperature, schedule, epsilon, block) -> None:
    papers = Papers(0.3, schedule, epsilon, temperature, rho=1.5)
    objective = make(
        "clip", negatives="global", temperature_rule=temperature, gamma=0.3, gamma_schedule=schedule,
        epsilon=epsilon, block=block, rho=1.5, temperature=0.05,
    )  # fmt: skip
    for step, records in enumerate(RECORDS_OF):
        embeddings, at = batch(step), At(step, STEPS)
        expected = papers.loss(embeddings, records, step)
        found = objective.loss(embeddings | {"records": torch.tensor(records)}, at)
        factor, constant = (0.05, 0.0) if temperature == "divergence" else (1.0, math.log(4))
        torch.testing.assert_close(factor * found["loss"] - constant, expected, rtol=1e-9, atol=1e-12)
        inputs = [
            value for name, value in embeddings.items() if (name, temperature) != ("logit_scale", "fixed")
        ]
        for one, other in zip(
            torch.autograd.grad(factor * found["loss"], inputs, retain_graph=True),
            torch.autograd.grad(expected, inputs),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
        if temperature == "fixed":
            (of_scale,) = torch.autograd.grad(found["loss"], [embeddings["logit_scale"]])
            assert of_scale == 0
        assert not found["clip_loss"].requires_grad
        objective.after_step(SimpleNamespace(logit_scale=None), at)
        for column, kind in enumerate(("image", "text")):
            for record in range(10):
                expected_u = papers.u.get((kind, record), 0.0)
                assert objective.estimates[record, column].exp().item() == pytest.approx(expected_u, rel=1e-9)


def test_the_first_batch_has_the_gradient_of_the_losses_without_their_positives() -> None:
    """With γ = 1 the estimates are the batch's own: CLIP's loss, but for what the positive adds to the sum."""
    embeddings = batch(0, 7)
    objective = make("clip", negatives="global", gamma=1.0, gamma_schedule="constant")
    found = objective.loss(embeddings | {"records": torch.arange(7)}, At())
    image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
    logits = embeddings["logit_scale"] * image @ text.T
    negatives = logits.masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    rows, columns = (negatives.logsumexp(dim) - logits.diagonal() - math.log(6) for dim in (1, 0))
    expected = (rows.mean() + columns.mean()) / 2
    torch.testing.assert_close(found["loss"], expected + math.log(7))
    inputs = list(embeddings.values())
    for one, other in zip(
        torch.autograd.grad(found["loss"], inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_epsilon_of_one_over_the_negatives_is_clips_own_loss() -> None:
    """What the help of the option says."""
    embeddings, inputs = batch(0, 7), None
    losses = [
        make("clip").loss(embeddings, At())["loss"],
        make("clip", negatives="global", gamma=1.0, gamma_schedule="constant", epsilon=1 / 6).loss(
            embeddings | {"records": torch.arange(7)}, At()
        )["loss"],
    ]
    inputs = list(embeddings.values())
    for one, other in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(losses[0], losses[1] + math.log(6 / 7))


@settings(deadline=None, max_examples=25)
@given(
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=9),
    equal=st.sampled_from(["negative", "ignore", "positive"]),
    positives=st.sampled_from(["pairs", "labels"]),
    block=st.integers(0, 10),
    seed=st.integers(0, 100),
)
def test_several_positives_and_pairs_that_are_ignored(labels, equal, positives, block, seed) -> None:
    """A row's negatives are what is neither; a row without any learns nothing and keeps its estimate."""
    n = len(labels)
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randint(0, max(2, n // 2), (n, 1), generator=generator)
    records = torch.randint(0, max(2, n), (n,), generator=generator)
    alike = (captions == captions.T) | (records[:, None] == records)
    classes = torch.tensor(labels)
    of_class = (classes[:, None] == classes) & (classes >= 0)
    positive = torch.eye(n, dtype=torch.bool)
    positive |= alike if equal == "positive" else of_class & False
    positive |= of_class if positives == "labels" else of_class & False
    negative = ~positive & (~alike if equal == "ignore" else alike | ~alike)
    embeddings = batch(seed, n)
    objective = make("clip", negatives="global", equal=equal, positives=positives, block=block)
    old = torch.randn(len(objective.estimates), 2, dtype=torch.float64, generator=generator)
    objective.estimates.copy_(old)
    image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
    logits = embeddings["logit_scale"] * image @ text.T
    at = At(1, 8)
    gamma = gamma_at(at, 0.2, "cosine")
    assert 0.2 < gamma < 1
    pulls, logs = [], []
    for column, z in enumerate((logits, logits.T)):
        g = [
            (z[i][negative[i]] - z[i][positive[i]].mean()).exp().mean() if negative[i].any() else None
            for i in range(n)
        ]
        for i, own in enumerate(g):
            same = [each.item() for j, each in enumerate(g) if records[j] == records[i] and each is not None]
            u = old[records[i], column].exp().item()
            if same:
                u = (1 - gamma) * u + gamma * sum(same) / len(same)
            logs.append(math.log(u + 1e-14))
            if own is not None:
                pulls.append(own / (u + 1e-14))
    expected = torch.stack(pulls).sum() / (2 * n) if pulls else 0 * logits.sum()
    given = {"labels": classes, "captions": captions, "records": records}
    found = objective.loss(embeddings | given, at)
    assert found["loss"].item() == pytest.approx(sum(logs) / (2 * n) + math.log(n), rel=1e-8)
    inputs = list(embeddings.values())
    for one, other in zip(
        torch.autograd.grad(found["loss"], inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_nothing_overflows_in_fp32_at_the_highest_scale() -> None:
    """Every match is the worst of all pairs: exp(200)."""
    image = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    embeddings = {"image": image, "text": -image, "logit_scale": torch.tensor(100.0)}
    embeddings = {name: value.requires_grad_() for name, value in embeddings.items()}
    objective = make("clip", negatives="global", dtype=torch.float32)
    for step in range(3):
        found = objective.loss(embeddings | {"records": torch.arange(6)}, At(step, 3))
        found["loss"].backward()
        objective.after_step(SimpleNamespace(logit_scale=None), At(step, 3))
        assert found["loss"].item() > 100
    assert all(value.grad is not None and value.grad.isfinite().all() for value in embeddings.values())
    assert objective.estimates[:6].isfinite().all()
    assert (objective.estimates[6:] == -math.inf).all()


def test_a_batch_of_one_pair_learns_nothing() -> None:
    embeddings = batch(0, 1)
    objective = make("clip", negatives="global")
    found = objective.loss(embeddings | {"records": torch.tensor([4])}, At())
    gradients = torch.autograd.grad(found["loss"], list(embeddings.values()))
    assert all((gradient == 0).all() for gradient in gradients)
    objective.after_step(SimpleNamespace(logit_scale=None), At())
    assert (objective.estimates == -math.inf).all()


def test_the_divergence_of_the_weights_is_rho_where_the_temperature_stays() -> None:
    """The definition of the rule: minimised over τ alone, on a batch that is all there is."""
    embeddings = {name: value.detach() for name, value in batch(3, 16).items()}
    log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    objective = make(
        "clip",
        negatives="global",
        gamma=1.0,
        gamma_schedule="constant",
        temperature_rule="divergence",
        rho=1.0,
    )
    optimizer = torch.optim.Adam([log_scale], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        given = embeddings | {"logit_scale": log_scale.exp(), "records": torch.arange(16)}
        objective.loss(given, At())["loss"].backward()
        optimizer.step()
    image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
    logits = log_scale.exp().detach() * image @ text.T
    negatives = logits.masked_fill(torch.eye(16, dtype=torch.bool), -math.inf)
    shares = torch.cat([negatives.softmax(1), negatives.T.softmax(1)])
    divergence = (shares * (15 * shares).clamp(min=1e-300).log()).sum(1).mean()
    assert divergence.item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("taken", [True, False])
def test_a_step_that_is_left_out_leaves_the_estimates(taken) -> None:
    written = small_loss("clip", negatives="global")
    summed: Sum = written.build(DIMS).double()
    objective: Any = summed["clip"]
    model: Any = SimpleNamespace(logit_scale=None)
    objective.estimates[:5] = torch.arange(10, dtype=torch.float64).view(5, 2)
    before = objective.estimates.clone()
    objective.loss(batch(0) | {"records": torch.tensor([7, 1, 3, 3])}, At(1, 2))
    summed.after_step(model, At(1, 2), torch.tensor(taken))
    changed = (objective.estimates != before).any(1).nonzero()[:, 0].tolist()
    assert changed == ([1, 3, 7] if taken else [])


def test_what_it_needs() -> None:
    assert Clip.needs_for(Clip.Config()) == Clip.needs
    assert Clip.needs_for(Clip.Config(negatives="global")) == (*Clip.needs, RECORDS)
    every = Clip.Config(negatives="global", equal="ignore", positives="labels")
    assert Clip.needs_for(every) == (*Clip.needs, LABELS, Need(TEXT, "ids"), RECORDS)
    assert small_loss("clip").build(DIMS).state_dict() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": "global", "gradient": "reference"}, "reference implementation.*negatives global"),
        ({"equal": "ignore", "gradient": "reference"}, "reference implementation.*equal ignore"),
        ({"smoothing": 0.1, "gradient": "reference"}, "reference implementation.*smoothing 0.1"),
        ({"smoothing": 0.1, "negatives": "global"}, "no target that could be smoothed"),
        ({"temperature_rule": "divergence"}, "only with global negatives.*negatives global"),
    ],
)
def test_options_that_do_not_go_together(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make("clip", **options)


def test_without_the_number_of_records_there_is_nothing_to_keep_estimates_in() -> None:
    with pytest.raises(ConfigError, match="does not know how many records.*negatives global"):
        make("clip", dims=Dims(width=12, embed_dim=8), negatives="global")


def test_the_temperature_at_the_start_is_an_option() -> None:
    for options, temperature in (({}, 0.07), ({"temperature": 0.03}, 0.03)):
        scale = small_loss("clip", **options).logit_scale
        assert scale is not None
        assert scale.initial == 1 / temperature
