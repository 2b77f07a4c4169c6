"""The teacher of several processes is that of one with the whole batch, whatever became of its students."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from distributed.ranks import run_on
from openslip.collectives import gather_rows, rank, world
from openslip.errors import TrainingError
from openslip.models.batchnorm import synchronise
from openslip.models.inputs import Inputs
from openslip.needs import SSL_VIEWS
from openslip.objectives import At, cosine_momentum, parse
from openslip.processes import joined
from openslip.training.fixed import read_fixed
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import parallelise
from openslip.training.step import backward
from openslip.training.student import Student, stored_parameters
from openslip.training.teacher import Teacher
from toys import make_student, make_tiny_config, toy_model, with_loss

ROWS, SIZE, STEPS = 8, 32, 3


def student_of(tower: str) -> Student:
    config = with_loss(make_tiny_config(), "simclr", block=0)
    image = replace(config.model.image, name=tower, drop_path=0)
    return make_student(
        replace(config, model=replace(config.model, image=image), views=replace(config.views, size=SIZE))
    )


def parts(student: Student) -> dict[str, nn.Module]:
    objective: Any = student.objective["simclr"]
    return {"image_tower": student.model.image_tower, "head": objective.head}


def train(tower: str, kind: Literal["ddp", "fsdp"]) -> dict[str, np.ndarray]:
    """Train on this process's share; return the teacher's state after it, and its embeddings of the whole batch."""
    student, config = student_of(tower), make_tiny_config()
    teacher = Teacher(parts(student))
    parallel = parallelise(student, kind)
    synchronise(teacher)
    # With the usual eps AdamW makes steps of rounding errors where a gradient is zero, as before a BatchNorm.
    optimizer = build_optimizer(stored_parameters(student), replace(config.optimizer, lr=1e-2, eps=1e-2))
    found = {}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        views = {
            view.name: torch.randn(ROWS, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
            for view in SSL_VIEWS
        }
        share = list(Inputs(views, None).split(ROWS // world()))[rank()]
        target = teacher("head", teacher("image_tower", share.views["ssl_1"]))
        found[f"embeddings {step}"] = gather_rows(target)
        backward(parallel, Inputs(share.views, None), At(step, STEPS))
        with torch.no_grad():  # as an objective may, after which FSDP keeps whole weights of before the step
            student.model.image_tower(share.views["ssl_2"])
        optimizer.step()
        optimizer.zero_grad()
        teacher.follow(parts(student), cosine_momentum(0.5, At(step, STEPS)))
    found |= teacher.state_dict()
    assert all(type(value) is torch.Tensor for value in found.values())
    return {name: value.numpy().copy() for name, value in found.items()}


@pytest.mark.parametrize(
    ("tower", "kind"), [("vit", "ddp"), ("vit", "fsdp"), ("test_resnet", "ddp"), ("test_resnet", "fsdp")]
)
def test_teachers_of_several_processes_are_that_of_one(tower: str, kind: Literal["ddp", "fsdp"]) -> None:
    expected = train(tower, kind)
    everyones = run_on(2, train, tower, kind)
    for found in everyones:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            allowed = 1e-9 * np.abs(value).max() + 1e-11
            np.testing.assert_allclose(found[name], value, rtol=0, atol=allowed, err_msg=name)
            assert np.array_equal(found[name], everyones[0][name]), f"{name} differs between the processes"


def refused() -> str:
    student = student_of("vit")
    parallelise(student, "fsdp")
    with pytest.raises(TrainingError) as raised:
        Teacher(parts(student))
    return str(raised.value)


def test_a_teacher_is_made_before_its_students_are_spread() -> None:
    told = run_on(2, refused)
    assert all("spread over the processes" in words and "Got: 'image_tower'" in words for words in told)


def refused_models() -> str:
    def read(spec: str):
        model, config = toy_model(spec)
        with torch.no_grad():
            next(model.parameters()).add_(rank())
        return model, config

    config = with_loss(make_tiny_config(), "distil")
    with joined() as processes, pytest.raises(TrainingError) as raised:
        read_fixed(config, parse(config.objective), processes, read)
    return str(raised.value)


def test_processes_refuse_to_learn_from_different_models() -> None:
    told = run_on(2, refused_models)
    assert all("have read different models under the same name. Got: 'toy'" in words for words in told)
