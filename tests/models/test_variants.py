"""The variants that public models have of our towers, against timm's modules and slow twins of their own."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.text import ACTIVATIONS, TextTower
from openslip.models.vision import POOLS, build_image_tower

IMAGE: dict[str, Any] = {"patch": 8, "width": 32, "depth": 2, "heads": 4}
TEXT: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "context": 12, "vocabulary": 100}


def _away_from_the_start(module: nn.Module) -> None:
    """Move weights to where biases are not zero and norms do something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _inputs() -> tuple[Tensor, Tensor]:
    """Return pictures, and token ids of three lengths whose end has the id 99."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    tokens = torch.randint(2, 98, (3, 12), generator=generator)
    for row, length in zip(tokens, (3, 12, 7)):
        row[length - 1], row[length:] = 99, 0
    return images, tokens


@pytest.mark.parametrize("pool", ["token", "mean", "attention"])
@pytest.mark.parametrize("classes", [0, 1])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "gelu_tanh"])
def test_every_vit_equals_timms(pool: Any, classes: int, activation: Any) -> None:
    config = ImageTowerConfig(
        **IMAGE, pool=pool, class_tokens=classes, activation=activation, mlp=70, pre_norm=True, norm_eps=1e-5
    )
    if pool == "token" and not classes:
        with pytest.raises(ConfigError, match=r"model\.image\.class_tokens"):
            build_image_tower(config, 32)
        return
    full = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=70 / 32 + 1e-3,
        num_classes=0,
        global_pool=POOLS[pool],  # type: ignore[arg-type]
        class_token=bool(classes),
        pre_norm=True,
        act_layer=ACTIVATIONS[activation],
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    ).eval()
    _away_from_the_start(full)
    tower = build_image_tower(config, 32).eval()
    tower.trunk.load_state_dict(full.state_dict())
    images, _ = _inputs()
    torch.testing.assert_close(tower(images), full(images), rtol=1e-5, atol=1e-6)
    feature, patches = tower(images, tokens=True)
    torch.testing.assert_close(feature, full(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(patches, full.forward_features(images)[:, classes:], rtol=1e-5, atol=1e-6)


def _slow_text(tower: TextTower, config: TextTowerConfig, tokens: Tensor) -> Tensor:
    """The text tower without its savings: every token of every block, one caption at a time."""
    act, features = ACTIVATIONS[config.activation](), []
    for row in tokens:
        x = (tower.token_embedding.weight[row] + tower.positional_embedding[: len(row)])[None]
        hidden = torch.full((len(row), len(row)), -torch.inf, dtype=x.dtype).triu(1)
        for block in cast(Any, tower.blocks):
            q, k, v = (part.unflatten(-1, (4, -1)) for part in block.qkv(block.norm1(x)).chunk(3, dim=-1))
            scores = torch.einsum("nqhk,nthk->nhqt", q, k) / q.shape[-1] ** 0.5
            weights = (scores if config.bidirectional else scores + hidden).softmax(-1)
            x = x + block.proj(torch.einsum("nhqt,nthk->nqhk", weights, v).flatten(-2))
            x = x + block.fc2(act(block.fc1(block.norm2(x))))
        ends = (row == config.vocabulary - 1).nonzero()
        features.append(tower.norm(x)[0, -1 if config.pool == "last" else int(ends[-1])])
    return torch.stack(features)


@pytest.mark.parametrize("pool", ["end", "last"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_text_tower_equals_its_slow_twin(pool: Any, bidirectional: bool) -> None:
    config = TextTowerConfig(**TEXT, pool=pool, bidirectional=bidirectional, activation="gelu", mlp=50)
    tower = TextTower(config).double()
    _away_from_the_start(tower)
    _, tokens = _inputs()
    ours, theirs = tower(tokens), _slow_text(tower, config, tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    parameters = list(tower.parameters())
    probe = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * probe).sum(), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad((theirs * probe).sum(), parameters))
    if tower.padded:
        with pytest.raises(ConfigError, match="fewer tokens"):
            tower(tokens[:, :9])


def test_an_embedding_without_a_projection_has_the_towers_width() -> None:
    config = ModelConfig(image=ImageTowerConfig(**IMAGE, unprojected=True), embed_dim=20)
    with pytest.raises(ConfigError, match=r"Set model\.embed_dim to 32"):
        Model(config, 32, text=True, shared=True)
