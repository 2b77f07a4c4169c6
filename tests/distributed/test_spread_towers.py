"""Towers that are spread over processes compute what whole ones do, in bf16 too, and nobody keeps a whole one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from distributed.ranks import run_on
from openslip.collectives import rank, world
from openslip.config import Config
from openslip.models.inputs import Inputs
from openslip.objectives import At
from openslip.training.parallel import parallelise
from openslip.training.precision import autocast
from openslip.training.prepare import prepare
from openslip.training.step import backward
from openslip.training.student import Student
from toys import LOSSES, make_inputs, make_student, make_tiny_config, with_loss

ROWS, SIZE, WIDTH = 8, 16, 64
DTYPE = torch.bfloat16


def configuration(loss: str) -> Config:
    config = make_tiny_config()
    image = replace(config.model.image, width=WIDTH, depth=4)
    return with_loss(replace(config, model=replace(config.model, image=image)), loss)


def student_of(loss: str) -> Student:
    return make_student(configuration(loss), torch.float32)


def share_of(config: Config) -> Inputs:
    whole = make_inputs(config, ROWS, dtype=torch.float32)
    return replace(list(whole.split(ROWS // world()))[rank()], rows={})


def a_step_each(kind: Literal["ddp", "fsdp"]) -> dict[str, dict[str, np.ndarray]]:
    """Return losses and whole gradients of a step of every loss."""
    steps = {}
    for loss in LOSSES:
        student = student_of(loss)
        parallel = parallelise(student, kind, dtype=DTYPE)
        found = dict(backward(parallel, share_of(configuration(loss)), At(), dtype=DTYPE))
        for name, p in student.named_parameters():
            if p.grad is not None:
                found[name] = p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
        steps[loss] = {name: value.detach().float().numpy().copy() for name, value in found.items()}
    return steps


def test_spread_towers_compute_what_whole_ones_do() -> None:
    wholes, spreads = run_on(2, a_step_each, "ddp")[0], run_on(2, a_step_each, "fsdp")[0]
    for loss, whole in wholes.items():
        spread = spreads[loss]
        assert whole.keys() == spread.keys()
        for name, value in whole.items():
            # Of three passes through a tower, gradients in bf16 are added in another order.
            precision = 2**-7 if "dino + ibot" in loss else 1e-6
            allowed = precision * np.abs(value).max()
            np.testing.assert_allclose(spread[name], value, rtol=0, atol=allowed, err_msg=f"{loss}: {name}")


def patches(kind: Literal["ddp", "fsdp"]) -> dict[str, np.ndarray]:
    """Return features, patch tokens and whole gradients of masked images, the mask token's among them."""
    generator = torch.Generator().manual_seed(1)
    student = student_of("clip")
    parallelise(student, kind)
    tower = student.model.image_tower
    token = torch.randn(WIDTH, generator=generator).requires_grad_()
    masked = torch.rand(ROWS, math.prod(tower.grid(SIZE)), generator=generator) < 0.5
    images = torch.randn(ROWS, 3, SIZE, SIZE, generator=generator)
    feature, tokens = tower(images, tokens=True, masked=masked, mask_token=token)
    (feature.square().sum() + tokens.sum() + tower(images).sum()).backward()
    found: dict[str, Any] = {"feature": feature, "tokens": tokens, "token": token.grad}
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


def kept(kind: Literal["ddp", "fsdp"]) -> tuple[int, int]:
    """Return the bytes of the image tower's matrices, in bf16, and of what waits of them for the backward pass."""
    student = student_of("clip")
    size = 2 * sum(p.numel() for p in student.model.image_tower.parameters() if p.ndim > 1)
    parallel = parallelise(student, kind, dtype=DTYPE)
    share, saved = share_of(configuration("clip")), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t),
        autocast(torch.device("cpu"), DTYPE),
    ):
        losses = parallel.forward(share, At())
    matrices = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in saved
        if t.dtype == DTYPE and t.ndim == 2 and min(t.shape) >= WIDTH
    }
    del losses
    return size, sum(matrices.values())


def test_nobody_keeps_a_whole_tower() -> None:
    for size, held in run_on(2, kept, "fsdp"):
        assert held < 0.1 * size
    for size, held in run_on(2, kept, "ddp"):  # what autocast has cast waits for the backward pass
        assert held > 0.9 * size


def convolved(name: str) -> np.ndarray:
    """Return the features of a convolutional tower that has been made ready as for a run."""
    config = with_loss(make_tiny_config(parallel="fsdp"), "clip")
    image = replace(config.model.image, name=name)
    config = replace(config, model=replace(config.model, image=image), views=replace(config.views, size=32))
    student = make_student(config, torch.float32)
    prepare(student.model, torch.device("cpu"), torch.float32, config.training)
    parallelise(student, "fsdp")
    images = torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return student.model.image_tower(images).detach().numpy()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_convolutional_tower_is_spread(name) -> None:
    """Its weights would else be in channels-last order, which FSDP does not take; it may have blocks within blocks."""
    expected = convolved(name)
    for found in run_on(2, convolved, name):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
