from dataclasses import replace

import pytest
import torch

from openslip.config import ViewConfig
from openslip.objectives import At
from openslip.training.parallel import Parallel
from openslip.training.step import backward, gradient_norm
from openslip.training.student import stored_name
from toys import CASES, LOSSES, TUNED, case_name, make_inputs, make_student, tuned, with_loss

LOSS = pytest.mark.parametrize("loss", LOSSES)
SUM = "clip + byol"
CHEAP = {"image": ViewConfig(drop_tokens=0.3), "ssl": ViewConfig(size=24, drop_tokens=0.5)}
"""4 tokens of an image view, 9 of a self-supervised one."""


@pytest.fixture
def plain_config(tiny_config):
    """A model that draws nothing at random."""
    image = replace(tiny_config.model.image, drop_path=0.0)
    return replace(tiny_config, model=replace(tiny_config.model, image=image))


@pytest.fixture
def cheap_config(tiny_config):
    """A model whose towers draw random numbers, on views of two sizes."""
    assert tiny_config.model.image.drop_path > 0
    return replace(tiny_config, views=replace(tiny_config.views, **CHEAP))


def gradients(student):
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    return found


def buffers(student):
    return {name: value.clone() for name, value in student.named_buffers()}


@pytest.mark.parametrize(("loss", "options"), CASES, ids=case_name)
@pytest.mark.parametrize("micro_batch", [1, 3, 5, 10, 64])
def test_micro_batches_equal_the_whole_batch(plain_config, loss, options, micro_batch) -> None:
    config = with_loss(plain_config, loss, **options)
    student, inputs = make_student(config), make_inputs(config)
    before = buffers(student)
    whole = backward(Parallel(student), inputs, At())
    expected, after = gradients(student), buffers(student)
    student.load_state_dict(before, strict=False)
    losses = backward(Parallel(student), inputs, At(), micro_batch=micro_batch)
    found = gradients(student)
    assert losses.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(losses[name], whole[name], rtol=1e-6, atol=1e-9)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, value in buffers(student).items():
        torch.testing.assert_close(value, after[name])


