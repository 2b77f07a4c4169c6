"""The finetuning recipe's values, each layer's learning rate, and the order and randomness of its data."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from openslip.config import ImageTowerConfig, ViewsConfig
from openslip.data.labelled import Labelled
from openslip.errors import ConfigError
from openslip.evaluation.finetune import FinetuneRecipe, recipe_for
from openslip.evaluation.finetune.data import Batches, seeded, train_loader
from openslip.evaluation.finetune.layers import Classifier, build_optimizer, build_schedule, set_drop_path
from openslip.models.vision import build_image_tower

RECIPE = FinetuneRecipe(epochs=3, warmup_epochs=1, batch=8, lr=0.2, layer_decay=0.9)


# Recipes


def test_the_papers_values_per_model_size():
    small, base, large = (recipe_for(width, 1_281_167, "paper") for width in (384, 768, 1024))
    assert [r.epochs for r in (small, base, large)] == [100, 100, 50]
    assert [r.warmup_epochs for r in (small, base, large)] == [20, 20, 5]
    assert [r.layer_decay for r in (small, base, large)] == [0.65, 0.65, 0.75]
    assert [r.drop_path for r in (small, base, large)] == [0.0, 0.1, 0.1]
    for recipe in (small, base, large):
        assert (recipe.lr, recipe.batch, recipe.weight_decay, recipe.erasing) == (4e-3, 1024, 0.05, 0.25)
        assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (0.8, 1.0, 0.1)
        assert recipe.rand_augment == "rand-m9-mstd0.5-inc1"


def test_auto_takes_the_papers_recipe_only_for_large_towers_and_much_data():
    assert recipe_for(768, 1_000_000).name == "paper"
    assert recipe_for(192, 1_000_000).name == "small-data"
    assert recipe_for(768, 5_000).name == "small-data"


@given(images=st.integers(2, 100_000), width=st.integers(8, 2048))
def test_the_small_data_recipe_is_valid_for_any_data(images, width):
    recipe = recipe_for(width, images, "small-data")
    assert 10 <= recipe.epochs <= 50
    assert 8 <= recipe.batch <= 64


def test_unknown_preset_and_senseless_values_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'paper'"):
        recipe_for(384, 1000, "papr")  # type: ignore[arg-type]
    change: dict[str, Any]
    for change in ({"batch": 9}, {"mix_group": 0}, {"epochs": 0}, {"layer_decay": 1.5}, {"lr": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            dataclasses.replace(RECIPE, **change)


# Layers, rates, schedule


def test_every_parameter_of_a_12_block_vit_has_its_layers_rate():
    """BEiT: embeddings are layer 0, block i layer i + 1, final norm and head the 13th, at scale 1."""
    recipe = recipe_for(384, 1_281_167, "paper")
    tower = build_image_tower(ImageTowerConfig(patch=8, width=24, depth=12, heads=2), 16)
    model = Classifier(tower, 5, recipe)
    optimizer = build_optimizer(model, recipe, batch=512)
    schedule = build_schedule(optimizer, recipe, steps=10)
    schedule.step_update(recipe.warmup_epochs * 10)

    seen = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"]):
            assert parameter is model.get_parameter(name)
            seen[name] = (group["lr"], group["weight_decay"])
    assert seen.keys() == {name for name, _ in model.named_parameters()}
    for name, (lr, weight_decay) in seen.items():
        if block := re.match(r"tower\.trunk\.blocks\.(\d+)\.", name):
            layer = int(block[1]) + 1
        elif name.startswith(("tower.trunk.norm.", "head.")):
            layer = 13
        else:
            assert name.split(".")[2] in ("cls_token", "pos_embed", "patch_embed")
            layer = 0
        assert lr == pytest.approx(4e-3 * 512 / 1024 * 0.65 ** (13 - layer)), name
        free = name.endswith((".bias", "cls_token", "pos_embed")) or ".norm" in name
        assert weight_decay == (0.0 if free else 0.05), name
    assert len({lr for lr, _ in seen.values()}) == 14


def test_other_timm_models_are_layered_by_timm_with_the_head_on_top():
    tower = build_image_tower(ImageTowerConfig(name="test_resnet"), 32)
    model = Classifier(tower, 5, RECIPE)
    scale = {n: g["lr_scale"] for g in build_optimizer(model, RECIPE, 8).param_groups for n in g["names"]}
    assert scale.keys() == {name for name, _ in model.named_parameters()}
    assert scale["head.weight"] == 1.0
    assert (
        scale["tower.trunk.conv1.0.weight"]
        == min(scale.values())
        < scale["tower.trunk.layer4.0.conv1.weight"]
        < 1
    )


def test_a_tower_without_layers_learns_at_one_rate():
    tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    tower.width = 4  # type: ignore[assignment]
    assert {g["lr_scale"] for g in build_optimizer(Classifier(tower, 2, RECIPE), RECIPE, 8).param_groups} == {
        1.0
    }


def test_schedule_warms_up_from_zero_and_follows_the_cosine():
    recipe = dataclasses.replace(RECIPE, epochs=10, warmup_epochs=2, lr_end=1e-3)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr_scale": 0.5}], lr=0.1)
    schedule = build_schedule(optimizer, recipe, steps=5)
    for step in range(50):
        schedule.step_update(step)
        if step < 10:
            expected = 0.1 * step / 10
        else:
            expected = 1e-3 + (0.1 - 1e-3) * (1 + math.cos(math.pi * (step - 10) / 40)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * expected)


def test_drop_path_rises_linearly_and_can_be_taken_out():
    tower = build_image_tower(ImageTowerConfig(patch=8, width=24, depth=5, heads=2, drop_path=0.4), 16)

    def rates() -> list[float]:
        return [getattr(b.drop_path2, "drop_prob", 0.0) for b in tower.trunk.blocks]  # type: ignore[union-attr]

    set_drop_path(tower, 0.1)
    assert rates() == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    set_drop_path(tower, 0.0)
    assert not any(isinstance(m, timm.layers.DropPath) for m in tower.modules())


def test_the_new_head_starts_small():
    tower = build_image_tower(ImageTowerConfig(patch=8, width=24, depth=1, heads=2), 16)
    model = Classifier(tower, 7, recipe_for(24, 1000))
    assert 0 < model.head.weight.abs().max() < 1e-4
    assert not model.head.bias.any()


# Order and randomness


def test_randaugment_works_at_full_strength():
    """timm's Posterize then keeps 0 bits of a channel, which Pillow refuses."""
    images = [np.full((20, 20, 3), 200, np.uint8)]
    labelled = Labelled("grey", "train", images, np.zeros(1, np.int64), ("a", "b"))
    recipe = dataclasses.replace(RECIPE, rand_augment="rand-m10-inc1")
    loader = train_loader(labelled, recipe, ViewsConfig(size=16), batch=1, seed=0, epochs=range(1), workers=0)
    augment = loader.dataset.transform.transforms[2]  # type: ignore[attr-defined]
    operations = {operation.name: operation for operation in augment.ops}
    assert "PosterizeIncreasing" in operations
    for name, operation in operations.items():
        operation.prob = 1.0
        assert operation(Image.fromarray(images[0])).size == (20, 20), name


@given(images=st.integers(2, 60), batch=st.integers(1, 30), epochs=st.integers(1, 4), first=st.integers(0, 3))
@settings(max_examples=50)
def test_batches_hold_no_image_twice_an_epoch_and_can_start_anywhere(images, batch, epochs, first):
    batch, first = min(batch, images), min(first, epochs)
    whole = list(Batches(images, batch, 3, 0, epochs))
    steps = images // batch
    assert len(whole) == epochs * steps == len(Batches(images, batch, 3, 0, epochs))
    for epoch in range(epochs):
        keys = [key for b in whole[epoch * steps : (epoch + 1) * steps] for key in b]
        assert {e for e, _ in keys} == {epoch}
        assert len({i for _, i in keys}) == steps * batch
    assert list(Batches(images, batch, 3, first, epochs)) == whole[first * steps :]


def test_seeded_repeats_and_leaves_the_global_generators_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    with seeded(1, 2, 3):
        first = draw()
    with seeded(1, 2, 3):
        assert draw() == first
    with seeded(1, 2, 4):
        assert all(a != b for a, b in zip(draw(), first))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
