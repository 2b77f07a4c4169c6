"""Towers that are spread over processes compute what whole ones do, in bf16 too, and nobody keeps a whole one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from distributed.ranks import run_on
from openslip.collectives import rank, world
from openslip.models import Model, build
from openslip.objectives import parse
from openslip.training.parallel import parallelise
from openslip.training.precision import autocast
from openslip.training.prepare import prepare
from openslip.training.step import Inputs, backward
from toys import make_tiny_config

ROWS, SIZE, WIDTH = 8, 16, 64
DTYPE = torch.bfloat16
LOSS = "clip + 1.0 * simclr"


def make_model(loss: str) -> Model:
    config = make_tiny_config()
    image = replace(config.model.image, width=WIDTH, depth=4)
    torch.manual_seed(0)
    return build(replace(config.model, image=image), SIZE, parse(loss).needs).train()


def inputs(needs: tuple[str, ...]) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    views = {name: torch.randn(ROWS, 3, SIZE, SIZE, generator=generator) for name in needs if name != "text"}
    tokens = torch.randint(1, 400, (ROWS, 9), generator=generator)
    tokens[:, 0], tokens[:, -1] = 49406, 49407
    whole = Inputs(views, tokens)
    return list(whole.split(ROWS // world()))[rank()]


def a_step(kind: str) -> dict[str, np.ndarray]:
    """Return losses and whole gradients."""
    objective = parse(LOSS)
    parallel = parallelise(make_model(LOSS), kind, dtype=DTYPE)
    found = dict(backward(parallel, objective, inputs(objective.needs), dtype=DTYPE))
    for name, p in parallel.model.named_parameters():
        if p.grad is not None:
            found[name] = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
    return {name: value.detach().float().numpy().copy() for name, value in found.items()}


def test_spread_towers_compute_what_whole_ones_do() -> None:
    whole, spread = run_on(2, a_step, "ddp")[0], run_on(2, a_step, "fsdp")[0]
    assert whole.keys() == spread.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(spread[name], value, rtol=0, atol=1e-6 * np.abs(value).max(), err_msg=name)


def patches(kind: str) -> dict[str, np.ndarray]:
    """Return features, patch tokens and whole gradients of masked images, the mask token's among them."""
    generator = torch.Generator().manual_seed(1)
    parallel = parallelise(make_model("clip"), kind)
    tower = parallel.model.image_tower
    token = torch.randn(WIDTH, generator=generator).requires_grad_()
    masked = torch.rand(ROWS, math.prod(tower.grid(SIZE)), generator=generator) < 0.5
    images = torch.randn(ROWS, 3, SIZE, SIZE, generator=generator)
    feature, tokens = tower(images, tokens=True, masked=masked, mask_token=token)
    (feature.square().sum() + tokens.sum() + tower(images).sum()).backward()
    found = {"feature": feature, "tokens": tokens, "token": token.grad}
    for name, p in tower.named_parameters():
        found[name] = p.grad.full_tensor() if isinstance(p, DTensor) else p.grad
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def test_spread_towers_give_patch_tokens() -> None:
    """Also the features alone in the same step; the mask token, which is no weight of theirs, has its gradient."""
    expected = patches("ddp")
    for found in run_on(2, patches, "fsdp"):
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name
            )


def kept(kind: str) -> tuple[int, int]:
    """Return the bytes of the image tower's matrices, in bf16, and of what waits of them for the backward pass."""
    model = make_model("clip")
    size = 2 * sum(p.numel() for p in model.image_tower.parameters() if p.ndim > 1)
    parallel = parallelise(model, kind, dtype=DTYPE)
    share, saved = inputs(("image", "text")), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t),
        autocast(torch.device("cpu"), DTYPE),
    ):
        embeddings = parallel.forward(share.views, share.tokens)
    matrices = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in saved
        if t.dtype == DTYPE and t.ndim == 2 and min(t.shape) >= WIDTH
    }
    del embeddings
    return size, sum(matrices.values())


def test_nobody_keeps_a_whole_tower() -> None:
    for size, held in run_on(2, kept, "fsdp"):
        assert held < 0.1 * size
    for size, held in run_on(2, kept, "ddp"):  # what autocast has cast waits for the backward pass
        assert held > 0.9 * size


def convolved(name: str) -> np.ndarray:
    """Return the embeddings of a convolutional tower that has been made ready as for a run."""
    config = make_tiny_config(parallel="fsdp")
    image = replace(config.model.image, name=name)
    torch.manual_seed(0)
    model = build(replace(config.model, image=image), 32, ("image", "text"))
    prepare(model, torch.device("cpu"), torch.float32, config.training)
    parallel = parallelise(model, "fsdp")
    views = {"image": torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    tokens = torch.full((ROWS, 4), 49407)
    return parallel.forward(views, tokens)["image"].detach().numpy()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_convolutional_tower_is_spread(name) -> None:
    """Its weights would else be in channels-last order, which FSDP does not take; it may have blocks within blocks."""
    expected = convolved(name)
    for found in run_on(2, convolved, name):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
