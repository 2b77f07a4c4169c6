"""Adapters: a tower with them computes what peft says it does, and what it does when they are merged."""

import builtins
import copy
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

from openslip.config import ModelConfig
from openslip.errors import ConfigError
from openslip.models import Model, lora
from openslip.models.lora import is_adapted, merged, plain_name, split_linear
from openslip.models.tuning import tune
from openslip.objectives import At
from openslip.training.student import stored_state
from toys import make_inputs, make_student, plan_of, tuned, with_loss

peft = pytest.importorskip("peft")


def adapted(config, tuning=None):
    """Return a student whose adapters have learned something."""
    student = make_student(tuned(with_loss(config, "clip"), **(tuning or {"lora": (4, 2)})))
    for name, p in student.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, generator=torch.Generator().manual_seed(len(name)))
    return student.eval()


def embeddings(model: Model, config) -> list[torch.Tensor]:
    inputs = make_inputs(with_loss(config, "clip"))
    assert inputs.tokens is not None
    with torch.no_grad():
        return [model.encode_image(inputs.views["image"]), model.encode_text(inputs.tokens)]


def test_only_adapters_learn(tiny_config) -> None:
    student = make_student(tuned(with_loss(tiny_config, "clip"), lora=(4, 0)))
    learning = {plain_name(n) for n, p in student.model.named_parameters() if p.requires_grad}
    tower = {name for name in learning if name.startswith("image_tower.")}
    assert tower == {
        f"image_tower.trunk.blocks.{block}.{layer}.lora_{part}"
        for block in (0, 1)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for part in "AB"
    }
    assert student.model.text_tower is not None
    assert all(p.requires_grad for p in student.model.text_tower.parameters())
    shapes = {plain_name(n): tuple(p.shape) for n, p in student.model.named_parameters()}
    assert shapes["image_tower.trunk.blocks.0.mlp.fc1.lora_A"] == (4, 16)
    assert shapes["image_tower.trunk.blocks.0.mlp.fc1.lora_B"] == (64, 4)


def test_frozen_blocks_get_no_adapters(tiny_config) -> None:
    student = make_student(tuned(with_loss(tiny_config, "clip"), image="1", text="-1", lora=(4, 2)))
    learning = {n for n, p in student.model.named_parameters() if p.requires_grad and "tower" in n}
    assert all("blocks.1." in name and "lora_" in name for name in learning)
    assert {name.partition(".")[0] for name in learning} == {"image_tower", "text_tower"}


