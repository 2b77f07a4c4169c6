from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from openslip.config import (
    EMBEDDINGS,
    ImageTowerConfig,
    ModelConfig,
    SslHeadConfig,
    TextTowerConfig,
    ViewConfig,
    ViewsConfig,
)
from openslip.errors import ConfigError
from openslip.models import Model, build

CONFIG = ModelConfig(
    image=ImageTowerConfig(patch=8, width=24, depth=2, heads=3),
    text=TextTowerConfig(width=16, depth=2, heads=2, context=12),
    ssl=SslHeadConfig(width=32, dim=6),
    embed_dim=10,
)
CLIP, SIMCLR = ("image", "text"), ("ssl_1", "ssl_2")


def _model(embeddings: tuple[str, ...] = EMBEDDINGS) -> Model:
    torch.manual_seed(0)
    return build(CONFIG, 16, embeddings)


def _inputs(count: int = 4) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = {name: torch.randn(count, 3, 16, 16, generator=generator) for name in ("image", "ssl_1", "ssl_2")}
    tokens = torch.tensor([[49_406, 5 + i, 49_407] for i in range(count)])
    return views, tokens


def test_slip_gives_every_embedding_and_the_logit_scale() -> None:
    views, tokens = _inputs()
    out = _model()(views, tokens)
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {"image": (4, 10), "text": (4, 10), "ssl_1": (4, 6), "ssl_2": (4, 6), "logit_scale": ()}
    assert out["logit_scale"].item() == pytest.approx(1 / 0.07)
    assert out["logit_scale"].requires_grad


def test_what_an_objective_does_not_need_is_not_built() -> None:
    clip, simclr = _model(CLIP), _model(SIMCLR)
    views, tokens = _inputs()
    assert clip.ssl_head is None
    assert set(clip(views, tokens)) == {"image", "text", "logit_scale"}
    assert {name.split(".")[0] for name, _ in simclr.named_parameters()} == {"image_tower", "ssl_head"}
    assert set(simclr(views, None)) == {"ssl_1", "ssl_2"}


def test_embeddings_are_in_order_whatever_order_they_are_named_in() -> None:
    assert _model(("ssl_2", "text", "ssl_1", "image")).embeddings == EMBEDDINGS


def test_one_pass_equals_a_pass_for_each_view() -> None:
    model, (views, tokens) = _model().eval(), _inputs()
    out = model(views, tokens)
    torch.testing.assert_close(out["image"], model.encode_image(views["image"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["text"], model.encode_text(tokens))
    assert model.ssl_head is not None
    for name in SIMCLR:
        alone = model.ssl_head(model.image_features(views[name]))
        torch.testing.assert_close(out[name], alone, rtol=1e-4, atol=1e-5)


def test_the_tower_is_called_once() -> None:
    model, (views, tokens) = _model(), _inputs()
    batches = []
    model.image_tower.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    model(views, tokens)
    assert batches == [12]


def _views(**ssl: object) -> ViewsConfig:
    return ViewsConfig(size=16, ssl=ViewConfig(**ssl))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("views", "size", "calls"),
    [
        (_views(), 16, [(12, 0.0)]),
        (_views(size=16), 16, [(12, 0.0)]),
        (_views(size=8), 8, [(4, 0.0), (8, 0.0)]),
        (_views(drop_tokens=0.5), 16, [(4, 0.0), (8, 0.5)]),
    ],
    ids=str,
)
def test_views_of_one_kind_go_through_together(views: ViewsConfig, size: int, calls: list) -> None:
    torch.manual_seed(0)
    model, (pictures, tokens) = build(CONFIG, 16, EMBEDDINGS, views), _inputs()
    pictures = {name: view if name == "image" else view[..., :size, :size] for name, view in pictures.items()}
    seen = []
    model.image_tower.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), inputs[1])))
    out = model(pictures, tokens)
    assert seen == calls
    assert out["ssl_1"].shape == out["ssl_2"].shape == (4, 6)
    if len(calls) == 1:
        expected = _model()(pictures, tokens)
        assert all(torch.equal(out[name], expected[name]) for name in expected)


def test_self_supervised_views_may_be_fewer_or_absent() -> None:
    model, (views, tokens) = _model().eval(), _inputs()
    whole = model(views, tokens)
    few = model({name: view[:3] if name in SIMCLR else view for name, view in views.items()}, tokens)
    none = model({"image": views["image"]}, tokens)
    assert list(none) == ["image", "text", "logit_scale"]
    for out, name, rows in [(few, "ssl_1", 3), (few, "ssl_2", 3), (few, "image", 4), (none, "image", 4)]:
        torch.testing.assert_close(out[name], whole[name][:rows], rtol=1e-4, atol=1e-5)


def test_each_ssl_view_has_its_own_batch_statistics() -> None:
    model, (views, _) = _model(SIMCLR).train(), _inputs()
    views = {"ssl_1": views["ssl_1"], "ssl_2": 3 * views["ssl_2"] + 1}
    features = model.features(views)
    out = model.heads(features)
    assert model.ssl_head is not None
    torch.testing.assert_close(out["ssl_2"], model.ssl_head(features["ssl_2"]))
    joint = model.ssl_head(torch.cat([features["ssl_1"], features["ssl_2"]]))[4:]
    assert not torch.allclose(out["ssl_2"], joint, atol=1e-3)


def test_heads_of_parts_joined_equal_the_whole() -> None:
    model, (views, tokens) = _model(), _inputs()
    whole = model(views, tokens)
    parts = [model.features({k: v[i : i + 2] for k, v in views.items()}, tokens[i : i + 2]) for i in (0, 2)]
    joined = model.heads({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    for name, value in whole.items():
        torch.testing.assert_close(joined[name], value, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient() -> None:
    model, (views, tokens) = _model(), _inputs()
    sum(value.square().sum() for value in model(views, tokens).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_logit_scale_is_kept_between_1_and_100() -> None:
    model = _model()
    assert model.logit_scale is not None
    for value, kept in [(-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))]:
        model.logit_scale.data.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(kept)
    _model(SIMCLR).clamp_logit_scale()


def test_without_text_images_encode_to_the_towers_features() -> None:
    model, (views, _) = _model(SIMCLR).eval(), _inputs()
    assert torch.equal(model.encode_image(views["ssl_1"]), model.image_features(views["ssl_1"]))


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = _model().state_dict(), _model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bf16_autocast_keeps_the_ssl_head_in_fp32() -> None:
    model, (views, tokens) = _model(), _inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(views, tokens)
    assert out["ssl_1"].dtype == out["logit_scale"].dtype == torch.float32
    assert out["image"].dtype == torch.bfloat16


def test_missing_inputs_are_said() -> None:
    model, (views, tokens) = _model(), _inputs()
    with pytest.raises(ConfigError, match="no tokens"):
        model(views)
    with pytest.raises(ConfigError, match="ssl_2"):
        model({"image": views["image"], "ssl_1": views["ssl_1"]}, tokens)
    with pytest.raises(ConfigError, match="views image"):
        _model(SIMCLR)({"image": views["image"]})
    with pytest.raises(ConfigError, match="not built for"):
        _model(SIMCLR).encode_text(tokens)


@pytest.mark.parametrize("embeddings", [("imag", "text"), ()])
def test_unknown_embeddings_are_said(embeddings: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="image"):
        build(CONFIG, 16, embeddings)
