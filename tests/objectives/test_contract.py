"""What holds for every objective of the registry, whatever it computes."""

from __future__ import annotations

import copy
import math
import tomllib
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor

from objectives.cases import DIMS, features_for, make, trained
from openslip import toml
from openslip.config import ObjectiveConfig
from openslip.needs import TEXT
from openslip.objectives import REGISTRY, At, Objective, complete, parse
from toys import VARIANTS

NAMES = pytest.mark.parametrize("name", REGISTRY)
EACH = pytest.mark.parametrize("name", [*REGISTRY, *VARIANTS])
"""Also with the options that make an objective another one."""


def losses(objective: Objective, rows: int = 6, **options) -> dict[str, Tensor]:
    return objective(features_for(needs(objective), rows, **options), At())


def needs(objective: Objective):
    return objective.needs_for(objective.config)


def fields_of(kind: type[Objective]) -> set[str]:
    return {field.name for field in fields(kind.Config)}


def change(value: object) -> object:
    """Return another value of the same type, near by."""
    if isinstance(value, bool):
        return not value
    return value / 2 if isinstance(value, float) else value + 3 if isinstance(value, int) else value


@NAMES
def test_it_is_declared_whole(name) -> None:
    kind = REGISTRY[name]
    assert kind.name == name
    assert kind.title
    config = kind.Config()  # its defaults are in its own ranges
    views = {view.name for view in kind.views_for(config)}
    assert {need.view for need in kind.needs_for(config)} <= views | {TEXT}
    assert views == {need.view for need in kind.needs_for(config)} - {TEXT}
    assert kind.curves


@EACH
def test_it_reads_what_it_needs_and_names_its_values_after_itself(name) -> None:
    objective = make(name)
    result = losses(objective)  # any other feature is a KeyError
    assert result["loss"].requires_grad
    assert result["loss"].isfinite()
    for key, value in result.items():
        assert value.shape == ()
        assert key == "loss" or (key.startswith(f"{objective.name}_") and not value.requires_grad)
    assert {curve.key for curve in objective.curves} <= result.keys() - {"loss"}


@EACH
def test_all_that_it_trains_gets_a_gradient(name) -> None:
    objective = make(name)
    features = features_for(needs(objective), 6)
    inputs = {str(need): x for need, x in features.items() if x.requires_grad} | trained(objective)
    assert inputs
    gradients = torch.autograd.grad(objective(features, At())["loss"], list(inputs.values()))
    # Before a BatchNorm a bias moves nothing, and its gradient is of rounding errors.
    for (key, x), gradient in zip(inputs.items(), gradients):
        assert gradient.isfinite().all(), key
        assert gradient.shape == x.shape
    assert sum(bool(gradient.abs().max() > 1e-9) for gradient in gradients) > len(gradients) / 2
    for gradient in gradients[: sum(x.requires_grad for x in features.values())]:
        assert gradient.abs().max() > 1e-9


@EACH
def test_the_loss_is_that_of_its_embeddings_and_repeats_bit_for_bit(name) -> None:
    objective = make(name)
    features = features_for(needs(objective), 6)
    first = objective(features, At())
    embeddings = objective.embed(features)
    again = objective.loss(embeddings, At())
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@EACH
def test_rows_may_come_in_any_order(name) -> None:
    objective = make(name, patches="all")  # a mask stays at its row's place
    features = features_for(needs(objective), 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = {need: feature[order] if feature.ndim else feature for need, feature in features.items()}
    for key, value in objective(shuffled, At()).items():
        torch.testing.assert_close(value, objective(features, At())[key])


@EACH
def test_blocks_change_nothing(name) -> None:
    if "block" not in fields_of(type(make(name))):
        pytest.skip("computes no matrix of similarities")
    found = [losses(make(name, block=block), 9) for block in (0, 1, 4, 100)]
    for other in found[1:]:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value)


