from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from openslip.config import ImageTowerConfig, ViewConfig
from openslip.errors import ConfigError
from openslip.models.dropping import leave_out_tokens
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


def _last_block(tower: ImageTower) -> nn.Module:
    return cast(VisionTransformer, tower.trunk).blocks[-1]


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
    assert isinstance(_last_block(tower), ClassTokenBlock)
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
    block: Any = _last_block(tower)
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
    assert type(_last_block(tower)) is Block
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(tower(images), full(images))


def test_other_kinds_of_block_keep_their_full_forward() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock

    tower, full = _pair(block_fn=ParallelScalingBlock)
    assert type(_last_block(tower)) is ParallelScalingBlock
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(tower(images), full(images))


def test_an_image_does_not_depend_on_its_batch() -> None:
    tower, _ = _pair()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(tower(images)[3], tower(images[3:4])[0], rtol=1e-12, atol=1e-12)


def test_vit_is_the_references_with_its_initialisation() -> None:
    torch.manual_seed(0)
    trunk: Any = build_image_tower(ImageTowerConfig(), 64).trunk
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
    blocks: Any = build_image_tower(config, 32).trunk.blocks
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
    assert isinstance(_last_block(tower), ClassTokenBlock)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(images), full(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "size", "told"),
    [
        (ImageTowerConfig(name="vit_smal_patch16_224"), 32, "vit_small_patch16_224"),
        (ImageTowerConfig(name="vitt"), 32, "'vit'"),
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
    trunk: Any = tower.trunk
    assert trunk.pos_embed.grad.abs().sum() > 0


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
    trunk: Any = tower.trunk
    before, entered = [], []
    trunk.pos_drop.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
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
    tokens = torch.arange(17.0).view(1, 17, 1).expand(2000, 17, 1)
    counts = leave_out_tokens(tokens, 0.75, prefix=1).long().flatten().bincount(minlength=17)
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


class _DropTokens(nn.Module):
    """What leaves out tokens where timm's own forward would."""

    def __init__(self, share: float, prefix: int) -> None:
        super().__init__()
        self.share, self.prefix = share, prefix

    def forward(self, x: Tensor) -> Tensor:
        return leave_out_tokens(x, self.share, self.prefix)


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "test_vit3": {},  # class token left out, attention pooling
    "deit3_small_patch16_224": {},  # positions without one for the class token
    "deit_tiny_distilled_patch16_224": {},  # a subclass, with another head and other positions
    "vit_betwixt_patch16_reg4_gap_256": {},  # registers, the pooled feature is normed
    "vit_base_patch16_clip_quickgelu_224": {},  # a norm before the blocks
    "vit_base_patch16_siglip_224": {},
    "vit_tiny_r_s16_p8_224": {"img_size": 64},  # convolutions before the blocks
    "test_vit": {"dynamic_img_size": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 1, "embed_dim": 48, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 1, "depths": (1, 1, 1, 1)},
    "convnext_atto": {},
    "test_resnet": {},
    "mobilenetv3_small_050": {},
}


def _timm(name: str, options: dict[str, Any]) -> tuple[ImageTower, Any, Tensor]:
    """Our tower around a named model, one of timm with the same weights, and images for both."""
    torch.manual_seed(0)
    if name in TRANSFORMERS:
        options = {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 3, **options}
    full: Any = timm.create_model(name, num_classes=0, drop_path_rate=0.3, **options)
    with torch.no_grad():  # away from the initialisation, where gates and scales may be next to zero
        for parameter in full.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    side = options.get("img_size", 32)
    return ImageTower(copy.deepcopy(full), full.num_features), full, torch.randn(4, 3, side, side)


def _seeded(call: Callable[..., Any], *inputs: object, **options: object) -> Any:
    torch.manual_seed(5)
    return call(*inputs, **options)


@pytest.mark.parametrize("name", [*TRANSFORMERS, *OTHERS])
def test_evaluation_and_training_are_timms(name: str) -> None:
    tower, full, images = _timm(name, TRANSFORMERS.get(name) or OTHERS.get(name) or {})
    assert tower.has_tokens == (name in TRANSFORMERS)
    reduced = isinstance(getattr(tower.trunk, "blocks", [None])[-1], ClassTokenBlock)
    with torch.no_grad():
        torch.testing.assert_close(tower.eval()(images), full.eval()(images), rtol=1e-4, atol=1e-5)
        assert reduced or torch.equal(tower(images), full(images))
        # Stochastic depth and dropped tokens: what timm's own forward would do with the modules that the trunk has.
        share = 0.4 if tower.has_tokens else 0.0
        trunk: Any = copy.deepcopy(tower.trunk)
        if share:
            trunk.patch_drop = _DropTokens(share, trunk.num_prefix_tokens)
        assert torch.equal(_seeded(tower.train(), images, share), _seeded(trunk.train(), images))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_patch_tokens_are_timms(name: str) -> None:
    tower, full, images = _timm(name, TRANSFORMERS[name])
    tower, full, images = tower.double().eval(), full.double().eval(), images.double()
    feature, tokens = tower(images, tokens=True)
    expected = full.forward_features(images)
    assert torch.equal(tokens, expected[:, full.num_prefix_tokens :])
    assert torch.equal(feature, full(images))
    torch.testing.assert_close(feature, tower(images), rtol=1e-12, atol=1e-12)
    rows, columns = tower.grid(images.shape[-1])
    assert tokens.shape == (4, rows * columns, full.num_features)


