import copy
from dataclasses import replace

import pytest
import torch

from slip.models import build
from slip.training.parallel import compile_towers, prepare

NEEDS = ("image", "text", "ssl_1", "ssl_2")


def tokens(length: int) -> torch.Tensor:
    rows = torch.randint(1, 400, (8, length))
    rows[:, 0], rows[:, -1] = 49406, 49407
    for row in range(1, 8):  # shorter captions, the first row is the longest
        end = 2 + row % (length - 2)
        rows[row, end], rows[row, end + 1 :] = 49407, 0
    return rows


@pytest.mark.slow
def test_compiled_towers_give_the_same_features_and_gradients(tiny_config) -> None:
    """Over several text lengths, so that recompiling and dynamic shapes are met."""
    torch.manual_seed(0)
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, drop_path=0.0))
    plain = build(config, 16, NEEDS).train()
    compiled = copy.deepcopy(plain)
    compile_towers(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for length in (5, 7, 12, 5):
        views = {name: torch.randn(8, 3, 16, 16) for name in NEEDS if name != "text"}
        rows = tokens(length)
        for model in (plain, compiled):
            model.zero_grad()
            features = model.features(views, rows)
            sum((f * torch.linspace(0, 1, f.shape[1])).sum() for f in features.values()).backward()
        expected = plain.features(views, rows)
        for name, feature in compiled.features(views, rows).items():
            torch.testing.assert_close(feature, expected[name], rtol=1e-4, atol=1e-5)
        for a, b in zip(plain.parameters(), compiled.parameters()):
            if a.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4 * float(a.grad.abs().max()))


def test_bf16_on_a_cpu_multiplies_attention_out(tiny_config) -> None:
    """Only the way it is computed changes: features and gradients stay what they were."""
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, drop_path=0.0))
    fused = build(config, 16, ("ssl_1", "ssl_2")).double().train()
    views = {name: torch.randn(4, 3, 16, 16, dtype=torch.float64) for name in ("ssl_1", "ssl_2")}
    prepared = {dtype: copy.deepcopy(fused) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, model in prepared.items():
        prepare(model, torch.device("cpu"), dtype, compiled=False)
        kinds = {m.fused_attn for m in model.image_tower.modules() if hasattr(m, "fused_attn")}
        assert kinds == {dtype == torch.float32}
    features = {dtype: model.features(views)["ssl_1"] for dtype, model in prepared.items()}
    torch.testing.assert_close(features[torch.bfloat16], features[torch.float32])
    for feature in features.values():
        feature.square().sum().backward()
    for a, b in zip(*(model.parameters() for model in prepared.values())):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_convolutions_run_with_channels_last(tiny_config) -> None:
    """Only the order in memory changes: features, gradients and the state dict stay what they were."""
    config = replace(
        tiny_config.model, image=replace(tiny_config.model.image, name="test_resnet", drop_path=0.0)
    )
    plain = build(config, 32, ("ssl_1", "ssl_2")).double().train()
    prepared = copy.deepcopy(plain)
    prepare(prepared, torch.device("cpu"), torch.float32, compiled=False)
    weights = [p for p in prepared.image_tower.parameters() if p.ndim == 4 and p.shape[2:] != (1, 1)]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    views = {name: torch.randn(4, 3, 32, 32, dtype=torch.float64) for name in ("ssl_1", "ssl_2")}
    for model in (plain, prepared):
        model.features(views)["ssl_1"].square().sum().backward()
    for a, b in zip(plain.parameters(), prepared.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad)
    for name, value in prepared.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
