"""The layers of towers, by number."""

import re

import pytest
from torch import nn

from openslip.config import ImageTowerConfig, TextTowerConfig
from openslip.models.layers import layers_of
from openslip.models.text import TextTower
from openslip.models.vision import build_image_tower


def expected(name: str, depth: int) -> int:
    """Embeddings 0, block i at i + 1, the rest after them."""
    if block := re.search(r"(?:^|\.)blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    before = (
        "cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "token_embedding", "positional_embedding",
    )  # fmt: skip
    return 0 if re.search(rf"(?:^|\.)(?:{'|'.join(before)})(?:\.|$)", name) else depth + 1


@pytest.mark.parametrize(
    "tower",
    [
        build_image_tower(ImageTowerConfig(patch=8, width=16, depth=3, heads=2), 16),
        build_image_tower(ImageTowerConfig(name="test_vit"), 64),
        build_image_tower(ImageTowerConfig(name="test_vit2"), 64),
        TextTower(TextTowerConfig(width=16, depth=4, heads=2)),
    ],
    ids=["vit", "test_vit", "test_vit2", "text"],
)
def test_transformers_have_embeddings_blocks_and_the_rest(tower: nn.Module) -> None:
    layers = layers_of(tower)
    assert layers is not None
    assert layers.of == {name: expected(name, layers.depth) for name, _ in tower.named_parameters()}
    assert set(layers.of.values()) == set(range(layers.depth + 2))


def test_convolutional_towers_have_the_layers_of_timm() -> None:
    resnet = layers_of(build_image_tower(ImageTowerConfig(name="test_resnet"), 32))
    assert resnet is not None
    assert resnet.depth == max(resnet.of.values()) == 4
    assert resnet.of["trunk.conv1.0.weight"] == 0
    assert resnet.of["trunk.layer4.0.conv1.weight"] == 4
    convnext = layers_of(build_image_tower(ImageTowerConfig(name="test_convnext"), 32))
    assert convnext is not None
    last = [name for name, layer in convnext.of.items() if layer > convnext.depth]
    assert last == ["trunk.head.norm.weight", "trunk.head.norm.bias"]


def test_a_tower_of_another_kind_has_none() -> None:
    assert layers_of(nn.Sequential(nn.Linear(2, 2))) is None
