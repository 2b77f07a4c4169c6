"""Features and embeddings of patches, for each way that a tower pools them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import EvaluationError
from openslip.models import Model, build
from openslip.models.dense import check_patches, patch_embeddings, patch_features
from openslip.needs import LOGIT_SCALE, TEXT, Need

NEEDS = (Need("image", "embedding"), Need(TEXT, "embedding"), LOGIT_SCALE)
CONFIG = ModelConfig(
    image=ImageTowerConfig(patch=8, width=24, depth=2, heads=3),
    text=TextTowerConfig(width=16, depth=1, heads=2, context=12),
    embed_dim=10,
)


def model(size: int = 16, **image: Any) -> Model:
    torch.manual_seed(0)
    made = build(replace(CONFIG, image=replace(CONFIG.image, **image)), size, NEEDS).eval()
    for parameter in made.parameters():  # what starts as 0 would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def images(size: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_class_token_is_maskclips_way() -> None:
    of, x = model(), images(16)
    trunk: Any = of.image_tower.trunk
    x = trunk.blocks[0](trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(x))))[:, 1:]
    last = trunk.blocks[1]
    # Zhou, Loy and Dai 2022: the value projection, its output projection, residual, MLP, norm, projection
    value = F.linear(last.norm1(x), last.attn.qkv.weight[48:], last.attn.qkv.bias[48:])
    x = x + last.attn.proj(value)
    x = x + last.mlp(last.norm2(x))
    expected = trunk.norm(x) @ of.image_projection
    assert_close(patch_embeddings(of, images(16)).flatten(1, 2), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "image",
    [{"pool": "attention", "class_tokens": 0}, {"pool": "mean", "class_tokens": 0}],
    ids=["attention", "mean"],
)
def test_of_one_patch_the_patch_is_the_image(image: dict[str, object]) -> None:
    of, x = model(8, **image), images(8)
    assert_close(patch_embeddings(of, x)[:, 0, 0], of.encode_image(x))


@torch.no_grad()
def test_attention_pooling_gives_each_patch_its_own_value() -> None:
    of, x = model(pool="attention", class_tokens=0), images(16)
    pool: Any = of.image_tower.trunk.attn_pool
    tokens = of.image_tower(x, tokens=True)[1]
    value = pool.proj(F.linear(tokens, pool.kv.weight[24:], pool.kv.bias[24:]))
    expected = (value + pool.mlp(pool.norm(value))) @ of.image_projection
    assert_close(patch_embeddings(of, x).flatten(1, 2), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_efficientnet.r160_in1k"])
def test_of_a_feature_map_the_mean_of_the_places_is_the_image(name: str) -> None:
    of, x = model(64, name=name), images(64)
    found = patch_embeddings(of, x)
    assert found.shape == (3, 2, 2, 10)
    assert_close(found.mean(dim=(1, 2)), of.encode_image(x))
    assert patch_features(of.image_tower, x).shape[:3] == (3, 2, 2)


@torch.no_grad()
def test_a_norm_after_the_mean_is_the_places_own() -> None:
    of = model(64, name="test_convnext.r160_in1k")
    trunk: Any = of.image_tower.trunk
    expected = trunk.head.norm(trunk.forward_features(images(64))).permute(0, 2, 3, 1) @ of.image_projection
    assert_close(patch_embeddings(of, images(64)), expected)


@torch.no_grad()
def test_places_lie_as_in_the_picture() -> None:
    """A change in one corner changes the patch of that corner the most."""
    of, x = model(), images(16, 1)
    changed = x.clone()
    changed[..., :8, 8:] += 3  # above, right
    for call in (lambda x: patch_features(of.image_tower, x), lambda x: patch_embeddings(of, x)):
        assert (call(changed) - call(x)).norm(dim=-1).argmax() == 1
    flat: Any = model(64, name="test_resnet.r160_in1k").image_tower
    expected = flat.trunk.forward_features(images(64)).permute(0, 2, 3, 1)
    assert torch.equal(patch_features(flat, images(64)), expected)


@torch.no_grad()
def test_patch_features_are_the_towers_tokens() -> None:
    of, x = model(), images(16)
    assert torch.equal(
        patch_features(of.image_tower, x), of.image_tower(x, tokens=True)[1].unflatten(1, (2, 2))
    )


def test_what_has_no_patches_says_so() -> None:
    of: Any = model()
    check_patches(of, embeddings=True)
    of.image_tower.trunk.global_pool = "max"
    check_patches(of, embeddings=False)
    with pytest.raises(EvaluationError, match="cannot embed a single patch of this tower"):
        check_patches(of, embeddings=True)
    flat: Any = model(64, name="test_resnet.r160_in1k")
    flat.image_tower.trunk.forward_features = lambda x: x.mean(dim=(2, 3))
    for embeddings, what in ((True, "cannot embed a single patch"), (False, "neither patch tokens nor")):
        with pytest.raises(EvaluationError, match=what):
            check_patches(flat, embeddings=embeddings)
