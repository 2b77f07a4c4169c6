from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import openslip
from openslip.config import Config, ImageTowerConfig
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError
from openslip.interop import mixing
from toys import make_tiny_config


def fresh(config: Config, seed: int) -> Encoder:
    torch.manual_seed(seed)
    return Encoder.from_config(config)


def trained_further(start: Encoder, seed: int = 1, size: float = 0.02) -> Encoder:
    """Return a model whose weights lie near those of another, with a text tower that stays as it was."""
    torch.manual_seed(seed)
    after = Encoder.from_config(start.config)
    state = {
        name: tensor + size * torch.randn_like(tensor)
        if tensor.is_floating_point() and not name.startswith("text_tower")
        else tensor.clone()
        for name, tensor in start.model.state_dict().items()
    }
    after.model.load_state_dict(state)
    return after


@pytest.fixture
def pair() -> tuple[Encoder, Encoder]:
    before = fresh(make_tiny_config(), 0)
    return before, trained_further(before)


def with_batch_norm() -> Config:
    config = make_tiny_config()
    image = ImageTowerConfig(name="test_efficientnet")
    return replace(config, model=replace(config.model, image=image))


def bits(encoder: Encoder) -> dict[str, bytes]:
    return {name: t.cpu().contiguous().numpy().tobytes() for name, t in encoder.model.state_dict().items()}


def test_the_ends_are_the_two_models_bit_for_bit(pair) -> None:
    with torch.no_grad():
        pair[0].model.image_projection[0, 0] = -0.0  # which 1 * -0.0 + 0 * 1 is not
    for alpha, end in zip((0, 1), pair):
        mixed = openslip.mix(*pair, alpha=alpha)
        assert bits(mixed) == bits(end)
        assert torch.equal(mixed.encode_text("a red square"), end.encode_text("a red square"))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.75])
def test_in_the_middle_each_number_is_the_obvious_one(pair, alpha) -> None:
    mixed = openslip.mix(*pair, alpha=alpha).model.state_dict()
    a, b = (encoder.model.state_dict() for encoder in pair)
    assert mixed.keys() == a.keys()
    for name in a:
        expected = [
            np.float32((1 - alpha) * x + alpha * y)
            for x, y in zip(a[name].flatten().tolist(), b[name].flatten().tolist())
        ]
        assert mixed[name].flatten().tolist() == expected, name
        if name.startswith("text_tower"):
            assert torch.equal(mixed[name], a[name])
    assert openslip.mix(*pair, alpha=alpha).logit_scale == pytest.approx(
        pair[0].logit_scale ** (1 - alpha) * pair[1].logit_scale ** alpha, rel=1e-5
    )


def test_neither_model_changes_and_the_result_is_ready_to_encode(pair) -> None:
    before = [bits(encoder) for encoder in pair]
    mixed = openslip.mix(*pair)
    assert [bits(encoder) for encoder in pair] == before
    assert mixed.config == pair[1].config
    assert not any(module.training for module in mixed.model.modules())
    with torch.no_grad():
        assert mixed.model.logit_scale is not None
        mixed.model.logit_scale.zero_()
    assert [bits(encoder) for encoder in pair] == before


def test_halves_are_mixed_as_float32(pair) -> None:
    a, b = pair
    mixed = openslip.mix(a, b.half(), 0.25).model.state_dict()
    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32}
    name = "image_projection"
    expected = 0.75 * a.model.state_dict()[name] + 0.25 * b.model.state_dict()[name].float()
    torch.testing.assert_close(mixed[name], expected)


def test_batch_norm_is_mixed_and_said_and_counters_are_the_second_models(caplog) -> None:
    a = fresh(with_batch_norm(), 0)
    b = trained_further(a)
    name = next(n for n in a.model.state_dict() if n.endswith("running_var")).removesuffix("running_var")
    for encoder, count, variance in ((a, 5, 1.0), (b, 9, 3.0)):
        state = encoder.model.state_dict()
        state[f"{name}num_batches_tracked"].fill_(count)
        state[f"{name}running_var"].fill_(variance)
    for alpha, count, variance in ((0, 5, 1.0), (0.5, 9, 2.0), (1, 9, 3.0)):
        state = openslip.mix(a, b, alpha).model.state_dict()
        assert state[f"{name}num_batches_tracked"] == count
        assert torch.equal(
            state[f"{name}running_var"], torch.full_like(state[f"{name}running_var"], variance)
        )
    assert "running statistics of" in caplog.text