def test_patch_tokens_have_their_gradient_and_do_not_change_the_features() -> None:
    tower, full = _pair(drop_path_rate=0.5)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    feature, tokens = _seeded(tower.train(), images, tokens=True)
    expected = _seeded(full.train().forward_features, images)
    torch.testing.assert_close(feature, _seeded(tower, images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([feature[:, None], tokens], 1), expected, rtol=1e-12, atol=1e-12)
    (feature.sum() + tokens.square().sum()).backward()
    (expected[:, 0].sum() + expected[:, 1:].square().sum()).backward()
    theirs = dict(full.named_parameters())
    for name, parameter in tower.trunk.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    "options",
    [{}, {"dynamic_img_size": True}, {"class_token": False, "global_pool": "avg"}, {"no_embed_class": True}],
    ids=str,
)
def test_a_masked_patch_is_the_mask_token_at_its_place(options: dict[str, object]) -> None:
    tower, full = _pair(**options)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    token = nn.Parameter(torch.randn(24, dtype=torch.float64))
    masked = torch.rand(4, 16) < 0.4
    masked[3] = False
    embeddings = full.patch_embed(images).reshape(4, 16, 24).tolist()
    for image in range(4):
        for patch in range(16):
            if masked[image, patch]:
                embeddings[image][patch] = token.tolist()
    entering = torch.tensor(embeddings, dtype=torch.float64)
    shape = (4, 4, 4, 24) if options.get("dynamic_img_size") else (4, 16, 24)
    full.patch_embed.register_forward_hook(lambda *_: entering.view(shape))
    for tokens in (False, True):
        out = tower(images, tokens=tokens, masked=masked, mask_token=token)
        torch.testing.assert_close(out[0] if tokens else out, full(images), rtol=1e-12, atol=1e-12)
    assert torch.equal(tower(images, masked=masked, mask_token=token)[3], tower(images)[3])

    out[0].square().sum().backward()
    entering.requires_grad_()
    full(images).square().sum().backward()
    assert entering.grad is not None
    torch.testing.assert_close(token.grad, entering.grad[masked].sum(0), rtol=1e-9, atol=1e-11)


def test_masks_and_patch_tokens_in_bf16() -> None:
    tower, token = build_image_tower(SMALL, 32), nn.Parameter(torch.randn(24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature, tokens = tower(
            torch.randn(2, 3, 32, 32), tokens=True, masked=torch.rand(2, 16) < 0.5, mask_token=token
        )
    (feature.float().square().sum() + tokens.float().square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [token, *tower.parameters()])


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
def test_timms_checkpointing_of_other_blocks_changes_no_bit(block: str) -> None:
    import timm.models.vision_transformer

    kind = getattr(timm.models.vision_transformer, block, None)
    if kind is None:
        pytest.skip(f"timm {timm.__version__} has no {block}")
    tower, _ = _pair(block_fn=kind, drop_path_rate=0.5)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    grads = []
    for recomputed in (False, True):
        cast(VisionTransformer, tower.trunk).set_grad_checkpointing(recomputed)
        tower.zero_grad()
        feature, tokens = _seeded(tower.train(), images, tokens=True)
        (feature.sum() + tokens.square().sum()).backward()
        grads.append([p.grad for p in tower.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


@pytest.mark.parametrize("name", ["test_resnet", "beit_base_patch16_224"])
def test_a_tower_without_patch_tokens_says_so(name: str) -> None:
    tower, _, images = _timm(name, OTHERS[name])
    for options in ({"tokens": True}, {"masked": torch.zeros(4, 4, dtype=torch.bool)}, {"drop_tokens": 0.5}):
        with pytest.raises(ConfigError, match="no patch tokens.*vit_small_patch16_224"):
            tower.train()(images, **options)
    with pytest.raises(ConfigError, match="no patch tokens"):
        tower.grid(32)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drop_tokens": 0.5, "tokens": True}, "patch tokens are used.*a share of 0.5.*drop_tokens"),
        ({"drop_tokens": 0.5, "masked": torch.zeros(2, 16).bool()}, "patch tokens are masked.*drop_tokens"),
        ({"masked": torch.zeros(2, 16).bool()}, "mask token None"),
        ({"masked": torch.zeros(2, 9).bool(), "mask_token": torch.zeros(24)}, r"\(2, 9\).*\(2, 16, 24\)"),
        ({"masked": torch.zeros(2, 16).bool(), "mask_token": torch.zeros(1, 24)}, r"mask token \(1, 24\)"),
    ],
)
def test_what_cannot_go_together_says_so(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_image_tower(SMALL, 32)(torch.randn(2, 3, 32, 32), **options)


def test_the_grid_of_patches() -> None:
    tower = build_image_tower(SMALL, 64, [_view(64), _view(32)])
    assert (tower.grid(64), tower.grid(32)) == ((8, 8), (4, 4))
