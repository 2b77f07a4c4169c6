from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch.nn import functional as F

from openslip.config import ImageTowerConfig, ViewConfig
from openslip.errors import ConfigError
from openslip.models.vision import ClassTokenBlock, ImageTower, build_image_tower

SMALL = ImageTowerConfig(patch=8, width=24, depth=3, heads=3)


def _pair(**options: object) -> tuple[ImageTower, VisionTransformer]:
    """Our tower and timm's own full model with the same weights, fp64."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    full = VisionTransformer(**sizes, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():  # away from the initialisation, where biases are zero and norms do nothing
        for parameter in full.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    trunk = VisionTransformer(**sizes, **options).double()  # type: ignore[arg-type]
    trunk.load_state_dict(full.state_dict())
    return ImageTower(trunk, 24), full


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.5},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"reg_tokens": 2},
        {"scale_attn_norm": True},
    ],
    ids=str,
)
def test_the_last_block_for_the_class_token_alone_equals_timms_full_forward(
    options: dict[str, object],
) -> None:
    tower, full = _pair(**options)
    assert isinstance(tower.trunk.blocks[-1], ClassTokenBlock)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    probe = torch.randn(4, 24, dtype=torch.float64)
    ours, theirs = tower(images), full(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)

    (ours * probe).sum().backward()
    (theirs * probe).sum().backward()
    expected = dict(full.named_parameters())
    for name, parameter in tower.trunk.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-11, msg=name)


def test_parameter_names_are_timms() -> None:
    tower, full = _pair()
    assert list(tower.trunk.state_dict()) == list(full.state_dict())


def test_stochastic_depth_drops_what_the_full_forward_drops() -> None:
    # One draw a sample and branch, whatever the number of tokens: the same seed drops the same samples.
    tower, full = _pair(drop_path_rate=0.5)
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(1)
    ours = tower.train()(images)
    torch.manual_seed(1)
    theirs = full.train()(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ours, tower.eval()(images))


def test_stochastic_depth_keeps_the_mean() -> None:
    tower, _ = _pair(drop_path_rate=0.5)
    block = tower.trunk.blocks[-1]
    block.mlp.fc2.weight.data.zero_()  # the attention branch alone, which is linear in what is dropped
    block.mlp.fc2.bias.data.zero_()
    tokens = torch.randn(1, 17, 24, dtype=torch.float64).expand(4000, 17, 24)
    with torch.no_grad():
        dropped, whole = block.train()(tokens), block.eval()(tokens)[:1]
    branch = (whole - tokens[:1, :1]).abs().max()
    assert (dropped.mean(0) - whole[0]).abs().max() < 0.1 * branch


@pytest.mark.parametrize(
    "options",
    [{"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}, {"global_pool": "map"}],
    ids=str,
)
def test_other_poolings_keep_their_full_last_block(options: dict[str, object]) -> None:
    tower, full = _pair(**options)
    assert type(tower.trunk.blocks[-1]) is Block
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(tower(images), full(images))


def test_other_kinds_of_block_keep_their_full_forward() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock

    tower, full = _pair(block_fn=ParallelScalingBlock)
    assert type(tower.trunk.blocks[-1]) is ParallelScalingBlock
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(tower(images), full(images))


def test_an_image_does_not_depend_on_its_batch() -> None:
    tower, _ = _pair()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(tower(images)[3], tower(images[3:4])[0], rtol=1e-12, atol=1e-12)


def test_vit_is_the_references_with_its_initialisation() -> None:
    torch.manual_seed(0)
    trunk = build_image_tower(ImageTowerConfig(), 64).trunk
    assert len(trunk.blocks) == 12
    assert trunk.blocks[0].attn.num_heads == 12
    assert trunk.norm.eps == trunk.blocks[0].norm1.eps == 1e-6
    assert trunk.pos_embed.shape == (1, 17, 384)
    for value in (
        trunk.cls_token,
        trunk.pos_embed,
        trunk.blocks[3].attn.qkv.weight,
        trunk.blocks[-1].mlp.fc2.weight,
    ):
        assert value.std().item() == pytest.approx(0.02, rel=0.15)
    assert not trunk.blocks[0].attn.qkv.bias.any()


def test_drop_path_grows_linearly_to_the_last_block() -> None:
    config = ImageTowerConfig(patch=8, width=24, depth=3, heads=3, drop_path=0.2)
    blocks = build_image_tower(config, 32).trunk.blocks
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("name", "width"), [("resnet10t", 512), ("vit_tiny_patch16_224", 192), ("mobilenetv3_small_050", 1024)]
)
def test_a_named_timm_model_gives_features_of_its_width(name: str, width: int) -> None:
    tower = build_image_tower(ImageTowerConfig(name=name), 32).eval()
    assert tower.width == width
    assert tower(torch.zeros(2, 3, 32, 32)).shape == (2, width)


def test_a_named_vision_transformer_has_the_short_last_block_too() -> None:
    torch.manual_seed(0)
    full = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    tower = build_image_tower(ImageTowerConfig(name="vit_tiny_patch16_224"), 32).eval()
    tower.trunk.load_state_dict(full.state_dict())
    assert isinstance(tower.trunk.blocks[-1], ClassTokenBlock)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(images), full(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "size", "told"),
    [
        (ImageTowerConfig(name="vit_smal_patch16_224"), 32, "vit_small_patch16_224"),
        (ImageTowerConfig(name="vitt"), 32, "'vit'"),
        (ImageTowerConfig(pretrained=True), 224, "timm model"),
        (ImageTowerConfig(width=100, heads=12), 224, "model.image.heads"),
        (ImageTowerConfig(depth=0), 224, "depth"),
        (ImageTowerConfig(), 100, "model.image.patch"),
        (ImageTowerConfig(name="vgg11", drop_path=0.1), 32, "timm says.*drop_path_rate"),
    ],
)
def test_what_makes_no_tower_says_what_to_change(config: ImageTowerConfig, size: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_image_tower(config, size)


def test_bf16_autocast_runs_forward_and_backward() -> None:
    tower = build_image_tower(SMALL, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tower(torch.randn(2, 3, 32, 32))
    features.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())


def _view(size: int, drop_tokens: float = 0.0) -> ViewConfig:
    return ViewConfig(size=size, drop_tokens=drop_tokens)


def test_smaller_images_have_their_position_embeddings_resampled() -> None:
    torch.manual_seed(0)
    tower = build_image_tower(SMALL, 64, [_view(64), _view(32)]).double()
    smaller = build_image_tower(SMALL, 32).double()
    state = tower.state_dict()
    prefix, grid = state["trunk.pos_embed"].split([1, 64], dim=1)
    grid = F.interpolate(
        grid.float().view(1, 8, 8, 24).permute(0, 3, 1, 2), (4, 4), mode="bicubic", antialias=True
    )
    state["trunk.pos_embed"] = torch.cat([prefix, grid.permute(0, 2, 3, 1).reshape(1, 16, 24).double()], 1)
    smaller.load_state_dict(state)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(tower(images), smaller(images), rtol=1e-5, atol=1e-6)
    tower(images).square().sum().backward()
    assert tower.trunk.pos_embed.grad.abs().sum() > 0


def test_weights_and_results_do_not_depend_on_the_views() -> None:
    towers = []
    for views in ((), [_view(64, 0.5), _view(32, 0.2)]):
        torch.manual_seed(0)
        towers.append(build_image_tower(SMALL, 64, views).eval())
    states = [tower.state_dict() for tower in towers]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(towers[0](images), towers[1](images, 0.5), rtol=1e-5, atol=1e-6)


def test_dropped_tokens_never_enter_the_blocks() -> None:
    tower = build_image_tower(SMALL, 32, [_view(32, 0.5)]).train()
    before, entered = [], []
    tower.trunk.patch_drop.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    tower.trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    images = torch.randn(6, 3, 32, 32)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        tower(images, 0.5)
    tower(images)
    tower.eval()(images, 0.5)
    assert [tokens.shape[1] for tokens in entered] == [9, 9, 9, 17, 17]
    assert torch.equal(entered[0], entered[1])
    kept = []
    for all_tokens, tokens in zip(before[0], entered[0]):
        assert torch.equal(tokens[0], all_tokens[0])  # the class token
        places = [int((all_tokens == token).all(1).nonzero()) for token in tokens[1:]]
        assert len(set(places)) == 8
        assert 0 not in places
        kept.append(frozenset(places))
    assert len(set(kept)) > 1  # of each image its own
    assert not torch.equal(entered[0], entered[2])


def test_dropping_tokens_keeps_each_as_often() -> None:
    tower = build_image_tower(SMALL, 32, [_view(32, 0.75)]).train()
    tokens = torch.arange(17.0).view(1, 17, 1).expand(2000, 17, 1)
    tower.trunk.patch_drop.share = 0.75
    counts = tower.trunk.patch_drop(tokens).long().flatten().bincount(minlength=17)
    assert counts[0] == 2000
    assert counts[1:].float().sub(500).abs().max() < 100  # five standard deviations


def test_convolutional_towers_take_views_of_any_size() -> None:
    tower = build_image_tower(ImageTowerConfig(name="test_resnet"), 32, [_view(32), _view(24)])
    assert tower.training
    assert tower(torch.randn(2, 3, 24, 24)).shape == tower(torch.randn(2, 3, 32, 32)).shape


def test_a_named_vision_transformer_takes_views_of_other_sizes() -> None:
    tower = build_image_tower(ImageTowerConfig(name="test_vit"), 64, [_view(64), _view(32, 0.5)])
    assert tower(torch.randn(2, 3, 32, 32), 0.5).shape == tower(torch.randn(2, 3, 64, 64)).shape


@pytest.mark.parametrize(
    ("config", "view", "told"),
    [
        (SMALL, _view(20), "views of 20 pixels, model.image.patch 8.*views.ssl.size"),
        (ImageTowerConfig(name="test_vit"), _view(40), "does not take views of 40 pixels.*timm says"),
        (ImageTowerConfig(name="mixer_s32_224"), _view(32), "does not take views of 32 pixels"),
        (ImageTowerConfig(name="test_resnet"), _view(64, 0.5), "no patch tokens.*drop_tokens"),
    ],
)
def test_views_that_a_tower_cannot_take(config: ImageTowerConfig, view: ViewConfig, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_image_tower(config, 64, [_view(64), view])