def test_models_that_have_nothing_to_do_with_each_other_are_told(pair, caplog) -> None:
    openslip.mix(*pair)
    assert not caplog.text
    openslip.mix(pair[0], fresh(make_tiny_config(), 7))
    assert "little in common (cosine similarity of their weights 0.0" in caplog.text
    caplog.clear()
    openslip.mix(pair[0], pair[0])
    assert "have the same weights" in caplog.text


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), float("inf"), "0.5", None, True])
def test_an_alpha_that_is_none(pair, alpha) -> None:
    with pytest.raises(ConfigError, match="alpha is a number from 0"):
        openslip.mix(*pair, alpha=alpha)


def changed(part: str, **values) -> Config:
    config = make_tiny_config()
    if part == "views":
        return replace(config, views=replace(config.views, **values))
    if part == "objective":
        return replace(config, objective=replace(config.objective, **values))
    if part == "model":
        return replace(config, model=replace(config.model, **values))
    tower = replace(getattr(config.model, part), **values)
    return replace(config, model=replace(config.model, **{part: tower}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (changed("image", width=48), r"model\.image\.width is \d+ in the first and 48 in the second"),
        (changed("image", depth=3), r"model\.image\.depth is \d+ in the first and 3 in"),
        (changed("image", heads=4), r"model\.image\.heads is \d+ in the first and 4 in"),
        (changed("image", name="test_vit"), r"model\.image\.name is vit in the first and test_vit"),
        (changed("text", context=20), r"model\.text\.context is \d+ in the first and 20 in"),
        (changed("model", embed_dim=24), r"model\.embed_dim is \d+ in the first and 24 in"),
        (
            changed("views", size=48),
            r"two sizes.*views\.size is (\d+) in the first and 48 in the second.*--views\.size",
        ),
        (
            changed("views", mean=(0.5, 0.5, 0.5)),
            r"views\.mean is \(.*\) in the first and \(0\.5, 0\.5, 0\.5\)",
        ),
        (
            changed("views", interpolation="bicubic"),
            "views.interpolation is bilinear in the first and bicubic",
        ),
        (changed("image", pool="mean"), "model.image.pool is token in the first and mean in the second"),
        (changed("text", activation="gelu"), "model.text.activation is quick_gelu in the first and gelu in"),
        (changed("views", std=(0.5, 0.5, 0.5)), r"views\.std is"),
        (
            changed("objective", loss="simclr"),
            "in the first only: .*text_tower.*Mix two models with the same parts",
        ),
    ],
)
def test_what_differs_in_more_than_weights_is_refused_with_both_values(config, said) -> None:
    with pytest.raises(CheckpointError, match=said):
        openslip.mix(fresh(make_tiny_config(), 0), fresh(config, 0))


def test_how_a_model_was_trained_does_not_matter(pair) -> None:
    a, b = pair
    other = changed("image", drop_path=0.1, freeze="all", lora=4)
    other = replace(other, optimizer=replace(other.optimizer, lr=1.0), name="other")
    assert openslip.mix(a, Encoder(b.model, other)).config == other


def test_how_long_texts_are_cut_is_the_second_models(pair, caplog) -> None:
    a, b = pair
    mixed = openslip.mix(a, Encoder(b.model, changed("text", truncation="reference")))
    assert mixed.config.model.text.truncation == "reference"
    assert "model.text.truncation reference; in the first keep-end" in caplog.text


def test_models_without_text_are_mixed_whatever_their_text_would_be() -> None:
    config = changed("objective", loss="simclr")
    other = replace(
        config, model=replace(config.model, embed_dim=99, text=replace(config.model.text, width=96))
    )
    mixed = openslip.mix(fresh(config, 0), fresh(other, 1))
    assert mixed.model.text_tower is None


def test_shapes_that_no_setting_tells_and_constants(pair) -> None:
    a, b = pair
    b.model.register_buffer("table", torch.arange(3))
    with pytest.raises(CheckpointError, match="in the second only: table"):
        openslip.mix(a, b)
    a.model.register_buffer("table", torch.arange(3) + 1)
    with pytest.raises(CheckpointError, match=r"two architectures.*table is \(3,\) of int64"):
        openslip.mix(a, b)
    a.model.table = torch.arange(3)
    assert torch.equal(mixing.weights(a, b, 0.5)["table"], torch.arange(3))
    with torch.no_grad():
        b.model.image_projection = torch.nn.Parameter(b.model.image_projection[:, :-1])
    with pytest.raises(CheckpointError, match=r"image_projection is \(\d+, \d+\) of float32 in the first"):
        openslip.mix(a, b)


@pytest.mark.parametrize("which", [0, 1])
def test_numbers_that_are_none_are_refused(pair, which) -> None:
    with torch.no_grad():
        pair[which].model.image_projection[0, 0] = torch.nan
    name = ("first", "second")[which]
    with pytest.raises(CheckpointError, match=f"The {name} model's weights are not finite.*image_projection"):
        openslip.mix(*pair, alpha=1 - which)