@LOSS
def test_the_seed_fixes_stochastic_depth(tiny_config, loss) -> None:
    config = with_loss(tiny_config, loss)
    student, inputs = make_student(config), make_inputs(config)
    losses = [
        float(backward(Parallel(student), inputs, At(), micro_batch=4, seed=s)["loss"]) for s in (5, 5, 6)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_gradient_norm_and_clipping(plain_config) -> None:
    student = make_student(plain_config)
    backward(Parallel(student), make_inputs(plain_config), At())
    expected = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm().item()
    assert gradient_norm(student) == pytest.approx(expected)
    assert gradient_norm(student, limit=0.1) == pytest.approx(expected)
    assert gradient_norm(student) == pytest.approx(0.1, rel=1e-4)


@LOSS
@pytest.mark.parametrize("rows", [0, 2, 5, 10])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_leave_out_the_same_blocks_and_tokens(cheap_config, loss, rows, micro_batch) -> None:
    """Stochastic depth, dropped tokens, views of few rows, which some parts have none of: all as in one piece."""
    config, at = with_loss(cheap_config, loss), At(scheduled=rows > 0)
    student = make_student(config)
    views = student.objective.written.views
    if all(view.scheduled for view in views) and rows != 10:
        pytest.skip("of a run with no other views all rows are drawn")
    if not any(view.scheduled for view in views) and rows:
        pytest.skip("draws no scheduled views")
    inputs = make_inputs(config, scheduled=rows)
    whole = backward(Parallel(student), inputs, at, seed=7)
    expected = gradients(student)
    losses = backward(Parallel(student), inputs, at, micro_batch=micro_batch, seed=7)
    found = gradients(student)
    assert losses.keys() == whole.keys()
    torch.testing.assert_close(losses["loss"], whole["loss"])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # Position embeddings are resampled in fp32, whatever theirs.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tuning", TUNED, ids=str)
@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_micro_batches_of_tuned_towers_equal_the_whole_batch(cheap_config, tuning, micro_batch) -> None:
    """What learns has the gradient of the whole batch; what does not has none."""
    config = tuned(with_loss(cheap_config, SUM), **tuning)
    student, inputs = make_student(config), make_inputs(config)
    whole = backward(Parallel(student), inputs, At(), seed=7)
    expected = gradients(student)
    assert expected.keys() == {name for name, p in student.named_parameters() if p.requires_grad}
    losses = backward(Parallel(student), inputs, At(), micro_batch=micro_batch, seed=7)
    found = gradients(student)
    torch.testing.assert_close(losses["loss"], whole["loss"])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tuning", [each for each in TUNED if "statistics" not in each], ids=str)
def test_tuned_towers_have_the_gradient_of_whole_ones(plain_config, tuning) -> None:
    """A frozen part computes what it did, so the others' gradients are those of a model that learns as a whole.

    So does an adapter W + 2·B·A that starts with B = 0: the gradient of B is 2·dW·Aᵀ, that of A is 0.
    """
    config = with_loss(plain_config, "clip")
    found, weights = [], {}
    for each in (config, tuned(config, **tuning)):
        student = make_student(each)
        backward(Parallel(student), make_inputs(each), At())
        weights = {stored_name(name): p.detach() for name, p in student.named_parameters()}
        found.append({stored_name(name): gradient for name, gradient in gradients(student).items()})
    whole, part = found
    for name, gradient in part.items():
        layer, _, kind = name.rpartition(".")
        if kind == "lora_B":
            expected = 2 * whole[f"{layer}.weight"] @ weights[f"{layer}.lora_A"].T
        else:
            expected = torch.zeros_like(gradient) if kind == "lora_A" else whole[name]
        torch.testing.assert_close(
            gradient, expected, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert len(part) < len(whole) or "lora" in tuning


@LOSS
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_equal_the_whole_batch_in_fp32(cheap_config, loss, micro_batch) -> None:
    """To 1e-5, stochastic depth and dropped tokens included."""
    config = with_loss(cheap_config, loss)
    student = make_student(config, torch.float32)
    inputs = make_inputs(config, dtype=torch.float32)
    whole = backward(Parallel(student), inputs, At(), seed=7)
    expected = gradients(student)
    losses = backward(Parallel(student), inputs, At(), micro_batch=micro_batch, seed=7)
    found = gradients(student)
    for name, value in whole.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=0)
    assert found.keys() == expected.keys()
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in found.items():
        # A bias before a BatchNorm has no gradient but rounding errors, which are in proportion to all of it.
        allowed = 1e-5 * expected[name].norm() + 1e-7 * norm
        assert (gradient - expected[name]).norm() <= allowed, name


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if "+" in loss])
def test_without_scheduled_views_what_they_train_stays_as_it_is(cheap_config, loss) -> None:
    config = with_loss(cheap_config, loss)
    student = make_student(config)
    losses = backward(Parallel(student), make_inputs(config, scheduled=0), At(scheduled=False))
    assert set(losses) == {"loss", "clip_loss", "clip_acc"}
    assert not any(name.startswith("objective.") for name in gradients(student))


def test_the_parts_of_a_batch_have_their_share_of_every_view(cheap_config) -> None:
    inputs = make_inputs(cheap_config, scheduled=5)
    parts = list(inputs.split(4))
    assert [[len(part.views.get(name, ())) for name in ("image", "ssl_1")] for part in parts] == [
        [4, 2], [4, 2], [2, 1],
    ]  # fmt: skip
    for name, view in inputs.views.items():
        assert torch.equal(torch.cat([part.views[name] for part in parts if name in part.views]), view)


def test_the_seed_fixes_which_tokens_are_dropped(plain_config) -> None:
    config = replace(plain_config, views=replace(plain_config.views, **CHEAP))
    student, inputs = make_student(config), make_inputs(config)
    losses = [float(backward(Parallel(student), inputs, At(), seed=s)["loss"]) for s in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]
