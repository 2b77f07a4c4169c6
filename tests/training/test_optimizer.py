import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from openslip.config import Config, OptimizerConfig, TowerRateConfig
from openslip.errors import ConfigError
from openslip.objectives import parse
from openslip.training.optimizer import (
    build_optimizer,
    learning_rate,
    load_state_tensors,
    rate_factors,
    set_learning_rates,
    state_tensors,
    step_by_kernel,
    step_where,
)
from openslip.training.student import build_student, stored_parameters
from toys import make_student, tuned


@pytest.fixture
def model(tiny_config):
    return make_student(tiny_config, torch.float32)


def test_groups_are_the_references(model) -> None:
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(weight_decay=0.3))
    with_decay, without = optimizer.param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.3, 0.0)
    assert len(with_decay["names"]) + len(without["names"]) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        # The reference's rule, on its own names: fewer than two dimensions, biases, and everything of a norm.
        exempt = parameter.ndim < 2 or "bias" in name or "norm" in name or ".bn" in name or ".ln" in name
        assert name in (without if exempt else with_decay)["names"]


def test_paper_models_decay_embeddings_but_no_norms() -> None:
    with torch.device("meta"):
        student = build_student(Config(), parse(Config().objective))
    groups = build_optimizer(stored_parameters(student), OptimizerConfig()).param_groups
    with_decay, without = (set(group["names"]) for group in groups)
    assert any("pos_embed" in n for n in with_decay)
    assert any("token_embedding" in n for n in with_decay)
    assert any("cls_token" in n for n in with_decay)
    assert "logit_scale" in without


def take_steps(model, optimizer, seeds) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_state_survives_the_round_trip(model, tiny_config) -> None:
    twin = make_student(tiny_config, torch.float32)
    first = build_optimizer(model.named_parameters(), OptimizerConfig())
    take_steps(model, first, [0, 1])
    twin.load_state_dict(model.state_dict())
    second = build_optimizer(twin.named_parameters(), OptimizerConfig())
    load_state_tensors(second, state_tensors(first))
    take_steps(model, first, [2])
    take_steps(twin, second, [2])
    for a, b in zip(model.parameters(), twin.parameters()):
        assert torch.equal(a, b)


def test_state_put_back_is_laid_out_as_the_weights_are() -> None:
    """Fused AdamW walks through weights and moments in the order of memory; files know one order only."""
    model = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    twin = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    first = build_optimizer(model.named_parameters(), OptimizerConfig())
    take_steps(model, first, [0, 1])
    twin.load_state_dict({name: value.contiguous() for name, value in model.state_dict().items()})
    second = build_optimizer(twin.named_parameters(), OptimizerConfig())
    load_state_tensors(second, {name: value.contiguous() for name, value in state_tensors(first).items()})
    assert second.state[twin.weight]["exp_avg"].stride() == twin.weight.stride() == model.weight.stride()
    take_steps(model, first, [2])
    take_steps(twin, second, [2])
    assert torch.equal(model.weight, twin.weight)


def test_a_state_from_before_the_first_step_replaces_what_steps_left(model) -> None:
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig())
    fresh = state_tensors(optimizer)
    take_steps(model, optimizer, [0, 1])
    load_state_tensors(optimizer, fresh)
    assert state_tensors(optimizer) == {} == fresh


@pytest.mark.parametrize("step", [step_where, step_by_kernel])
def test_a_step_that_is_not_taken_changes_nothing(model, step) -> None:
    twin = copy.deepcopy(model)
    optimizers = [build_optimizer(m.named_parameters(), OptimizerConfig(lr=1e-2)) for m in (model, twin)]
    for number in range(4):
        taken = number in (1, 3)
        generator = torch.Generator().manual_seed(number)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            b.grad = torch.randn(b.shape, generator=generator)
            a.grad = b.grad.clone() if taken else torch.full_like(a, math.nan)
        step(optimizers[0], torch.tensor(taken))
        if taken:
            optimizers[1].step()
    mine, theirs = (state_tensors(optimizer) for optimizer in optimizers)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def reference_schedule(config: OptimizerConfig, steps: int, warmup: int) -> np.ndarray:
    """The whole curve at once: a line to the peak, then half a cosine."""
    rise = np.linspace(config.lr_start, config.lr, warmup) if warmup else np.zeros(0)
    rest = np.arange(steps - warmup)
    fall = config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + np.cos(np.pi * rest / max(1, len(rest))))
    return np.concatenate([rise, fall])


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (7, 7), (5, 2)])
def test_equals_the_whole_curve(steps: int, warmup: int) -> None:
    config = OptimizerConfig()
    ours = [learning_rate(config, step, steps, warmup) for step in range(steps)]
    np.testing.assert_allclose(ours, reference_schedule(config, steps, warmup), rtol=1e-12)


def test_a_single_warmup_step_starts_low() -> None:
    config = OptimizerConfig()
    assert learning_rate(config, 0, 10, 1) == config.lr_start
    assert learning_rate(config, 1, 10, 1) == pytest.approx(config.lr)


RATES = OptimizerConfig(
    lr=1e-3, image=TowerRateConfig(lr=1e-4, layer_decay=0.5), text=TowerRateConfig(layer_decay=0.8)
)


