import pytest
import torch

from openslip.config import ViewConfig, ViewsConfig
from openslip.models import build
from openslip.objectives import parse
from openslip.training.parallel import Parallel
from openslip.training.step import Inputs, backward, gradient_norm

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
    whole = backward(Parallel(model), objective, inputs)
    expected = gradients(model)
    after = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.load_state_dict(statistics, strict=False)
    losses = backward(Parallel(model), objective, inputs, micro_batch=micro_batch)
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
    losses = [
        float(backward(Parallel(model), objective, inputs, micro_batch=4, seed=s)["loss"]) for s in (5, 5, 6)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_gradient_norm_and_clipping(setup) -> None:
    model, objective, inputs = setup
    backward(Parallel(model), objective, inputs)
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    assert gradient_norm(model) == pytest.approx(expected)
    assert gradient_norm(model, limit=0.1) == pytest.approx(expected)
    assert gradient_norm(model) == pytest.approx(0.1, rel=1e-4)


CHEAP = ViewsConfig(
    size=16, image=ViewConfig(drop_tokens=0.3), ssl=ViewConfig(size=24, drop_tokens=0.5)
)  # 4 tokens of an image view, 9 of a self-supervised one


def cheap_setup(tiny_config, rows: int, dtype: torch.dtype = torch.float64):
    """A model in training mode whose towers draw random numbers, and a batch of 10 with `rows` self-supervised."""
    torch.manual_seed(0)
    model = build(tiny_config.model, 16, NEEDS, CHEAP).to(dtype).train()
    generator = torch.Generator().manual_seed(1)
    shapes = {"image": (10, 16), "ssl_1": (rows, 24), "ssl_2": (rows, 24)}
    views = {
        name: torch.randn(n, 3, size, size, generator=generator, dtype=dtype)
        for name, (n, size) in shapes.items()
        if n
    }
    tokens = torch.tensor([[49406, 5 + row, 49407] for row in range(10)])
    return model, parse("clip + 1.0 * simclr", block=4), Inputs(views, tokens)


@pytest.mark.parametrize("rows", [0, 2, 5, 10])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_leave_out_the_same_blocks_and_tokens(tiny_config, rows, micro_batch) -> None:
    """Stochastic depth, dropped tokens, views of few rows, which some parts have none of: all as in one piece."""
    model, objective, inputs = cheap_setup(tiny_config, rows)
    whole = backward(Parallel(model), objective, inputs, seed=7)
    expected = gradients(model)
    losses = backward(Parallel(model), objective, inputs, micro_batch=micro_batch, seed=7)
    found = gradients(model)
    assert losses.keys() == whole.keys()
    assert ("simclr_loss" in losses) == (rows > 0)
    torch.testing.assert_close(losses["loss"], whole["loss"])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # Position embeddings are resampled in fp32, whatever theirs.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_equal_the_whole_batch_in_fp32(tiny_config, micro_batch) -> None:
    """To 1e-5, stochastic depth and dropped tokens included."""
    model, objective, inputs = cheap_setup(tiny_config, 10, torch.float32)
    assert tiny_config.model.image.drop_path > 0
    whole = backward(Parallel(model), objective, inputs, seed=7)
    expected = gradients(model)
    losses = backward(Parallel(model), objective, inputs, micro_batch=micro_batch, seed=7)
    found = gradients(model)
    for name, value in whole.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=0)
    assert found.keys() == expected.keys()
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in found.items():
        # A bias before a BatchNorm has no gradient but rounding errors, which are in proportion to all of it.
        allowed = 1e-5 * expected[name].norm() + 1e-7 * norm
        assert (gradient - expected[name]).norm() <= allowed, name


def test_without_self_supervised_views_their_head_stays_as_it_is(tiny_config) -> None:
    model, objective, inputs = cheap_setup(tiny_config, 0)
    losses = backward(Parallel(model), objective, inputs)
    assert set(losses) == {"loss", "clip_loss", "clip_acc"}
    assert not any(name.startswith("ssl_head") for name in gradients(model))


def test_the_parts_of_a_batch_have_their_share_of_every_view(tiny_config) -> None:
    _, _, inputs = cheap_setup(tiny_config, 5)
    parts = list(inputs.split(4))
    assert [[len(part.views.get(name, ())) for name in ("image", "ssl_1")] for part in parts] == [
        [4, 2], [4, 2], [2, 1],
    ]  # fmt: skip
    for name, view in inputs.views.items():
        assert torch.equal(torch.cat([part.views[name] for part in parts if name in part.views]), view)


def test_the_seed_fixes_which_tokens_are_dropped(tiny_config) -> None:
    model, objective, inputs = cheap_setup(tiny_config, 10)
    losses = [float(backward(Parallel(model), objective, inputs, seed=s)["loss"]) for s in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]
