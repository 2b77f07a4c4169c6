from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig, ViewConfig
from openslip.errors import ConfigError
from openslip.models import Model, build
from openslip.models.inputs import Inputs
from openslip.needs import LOGIT_SCALE, TEXT, Need

CONFIG = ModelConfig(
    image=ImageTowerConfig(patch=8, width=24, depth=2, heads=3),
    text=TextTowerConfig(width=16, depth=2, heads=2, context=12),
    embed_dim=10,
)
SHARED, PICTURES = (
    (Need("image", "embedding"), Need(TEXT, "embedding"), LOGIT_SCALE),
    (Need("ssl_1"), Need("ssl_2")),
)
ALL = (*SHARED, *PICTURES)


def _model(needs: tuple[Need, ...] = ALL) -> Model:
    torch.manual_seed(0)
    return build(CONFIG, 16, needs)


def _inputs(
    count: int = 4, names: tuple[str, ...] = ("image", "ssl_1", "ssl_2"), text: bool = True
) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    views = {name: torch.randn(count, 3, 16, 16, generator=generator) for name in ("image", "ssl_1", "ssl_2")}
    tokens = torch.tensor([[49_406, 5 + i, 49_407] for i in range(count)])
    return Inputs({name: views[name] for name in names}, tokens if text else None)


def test_all_that_is_needed_is_given() -> None:
    out = _model()(_inputs(), ALL)
    assert {need: tuple(value.shape) for need, value in out.items()} == dict(
        zip(ALL, [(4, 10), (4, 10), (), (4, 24), (4, 24)])
    )
    assert out[LOGIT_SCALE].item() == pytest.approx(1 / 0.07)
    assert out[LOGIT_SCALE].requires_grad


def test_what_is_not_needed_is_not_built() -> None:
    pairs, pictures = _model(SHARED), _model(PICTURES)
    assert set(pairs(_inputs(), SHARED)) == {*SHARED}
    assert {name.split(".")[0] for name, _ in pictures.named_parameters()} == {"image_tower"}
    assert set(pictures(_inputs(text=False), PICTURES)) == {*PICTURES}


