"""Our towers against public models' own modules, small and with random weights: timm, open_clip, transformers."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.blank import fill
from openslip.models.text import ACTIVATIONS, TextTower
from openslip.models.vision import POOLS, build_image_tower

IMAGE: dict[str, Any] = {"patch": 8, "width": 32, "depth": 2, "heads": 4}
TEXT: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "context": 12, "vocabulary": 100}
NAMES = [
    (r"resblocks", "blocks"),
    (r"(self_attn|attn)\.out_proj", "attn.proj"),
    (r"attn\.in_proj_(weight|bias)", r"attn.qkv.\1"),
    (r"c_fc", "fc1"),
    (r"c_proj", "fc2"),
    (r"(ln_|layer_norm)(\d)", r"norm\2"),
]


def _away_from_the_start(module: nn.Module) -> None:
    """Move weights to where biases are not zero and norms do something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _our_block(name: str, text: bool) -> str:
    for pattern, ours in NAMES:
        name = re.sub(pattern, ours, name)
    return re.sub(r"\.(attn|mlp)\.", ".", name) if text else name


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put transformers' matrices of queries, keys and values together."""
    joined = dict(state)
    for name in state:
        if "q_proj" in name:
            parts = [joined.pop(name.replace("q_proj", f"{kind}_proj")) for kind in "qkv"]
            joined[name.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
    return joined


def _filled(image: ImageTowerConfig, text: TextTowerConfig, dim: int, weights: dict[str, Tensor]) -> Model:
    with torch.device("meta"):
        model = Model(ModelConfig(image=image, text=text, embed_dim=dim), 32, text=True, shared=True)
    fill(model, weights)
    return model.eval()


def _equal(model: Model, images: Tensor, tokens: Tensor, expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(model.encode_image(images), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_text(tokens), expected[1], rtol=1e-4, atol=1e-5)


def _inputs(end: int | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    tokens = torch.randint(2, 98, (3, 12), generator=generator)
    for row, length in enumerate((3, 12, 7)):
        if end is not None:
            tokens[row, length - 1] = end
        tokens[row, length:] = 0 if end is not None else 1
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
    images, _ = _inputs(99)
    torch.testing.assert_close(tower(images), full(images), rtol=1e-5, atol=1e-6)
    feature, patches = tower(images, tokens=True)
    torch.testing.assert_close(feature, full(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(patches, full.forward_features(images)[:, classes:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quick", [False, True])
def test_open_clips_clip(quick: bool) -> None:
    from open_clip.model import CLIP

    theirs = CLIP(
        embed_dim=20,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 32, "heads": 4, "layers": 2},
        quick_gelu=quick,
    ).eval()
    _away_from_the_start(theirs)
    weights = {}
    for name, tensor in theirs.state_dict().items():
        trunk = "image_tower.trunk."
        match name.split("."):
            case ["visual", "class_embedding"]:
                weights[f"{trunk}cls_token"] = tensor[None, None]
            case ["visual", "positional_embedding"]:
                weights[f"{trunk}pos_embed"] = tensor[None]
            case ["visual", "proj"]:
                weights["image_projection"] = tensor
            case ["visual", "conv1", "weight"]:
                weights[f"{trunk}patch_embed.proj.weight"] = tensor
            case ["visual", "ln_pre", kind]:
                weights[f"{trunk}norm_pre.{kind}"] = tensor
            case ["visual", "ln_post", kind]:
                weights[f"{trunk}norm.{kind}"] = tensor
            case ["visual", "transformer", *rest]:
                weights[trunk + _our_block(".".join(rest), text=False)] = tensor
            case ["transformer", *rest]:
                weights["text_tower." + _our_block(".".join(rest), text=True)] = tensor
            case ["ln_final", kind]:
                weights[f"text_tower.norm.{kind}"] = tensor
            case ["token_embedding", _] | ["positional_embedding"]:
                weights[f"text_tower.{name}"] = tensor
            case _:
                weights[name] = tensor
    activation = "quick_gelu" if quick else "gelu"
    image = ImageTowerConfig(**IMAGE, activation=activation, pre_norm=True, norm_eps=1e-5)
    model = _filled(image, TextTowerConfig(**TEXT, activation=activation), 20, weights)
    images, tokens = _inputs(99)
    _equal(model, images, tokens, (theirs.encode_image(images), theirs.encode_text(tokens)))


SIGLIP_IMAGE: dict[str, Any] = {
    "activation": "gelu_tanh",
    "pool": "attention",
    "class_tokens": 0,
    "unprojected": True,
}
SIGLIP_TEXT: dict[str, Any] = {
    "activation": "gelu_tanh",
    "bidirectional": True,
    "pool": "last",
    "norm_eps": 1e-6,
    "projection_bias": True,
}


def test_transformers_siglip() -> None:
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"vocab_size": 100, "max_position_embeddings": 12, "projection_size": 32}
    vision = shape | {"image_size": 32, "patch_size": 8}
    theirs = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    _away_from_the_start(theirs)
    weights = {}
    trunk = "image_tower.trunk."
    for name, tensor in _joined(theirs.state_dict()).items():
        match name.split("."):
            case [tower, "encoder", "layers", *rest]:
                text = tower == "text_model"
                inner = _our_block(".blocks." + ".".join(rest), text)
                weights[("text_tower" if text else "image_tower.trunk") + inner] = tensor
            case ["text_model", "embeddings", kind, _]:
                name = "positional_embedding" if "position" in kind else f"{kind}.weight"
                weights[f"text_tower.{name}"] = tensor
            case ["text_model", "final_layer_norm", kind]:
                weights[f"text_tower.norm.{kind}"] = tensor
            case ["text_model", "head", "weight"]:
                weights["text_projection"] = tensor.T
            case ["text_model", "head", "bias"]:
                weights["text_projection_bias"] = tensor
            case ["vision_model", "embeddings", "patch_embedding", kind]:
                weights[f"{trunk}patch_embed.proj.{kind}"] = tensor
            case ["vision_model", "embeddings", *_]:
                weights[f"{trunk}pos_embed"] = tensor[None]
            case ["vision_model", "post_layernorm", kind]:
                weights[f"{trunk}norm.{kind}"] = tensor
            case ["vision_model", "head", "probe"]:
                weights[f"{trunk}attn_pool.latent"] = tensor
            case ["vision_model", "head", "attention", "in_proj_weight" | "in_proj_bias" as kind]:
                kind = kind.removeprefix("in_proj_")
                weights[f"{trunk}attn_pool.q.{kind}"] = tensor[:32]
                weights[f"{trunk}attn_pool.kv.{kind}"] = tensor[32:]
            case ["vision_model", "head", "attention", _, kind]:
                weights[f"{trunk}attn_pool.proj.{kind}"] = tensor
            case ["vision_model", "head", "layernorm", kind]:
                weights[f"{trunk}attn_pool.norm.{kind}"] = tensor
            case ["vision_model", "head", "mlp", *rest]:
                weights[f"{trunk}attn_pool.mlp.{'.'.join(rest)}"] = tensor
            case ["logit_scale"]:
                weights[name] = tensor[0]
    image = ImageTowerConfig(**IMAGE, **SIGLIP_IMAGE, mlp=70)
    model = _filled(image, TextTowerConfig(**TEXT, **SIGLIP_TEXT, mlp=70), 32, weights)
    images, tokens = _inputs(None)
    expected = theirs.get_image_features(images), theirs.get_text_features(tokens)
    _equal(model, images, tokens, tuple(getattr(e, "pooler_output", e) for e in expected))  # type: ignore[arg-type]


def _slow_text(tower: TextTower, config: TextTowerConfig, tokens: Tensor) -> Tensor:
    """The text tower without its savings: every token of every block, one caption at a time."""
    act, features = ACTIVATIONS[config.activation](), []
    for row in tokens:
        x = (tower.token_embedding.weight[row] + tower.positional_embedding[: len(row)])[None]
        hidden = torch.full((len(row), len(row)), -torch.inf, dtype=x.dtype).triu(1)
        for block in tower.blocks:
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
    _, tokens = _inputs(99)
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
