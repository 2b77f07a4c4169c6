import pytest
import torch

from slip.models import build
from slip.objectives import parse
from slip.training.step import Inputs, backward, gradient_norm

NEEDS = ("image", "text", "ssl_1", "ssl_2")


@pytest.fixture
def setup(tiny_config):
    from dataclasses import replace

    torch.manual_seed(0)
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, drop_path=0.0))
    model = build(config, 16, NEEDS).double().train()
    generator = torch.Generator().manual_seed(1)
    views = {
        n: torch.randn(10, 3, 16, 16, generator=generator, dtype=torch.float64) for n in NEEDS if n != "text"
    }
    tokens = torch.zeros(10, 12, dtype=torch.long)
    for row in range(10):
        length = 3 + row % 7
        tokens[row, :length] = torch.randint(1, 400, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = 49406, 49407
    return model, parse("clip + 1.0 * simclr", block=4), Inputs(views, tokens)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 10, 64])
def test_micro_batches_equal_the_whole_batch(setup, micro_batch) -> None:
    model, objective, inputs = setup
    statistics = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    whole = backward(model, objective, inputs)
    expected = gradients(model)
    after = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.load_state_dict(statistics, strict=False)
    losses = backward(model, objective, inputs, micro_batch=micro_batch)
    found = gradients(model)
    assert losses.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(losses[name], whole[name], rtol=1e-6, atol=1e-9)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, value in after.items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_seed_fixes_stochastic_depth(tiny_config, setup) -> None:
    _, objective, inputs = setup
    model = build(tiny_config.model, 16, NEEDS).double().train()
    losses = [float(backward(model, objective, inputs, micro_batch=4, seed=s)["loss"]) for s in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


def test_gradient_norm_and_clipping(setup) -> None:
    model, objective, inputs = setup
    backward(model, objective, inputs)
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    assert gradient_norm(model) == pytest.approx(expected)
    assert gradient_norm(model, limit=0.1) == pytest.approx(expected)
    assert gradient_norm(model) == pytest.approx(0.1, rel=1e-4)