@EACH
def test_losses_gradients_and_state_are_in_fp32_under_autocast(name) -> None:
    model: Any = SimpleNamespace(logit_scale=torch.nn.Parameter(torch.tensor(1.0)))
    found = []
    for lower in (False, True):
        objective = make(name, dtype=torch.float32)
        features = features_for(needs(objective), 16, dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            result = objective(features, At())
        inputs = {str(need): x for need, x in features.items() if x.requires_grad} | trained(objective)
        gradients = torch.autograd.grad(result["loss"], list(inputs.values()))
        with torch.no_grad():
            objective.after_step(model, At())
        found.append(result | objective.state_dict() | dict(zip((f"d {key}" for key in inputs), gradients)))
    outside, inside = found
    assert outside["loss"].dtype == torch.float32
    for key, value in outside.items():
        assert value.dtype == inside[key].dtype, key
        assert torch.equal(value, inside[key]), key


@EACH
def test_features_in_bf16_get_their_gradient(name) -> None:
    objective = make(name, dtype=torch.float32)
    features = {
        need: x.detach().bfloat16().requires_grad_(x.requires_grad) if x.ndim and x.is_floating_point() else x
        for need, x in features_for(needs(objective), 6, dtype=torch.float32).items()
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(features, At())["loss"]
    assert loss.dtype == torch.float32
    inputs = [x for x in features.values() if x.requires_grad and x.ndim]
    for x, gradient in zip(inputs, torch.autograd.grad(loss, inputs)):
        assert gradient.dtype == x.dtype
        assert gradient.isfinite().all()


@NAMES
def test_who_knows_nothing_is_at_chance(name) -> None:
    """Accuracies of random features; what chance is worth of any batch is a number."""
    kind = REGISTRY[name]
    chances = {curve.key: curve.chance for curve in kind.curves if curve.chance}
    for chance in chances.values():
        for batch, rows in ((2, 0), (2, 1), (8, 4), (4096, 4096)):
            assert math.isfinite(chance(batch, rows))
    rows, objective = 16, make(name)
    found = [losses(objective, rows, seed=seed, equal=False) for seed in range(40)]
    for key, chance in chances.items():
        if key.endswith("_acc"):
            mean = sum(float(values[key]) for values in found) / len(found)
            assert mean == pytest.approx(chance(rows, rows), abs=0.035)


@NAMES
def test_options_survive_toml_and_text(name) -> None:
    kind = REGISTRY[name]
    plain = toml.to_dict(kind.Config())
    for options in (plain, {key: change(value) for key, value in plain.items()}):
        given = ObjectiveConfig(loss=f"0.5 * {name}", options={name: options})
        loss = parse(given)
        assert loss.options == {name: options}
        stored = tomllib.loads(tomli_w.dumps(loss.options))
        assert parse(ObjectiveConfig(loss=str(loss), options=stored)) == loss
        assert complete(given) == ObjectiveConfig(loss=given.loss, options=loss.options)
    assert complete(ObjectiveConfig(loss=name)).options == {name: plain}
    assert parse(ObjectiveConfig(loss=str(parse(ObjectiveConfig(loss=name))))).title == kind.title


@EACH
def test_a_copy_is_its_own(name) -> None:
    objective = make(name)
    copied = copy.deepcopy(objective)
    found, again = losses(objective), losses(copied)
    assert all(torch.equal(value, again[key]) for key, value in found.items())
    with torch.no_grad():
        for parameter in trained(copied).values():
            parameter.add_(1)
    assert all(not torch.equal(p, trained(copied)[key]) for key, p in trained(objective).items())


@EACH
def test_its_state_makes_another_one_equal(name) -> None:
    objective, other = make(name), make(name, seed=1)
    losses(objective)  # moves what it keeps of the batches
    state = copy.deepcopy(objective.state_dict())
    other.load_state_dict(state)
    found, again = losses(objective), losses(other)
    assert all(torch.equal(value, again[key]) for key, value in found.items())
    after, others = objective.state_dict(), other.state_dict()
    assert after.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in after.items())


@NAMES
def test_weights_come_from_torchs_generator(name) -> None:
    one, same, other = (make(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    matrices = [key for key, value in one.items() if value.ndim > 1]
    assert not any(torch.equal(one[key], other[key]) for key in matrices)


@NAMES
def test_after_a_step_the_logit_scale_is_within_its_limits(name) -> None:
    objective, limits = make(name), REGISTRY[name].logit_scale
    losses(objective)  # which leaves what `after_step` takes from the batch
    scale = torch.nn.Parameter(torch.tensor(50.0))
    with torch.no_grad():
        objective.after_step(SimpleNamespace(logit_scale=scale), At())
        if limits is None:
            assert scale.item() == 50
            return
        assert limits.low <= limits.initial <= limits.high
        assert scale.exp().item() == pytest.approx(limits.high)
        scale.fill_(-50)
        objective.after_step(SimpleNamespace(logit_scale=scale), At())
    assert scale.exp().item() == pytest.approx(limits.low)


@NAMES
def test_it_does_without_what_others_need(name) -> None:
    """A run without text has no width of a text tower, and so on."""
    kind = REGISTRY[name]
    usual = kind.needs_for(kind.Config())
    if not any(need.view == TEXT for need in usual):
        fixed = any(need.by == "fixed" for need in usual)
        sizes: dict[str, Any] = {"embed_dim": 8, "fixed": type(DIMS)(width=14, embed_dim=8)} if fixed else {}
        options: dict[str, Any] = {"text": False} if fixed else {}
        make(name, dims=type(DIMS)(width=12, **sizes), **options)