def test_adapters_change_nothing_at_first_and_start_where_the_seed_says(tiny_config) -> None:
    plain = make_student(with_loss(tiny_config, "clip")).eval()
    first, second = (
        make_student(tuned(with_loss(tiny_config, "clip"), lora=(4, 2))).eval() for _ in range(2)
    )
    for a, b in zip(embeddings(plain.model, tiny_config), embeddings(first.model, tiny_config)):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=1e-15)  # the last bit is another with torch 2.10
    states = [student.state_dict() for student in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(value.any() for name, value in states[0].items() if "lora_A" in name)


@pytest.mark.parametrize("name", ["vit", "test_vit", "test_convnext"])
def test_merged_weights_give_the_same_embeddings(tiny_config, name) -> None:
    """Under the names of a model that never had adapters; the last blocks take their weights apart."""
    image = replace(tiny_config.model.image, name=name)
    config = replace(tiny_config, model=replace(tiny_config.model, image=image))
    config = replace(config, views=replace(config.views, size=160 if name == "test_vit" else 32))
    student = adapted(config)
    plain = make_student(with_loss(config, "clip")).eval()
    weights = merged(stored_state(student))
    assert weights.keys() == stored_state(plain).keys()
    before = embeddings(plain.model, config)
    plain.load_state_dict(
        {f"model.{n}" if n in plain.model.state_dict() else n: w for n, w in weights.items()}
    )
    for a, b, old in zip(
        embeddings(student.model, config), embeddings(plain.model, config), before, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(a, old, rtol=1e-6, atol=0)


def test_our_merging_is_that_of_peft(tiny_config) -> None:
    student = adapted(tiny_config)
    ours = merged(stored_state(student))
    theirs = copy.deepcopy(student)
    for module in theirs.modules():
        if hasattr(module, "lora_A"):
            cast(Any, module).merge()
    for name, weight in stored_state(theirs).items():
        if "lora_" not in name:
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-12)


def test_the_last_blocks_compute_what_the_full_ones_do(tiny_config) -> None:
    """Of one token, with the adapter's part: the slow twin computes all tokens, and takes that one."""
    model: Any = adapted(tiny_config).model
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = torch.tensor([4, 0, 2])
    image, text = model.image_tower.trunk.blocks[-1], model.text_tower.blocks[-1]
    for block, one, full in (
        (image, lambda: image(x)[:, 0], lambda: image(x, tokens=True)[:, 0]),
        (text, lambda: text(x, end), lambda: text(x)[torch.arange(3), end]),
    ):
        torch.testing.assert_close(one(), full(), rtol=1e-10, atol=1e-10)
        found = []
        for compute in (one, full):
            block.zero_grad()
            compute().square().sum().backward()
            found.append({n: p.grad.clone() for n, p in block.named_parameters() if p.grad is not None})
        assert len(found[0]) == 8
        for name, gradient in found[0].items():
            torch.testing.assert_close(gradient, found[1][name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_of_a_linear_layer(bias) -> None:
    linear, x = nn.Linear(4, 6, bias=bias).double(), torch.randn(3, 4, dtype=torch.float64)
    parts = [part(x) for part in split_linear(linear, [2, 4])]
    torch.testing.assert_close(torch.cat(parts, 1), linear(x))


def test_what_does_not_belong_together_is_left() -> None:
    a, b, w = torch.ones(2, 3), torch.ones(4, 2), torch.ones(4, 3)
    assert merged({"x.lora_A": a, "x.lora_B": b, "x.weight": w})["x.weight"].eq(5).all()
    for weights in (
        {"x.lora_A": a, "x.weight": w},
        {"x.lora_A": a, "x.lora_B": b},
        {"x.lora_A": a, "x.lora_B": b, "x.weight": w.T},
        {"x.lora_A": a, "x.lora_B": torch.ones(4, 3), "x.weight": w},
        {"x.lora_A": a[0], "x.lora_B": b, "x.weight": w},
        {"lora_A": a, "lora_B": b, "weight": w},
    ):
        assert merged(weights).keys() == weights.keys()


def test_names_of_timms_own_base_layer_stay() -> None:
    assert plain_name("image_tower.trunk.base_layer.0.weight") == "image_tower.trunk.base_layer.0.weight"
    assert plain_name("a.qkv.base_layer.bias") == "a.qkv.bias"


def test_without_peft_the_extra_is_named(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the library peft.*openslip\[lora\]"):
        plan_of(tuned(tiny_config, lora=(4, 0)), 64)
    plan_of(tiny_config, 64)


def test_loading_needs_no_peft(tiny_config, monkeypatch) -> None:
    weights = stored_state(adapted(tiny_config))
    original = builtins.__import__

    def refused(name, *arguments, **options):
        assert not name.startswith("peft")
        return original(name, *arguments, **options)

    for name in [name for name in sys.modules if name.startswith("peft")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refused)
    assert not any("lora" in name for name in merged(weights))


def test_towers_that_adapters_do_not_fit(tiny_config) -> None:
    image = replace(tiny_config.model.image, name="test_resnet", lora=4)
    config = replace(with_loss(tiny_config, "clip"), model=replace(tiny_config.model, image=image))
    with pytest.raises(ConfigError, match="no linear layers.*model.image.lora 4, of ResNet.*convolutional"):
        make_student(config)
    with pytest.raises(ConfigError, match="frozen whole, but is to have adapters.*model.text.freeze all"):
        plan_of(tuned(tiny_config, text="all", lora=(0, 2)), 64)
    with pytest.raises(ConfigError, match="no linear layers.*all its blocks are frozen"):
        make_student(tuned(with_loss(tiny_config, "clip"), image="2", lora=(4, 0)))
    fp8 = replace(tuned(tiny_config, lora=(4, 0)), training=replace(tiny_config.training, precision="fp8"))
    with pytest.raises(ConfigError, match="do not go together with products in fp8"):
        plan_of(fp8, 64)


class Direct(nn.Module):
    """Takes the weights of its layer as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.used = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x.mean((2, 3)) @ self.inner.weight)


def test_adapters_that_would_do_nothing_are_refused(tiny_config) -> None:
    model = make_student(with_loss(tiny_config, "clip")).float().model
    model.image_tower.trunk, model.image_tower.has_tokens = Direct(), False
    with pytest.raises(
        ConfigError, match="without calling them.*lora 2, of a Direct: 1 layers, as trunk.inner"
    ):
        tune(model, tuned(tiny_config, lora=(2, 0)).model, 16)
    assert model.image_tower.training
    assert isinstance(tiny_config.model, ModelConfig)


def test_adapters_are_known(tiny_config) -> None:
    assert is_adapted(adapted(tiny_config).model)
    student = make_student(tiny_config)
    assert not is_adapted(student.model)
    student.features(make_inputs(tiny_config), At())