def test_one_pass_equals_a_pass_for_each_view() -> None:
    model, inputs = _model().eval(), _inputs()
    assert inputs.tokens is not None
    out = model(inputs, ALL)
    image, text, _ = SHARED
    torch.testing.assert_close(out[image], model.encode_image(inputs.views["image"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[text], model.encode_text(inputs.tokens))
    for need in PICTURES:
        alone = model.image_features(inputs.views[need.view])
        torch.testing.assert_close(out[need], alone, rtol=1e-4, atol=1e-5)


def test_the_tower_is_called_once() -> None:
    model, batches = _model(), []
    model.image_tower.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    model(_inputs(), ALL)
    assert batches == [12]


def _views(**ssl: object) -> dict[str, ViewConfig]:
    kinds = {"image": ViewConfig(size=16), "ssl_1": ViewConfig(**{"size": 16, **ssl})}  # type: ignore[arg-type]
    return kinds | {"ssl_2": kinds["ssl_1"]}


@pytest.mark.parametrize(
    ("views", "size", "calls"),
    [
        (_views(), 16, [(12, 0.0)]),
        (_views(size=8), 8, [(4, 0.0), (8, 0.0)]),
        (_views(drop_tokens=0.5), 16, [(4, 0.0), (8, 0.5)]),
    ],
    ids=["alike", "smaller", "fewer tokens"],
)
def test_views_of_one_kind_go_through_together(views: dict[str, ViewConfig], size: int, calls: list) -> None:
    torch.manual_seed(0)
    model, inputs, seen = build(CONFIG, 16, ALL, views), _inputs(), []
    cut = {n: view if n == "image" else view[..., :size, :size] for n, view in inputs.views.items()}
    inputs = Inputs(cut, inputs.tokens)
    model.image_tower.register_forward_pre_hook(lambda _, args: seen.append((len(args[0]), args[1])))
    out = model(inputs, ALL)
    assert seen == calls
    assert out[PICTURES[0]].shape == out[PICTURES[1]].shape == (4, 24)
    if len(calls) == 1:
        expected = _model()(inputs, ALL)
        assert all(torch.equal(out[need], expected[need]) for need in expected)


def test_views_may_be_of_fewer_rows() -> None:
    model, inputs = _model().eval(), _inputs()
    whole = model(inputs, ALL)
    views = {name: view if name == "image" else view[:3] for name, view in inputs.views.items()}
    few = model(Inputs(views, inputs.tokens), ALL)
    for need, rows in [(PICTURES[0], 3), (PICTURES[1], 3), (SHARED[0], 4)]:
        torch.testing.assert_close(few[need], whole[need][:rows], rtol=1e-4, atol=1e-5)


def test_projections_of_parts_joined_equal_the_whole() -> None:
    model, inputs = _model(), _inputs()
    whole = model(inputs, ALL)
    parts = [model.features(part, ALL) for part in inputs.split(2)]
    joined = model.project({need: torch.cat([part[need] for part in parts]) for need in parts[0]}, ALL)
    assert joined.keys() == whole.keys()
    for need, value in whole.items():
        torch.testing.assert_close(joined[need], value, rtol=1e-4, atol=1e-5)


def test_token_ids_are_given_as_they_are() -> None:
    ids, inputs = Need(TEXT, "ids"), _inputs()
    out = _model((ids,))(inputs, (ids,))
    assert torch.equal(out[ids], inputs.tokens)  # type: ignore[arg-type]
    assert [*out] == [ids]
    assert _model((Need("image"), ids)).text_tower is None


def test_several_captions_of_a_row_are_those_of_rows_of_their_own() -> None:
    """A need of fewer gets the first of them, and the tower is called once, for as many as somebody needs."""
    one, two = Need(TEXT, "embedding"), Need(TEXT, "embedding", captions=2)
    ids, fewer = Need(TEXT, "ids", captions=3), Need(TEXT, captions=1)
    needs = (Need("image", "embedding"), one, two, ids, fewer)
    model, inputs, calls = _model(needs), _inputs(), []
    tokens = torch.randint(1, 49_000, (4, 3, 7), generator=torch.Generator().manual_seed(2))
    tokens[:, :, -1] = 49_407
    expected = torch.stack([model.encode_text(tokens[:, n]) for n in range(3)], 1)
    assert model.text_tower is not None
    model.text_tower.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    out = model(replace(inputs, tokens=tokens), needs)
    assert calls == [8]
    torch.testing.assert_close(out[two], expected[:, :2], rtol=1e-4, atol=1e-6)
    assert torch.equal(out[one], out[two][:, 0])
    assert torch.equal(out[ids], tokens)
    assert out[fewer].shape == (4, 16)
    with pytest.raises(ConfigError, match=r"fewer captions.*tokens \(4, 3\).*needs 3 of each row"):
        model(inputs, needs)


def test_patch_tokens_and_masks() -> None:
    """A view's patch tokens come with its feature, and masked once more without touching the other pass."""
    tokens, plain, hidden = Need("ssl_1", "tokens"), Need("ssl_1"), Need("ssl_1", "tokens", masked=True)
    needs = (tokens, plain, hidden)
    model, inputs = _model(needs).eval(), _inputs(names=("ssl_1",), text=False)
    masked = torch.zeros(4, 4, dtype=torch.bool)
    masked[:, 1] = True
    token = torch.nn.Parameter(torch.ones(24))
    out = model(Inputs(inputs.views, None), (tokens, plain))
    assert out[tokens].shape == (4, 4, 24)
    torch.testing.assert_close(out[plain], model.image_features(inputs.views["ssl_1"]), rtol=1e-4, atol=1e-5)
    both = model.project(model.features(inputs, needs, {"ssl_1": (masked, token)}), needs)
    assert torch.equal(both[tokens], out[tokens])
    assert not torch.allclose(both[hidden], out[tokens], atol=1e-3)
    both[hidden].sum().backward()
    assert token.grad is not None
    assert token.grad.abs().sum() > 0


def test_views_that_are_masked_by_two_objectives_keep_their_own_tokens() -> None:
    needs = tuple(Need(name, "tokens", masked=True) for name in ("ssl_1", "ssl_2"))
    model, inputs = _model(needs).eval(), _inputs(names=("ssl_1", "ssl_2"), text=False)
    masked = torch.ones(4, 4, dtype=torch.bool)
    masks = {name: (masked, torch.nn.Parameter(torch.randn(24))) for name in inputs.views}
    both = model.features(inputs, needs, masks)
    for need in needs:
        alone = model.features(inputs, [need], masks)
        torch.testing.assert_close(both[need], alone[need], rtol=1e-4, atol=1e-5)
    sum(feature.square().sum() for feature in both.values()).backward()  # type: ignore[union-attr]
    assert all(token.grad is not None for _, token in masks.values())


def test_every_parameter_has_a_gradient() -> None:
    model = _model()
    sum(value.square().sum() for value in model(_inputs(), ALL).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_logit_scale_starts_where_it_is_told() -> None:
    assert build(CONFIG, 16, SHARED, logit_scale=10.0).logit_scale.item() == pytest.approx(math.log(10))  # type: ignore[union-attr]


def test_the_projections_are_drawn_with_the_widths_deviation() -> None:
    torch.manual_seed(0)
    wide = build(
        ModelConfig(image=ImageTowerConfig(patch=8, width=400, depth=1, heads=4), embed_dim=300),
        16,
        SHARED[:1],
    )
    assert wide.image_projection.std().item() == pytest.approx(0.05, rel=0.02)  # type: ignore[union-attr]


def test_without_text_images_encode_to_the_towers_features() -> None:
    model, views = _model(PICTURES).eval(), _inputs().views
    assert torch.equal(model.encode_image(views["ssl_1"]), model.image_features(views["ssl_1"]))


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = _model().state_dict(), _model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bf16_autocast_keeps_the_logit_scale_in_fp32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = _model()(_inputs(), ALL)
    assert out[LOGIT_SCALE].dtype == torch.float32
    assert out[SHARED[0]].dtype == torch.bfloat16


def test_missing_inputs_are_said() -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        _model()(_inputs(text=False), ALL)
    with pytest.raises(ConfigError, match="ssl_2"):
        _model()(_inputs(names=("image", "ssl_1")), ALL)
    tokens = _inputs().tokens
    assert tokens is not None
    with pytest.raises(ConfigError, match="not built for"):
        _model(PICTURES).encode_text(tokens)