def rate_of(name: str, step: int, steps: int, warmup: int, fresh: int, is_fresh: bool) -> float:
    """The slow twin of a parameter's rate with `RATES`, in towers of two blocks."""
    if fresh and not is_fresh:
        if step < fresh:
            return 0.0
        step, steps = step - fresh, steps - fresh
    rate = learning_rate(RATES, step, steps, warmup)
    tower = name.partition(".")[0]
    if tower not in ("image_tower", "text_tower"):
        return rate
    if block := re.search(r"blocks\.(\d)", name):
        above = 2 - int(block[1])
    else:
        above = 0 if re.search(r"(?<!\.norm_pre)\.norm\.", name) else 3
    return rate * (0.1 * 0.5**above if tower == "image_tower" else 0.8**above)


@pytest.mark.parametrize("fresh", [0, 4])
def test_every_parameter_has_its_rate(model, fresh) -> None:
    """At every step: by tower, layer, and whether it is fresh; the twin knows names alone."""
    config = replace(RATES, fresh_epochs=fresh)
    names = [name for name, _ in stored_parameters(model)]
    heads = {name for name in names if not name.startswith(("image_tower.", "text_tower.", "logit_scale"))}
    optimizer = build_optimizer(stored_parameters(model), config, rate_factors(model.model, config), heads)
    parameters = dict(stored_parameters(model))
    for step in range(20):
        told = set_learning_rates(optimizer, config, step, 20, 3, fresh)
        seen = {}
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                assert parameter is parameters[name]
                seen[name] = group["lr"]
        assert sorted(seen) == sorted(names)
        for name, rate in seen.items():
            assert rate == pytest.approx(rate_of(name, step, 20, 3, fresh, name in heads), rel=1e-12), name
        assert told["lr"] == learning_rate(config, step, 20, 3)
        assert told["lr_image"] == seen["image_tower.trunk.norm.weight"]
        assert told.get("lr_text", told["lr"]) == seen["text_tower.norm.weight"]
        assert ("lr_text" in told) == (fresh > 0)


def test_default_rates_make_the_groups_there_always_were(model) -> None:
    plain = build_optimizer(stored_parameters(model), OptimizerConfig())
    config = OptimizerConfig(fresh_epochs=0)
    ours = build_optimizer(
        stored_parameters(model), config, rate_factors(model.model, config), {"logit_scale"}
    )
    assert rate_factors(model.model, config) == {}
    assert [group["names"] for group in ours.param_groups] == [g["names"] for g in plain.param_groups]
    assert len(ours.param_groups) == 2
    assert set_learning_rates(ours, config, 5, 20, 3) == {"lr": learning_rate(config, 5, 20, 3)}
    assert all(group["lr"] == learning_rate(config, 5, 20, 3) for group in ours.param_groups)


def test_fresh_weights_may_have_a_rate_of_their_own(model) -> None:
    """In the place of their tower's, and with the schedule of all."""
    config, heads = replace(RATES, fresh_lr=0.3), {"image_projection", "text_tower.norm.weight"}
    optimizer = build_optimizer(stored_parameters(model), config, rate_factors(model.model, config), heads)
    set_learning_rates(optimizer, config, 7, 20, 3)
    for group in optimizer.param_groups:
        for name in group["names"]:
            wanted = rate_of(name, 7, 20, 3, 0, False)
            if name in heads:
                wanted = learning_rate(config, 7, 20, 3) * 0.3 / config.lr
            assert group["lr"] == pytest.approx(wanted, rel=1e-12), name


def test_what_waits_stays_bit_for_bit(model) -> None:
    """With a rate of 0 there is no decay either."""
    config = OptimizerConfig(fresh_epochs=1, weight_decay=0.5)
    heads = {"image_projection", "text_projection"}
    optimizer = build_optimizer(stored_parameters(model), config, fresh=heads)
    before = {name: p.detach().clone() for name, p in stored_parameters(model)}
    for step in range(4):
        set_learning_rates(optimizer, config, step, 10, 0, 4)
        take_steps(model, optimizer, [step])
    moved = {name for name, p in stored_parameters(model) if not torch.equal(p, before[name])}
    assert moved == heads
    set_learning_rates(optimizer, config, 4, 10, 0, 4)
    take_steps(model, optimizer, [4])
    assert all(not torch.equal(p, before[name]) for name, p in stored_parameters(model))


def test_frozen_parameters_are_in_no_group(tiny_config) -> None:
    student = make_student(tuned(tiny_config, image="all", text="-1"))
    groups = build_optimizer(
        stored_parameters(student), RATES, rate_factors(student.model, RATES)
    ).param_groups
    assert {n for group in groups for n in group["names"]} == {
        n for n, p in stored_parameters(student) if p.requires_grad
    }


def test_rates_that_cannot_be(model) -> None:
    with pytest.raises(ConfigError, match="image tower's learning rate follows.*Set --optimizer.lr"):
        rate_factors(model.model, OptimizerConfig(lr=0, image=TowerRateConfig(lr=1e-3)))
    assert set(rate_factors(model.model, OptimizerConfig(lr=0, text=TowerRateConfig(lr=0))).values()) == {0.0}
    with pytest.raises(ConfigError, match="none is fresh.*fresh-epochs out"):
        build_optimizer(stored_parameters(model), OptimizerConfig(fresh_epochs=1))
    model.model.image_tower = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        ConfigError, match="layers have no known order.*optimizer.image.layer_decay 0.5, of a Seq"
    ):
        rate_factors(model.model, RATES)
    assert set(rate_factors(model.model, replace(RATES, image=TowerRateConfig(lr=1e-4))).values()) >= {0.1}
