from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from openslip.config import ImageTowerConfig, OptimizerConfig, TrainingConfig
from openslip.errors import ConfigError, TrainingError
from openslip.models import build
from openslip.models.batchnorm import GlobalBatchNorm, synchronise
from openslip.models.dropping import DropPath
from openslip.models.vision import ImageTower, build_image_tower
from openslip.needs import Need
from openslip.objectives import At, cosine_momentum
from openslip.objectives.heads import ProjectionHead
from openslip.training.optimizer import build_optimizer
from openslip.training.prepare import prepare
from openslip.training.teacher import Teacher

VIT = ImageTowerConfig(patch=8, width=24, depth=3, heads=3, drop_path=0.5)


def students(name: str = "vit") -> dict[str, nn.Module]:
    """An image tower and a head, with weights away from the initialisation."""
    torch.manual_seed(0)
    tower = build_image_tower(replace(VIT, name=name, drop_path=0.5 if name == "vit" else 0.0), 16)
    found: dict[str, nn.Module] = {"image_tower": tower, "head": ProjectionHead(tower.width, 16, 8)}
    for module in found.values():
        learn(module, 0)
    return found


def learn(module: nn.Module, step: int) -> None:
    """Change all weights, as a step of training does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p))


def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_weights_are_the_average_of_the_students() -> None:
    followed = students()
    teacher = Teacher(followed)
    slow = {
        f"{part}.{name}": p.double().flatten().tolist()
        for part, module in followed.items()
        for name, p in module.named_parameters()
    }
    for step in range(1, 5):
        momentum = cosine_momentum(0.8, At(step, 6))
        for part, module in followed.items():
            learn(module, step)
            for name, p in module.named_parameters():
                for i, value in enumerate(p.double().flatten().tolist()):
                    kept = slow[f"{part}.{name}"]
                    kept[i] = momentum * kept[i] + (1 - momentum) * value
        teacher.follow(followed, momentum)
    assert dict(teacher.named_parameters()).keys() == slow.keys()
    for name, p in teacher.named_parameters():
        expected = torch.tensor(slow[name], dtype=torch.float64).view(p.shape)
        torch.testing.assert_close(p.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_momentum_of_one_keeps_the_weights_and_one_of_zero_takes_the_students() -> None:
    followed = students()
    teacher = Teacher(followed)
    before = copy.deepcopy(teacher.state_dict())
    learn(followed["image_tower"], 1)
    teacher.follow(followed, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    teacher.follow(followed, 0.0)
    for name, p in followed["image_tower"].named_parameters():
        assert torch.equal(teacher["image_tower"].get_parameter(name), p)


def test_a_head_alone_has_a_teacher() -> None:
    followed = students()
    teacher = Teacher({"head": followed["head"]})
    assert {name.split(".")[0] for name in teacher.state_dict()} == {"head"}
    teacher.follow({"head": followed["head"]}, 0.9)


def test_it_has_no_gradient_and_no_place_in_the_optimiser() -> None:
    owner = nn.ModuleDict(students())
    owner["teacher"] = teacher = Teacher(dict(owner))
    features = teacher("image_tower", images())
    assert not features.requires_grad
    (owner["image_tower"](images()) - features).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    groups = build_optimizer(owner.named_parameters(), OptimizerConfig()).param_groups
    names = {name for group in groups for name in group["names"]}
    assert names == {name for name, _ in owner.named_parameters() if not name.startswith("teacher.")}


def test_nothing_of_it_is_random_in_training() -> None:
    followed = students()
    tower: Any = followed["image_tower"]
    tower.trunk.pos_drop.p = 0.5
    teacher = Teacher(followed).train()
    before = torch.get_rng_state()
    found = teacher("image_tower", images())
    assert torch.equal(torch.get_rng_state(), before)
    # Not to the bit: torch 2.10 computes attention otherwise where there is a gradient.
    torch.testing.assert_close(found, tower.eval()(images()), rtol=0, atol=1e-6)
    rates = [m.drop_prob for m in tower.modules() if isinstance(m, DropPath)]
    assert rates == [0.25, 0.25, 0.5, 0.5]  # the student keeps its own
    assert tower.trunk.pos_drop.p == 0.5


def test_it_takes_the_arguments_of_an_image_tower() -> None:
    followed = students()
    tower = followed["image_tower"]
    masked, token = torch.rand(6, 4) < 0.5, torch.randn(24, requires_grad=True)
    found = Teacher(followed)("image_tower", images(), tokens=True, masked=masked, mask_token=token)
    expected = tower.eval()(images(), tokens=True, masked=masked, mask_token=token)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, expected))


@pytest.mark.parametrize("name", ["test_resnet", "vit"])
def test_norms_use_and_gather_the_statistics_of_its_own_batches(name: str) -> None:
    followed = {part: module.train() for part, module in students(name).items()}
    teacher, twin = Teacher(followed), copy.deepcopy(nn.ModuleDict(followed))  # the twin's weights stay
    for module in twin.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    for step in (1, 2):
        for part in followed.values():
            learn(part, step)
        followed["head"](followed["image_tower"](images(seed=step + 7)))  # other statistics
        teacher.follow(followed, 1.0)
        found = teacher("head", teacher("image_tower", images(seed=step)))
        expected = twin["head"](twin["image_tower"](images(seed=step)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[key], value, rtol=0, atol=1e-6)
    mean, of_student = (owner["head"].get_buffer("bn1.running_mean") for owner in (teacher, followed))
    assert not torch.equal(mean, of_student)
    teacher.eval()
    assert not torch.equal(teacher("head", teacher("image_tower", images(seed=2))), found)


class Centred(nn.Module):
    """A head with buffers of its own, and a matrix that it uses twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("centre", torch.zeros(4))
        self.register_buffer("seen", torch.tensor(0))


def test_other_buffers_are_the_students_and_shared_weights_move_once() -> None:
    student = Centred()
    with torch.no_grad():
        student.first.weight.fill_(1)
    teacher = Teacher({"head": student})
    with torch.no_grad():
        student.first.weight.fill_(2)
    student.centre += 3
    student.seen += 5
    teacher.follow({"head": student}, 0.5)
    head: Any = teacher["head"]
    assert head.centre.tolist() == [3] * 4
    assert int(head.seen) == 5
    assert head.second.weight is head.first.weight
    assert torch.equal(head.first.weight, torch.full((4, 4), 1.5))


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_small_steps_are_not_lost_in_half_precision(dtype: torch.dtype, kept: torch.dtype) -> None:
    student = nn.Linear(2, 2).to(dtype)
    with torch.no_grad():
        student.weight.fill_(1)
    teacher = Teacher({"head": student})
    with torch.no_grad():
        student.weight.fill_(2)
    for _ in range(100):
        teacher.follow({"head": student}, 0.999)
    weight = teacher["head"].get_parameter("weight")
    assert weight.dtype == kept
    torch.testing.assert_close(weight, torch.full_like(weight, 2 - 0.999**100), rtol=1e-5, atol=0)


def test_a_teacher_that_was_saved_goes_on_as_one_that_was_not() -> None:
    def go_on(teacher: Teacher, followed: dict[str, nn.Module], steps: range) -> list[Tensor]:
        found = []
        for step in steps:
            for module in followed.values():
                learn(module, step)
            found.append(teacher("head", teacher("image_tower", images(seed=step))))
            teacher.follow(followed, cosine_momentum(0.9, At(step, 8)))
        return found

    followed = students("test_resnet")
    teacher = Teacher(followed)
    go_on(teacher, followed, range(1, 4))
    saved, resumed = save(teacher.state_dict()), Teacher(students("test_resnet"))
    resumed.load_state_dict(load(saved))
    expected = go_on(teacher, copy.deepcopy(followed), range(4, 8))
    found = go_on(resumed, followed, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in resumed.state_dict().items())


HOW = [
    ("vit", {}),
    ("vit", {"checkpoint_activations": "full"}),
    ("vit", {"checkpoint_activations": "selective"}),
    pytest.param("vit", {"compile": True}, marks=pytest.mark.slow),
    ("test_resnet", {}),  # in channels-last order, with norms over all processes
]


@pytest.mark.parametrize(("name", "training"), HOW, ids=str)
@pytest.mark.parametrize("made", ["before", "after"])
def test_students_may_have_been_prepared(
    tiny_config, name: str, training: dict[str, object], made: str
) -> None:
    torch.manual_seed(0)
    config = replace(tiny_config.model, image=replace(tiny_config.model.image, name=name, drop_path=0.0))
    model = build(config, 32, [Need("ssl_1")]).train()
    student = nn.ModuleDict({"model": model, "head": ProjectionHead(model.image_tower.width, 16, 8)})

    def followed() -> dict[str, nn.Module]:
        return {"image_tower": model.image_tower, "head": student["head"]}

    plain = Teacher(followed())
    teacher = Teacher(followed())
    prepare(model, torch.device("cpu"), torch.float32, TrainingConfig(**training))  # type: ignore[arg-type]
    synchronise(student)
    if made == "after":
        teacher = Teacher(followed())
    learn(student, 1)
    teacher.follow(followed(), 0.5)
    plain.follow({name: copy.deepcopy(module) for name, module in followed().items()}, 0.5)
    pictures = torch.randn(4, 3, 32, 32)
    synchronise(teacher)
    assert isinstance(teacher["head"].bn1, GlobalBatchNorm)
    features = [which("image_tower", pictures) for which in (teacher, plain)]
    torch.testing.assert_close(*features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        *[which("head", features[1]) for which in (teacher, plain)], rtol=1e-5, atol=1e-5
    )
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_students_that_are_not_its_own_are_refused() -> None:
    followed = students()
    teacher = Teacher(followed)
    before = copy.deepcopy(teacher.state_dict())
    wider = ImageTower(build_image_tower(replace(VIT, width=48), 16).trunk, 48)
    for others, told in (
        ({"image_tower": followed["image_tower"]}, "10 that differ.*head.bn1.bias"),
        ({**followed, "head": nn.Sequential(followed["head"])}, "head.0.bn1.bias"),
        ({**followed, "image_tower": wider}, "image_tower.trunk.cls_token"),
    ):
        with pytest.raises(TrainingError, match=f"{told}.*Follow the modules that the teacher was made of"):
            teacher.follow(others, 0.5)
    for momentum in (1.5, -0.1, math.nan):
        with pytest.raises(ConfigError, match=f"between 0 and 1.*{momentum}"):
            teacher.follow(followed, momentum)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_momentum_rises_to_one_on_a_cosine() -> None:
    assert cosine_momentum(0.996, At(0, 100)) == pytest.approx(0.996)
    assert cosine_momentum(0.996, At(50, 100)) == pytest.approx(0.998)
    assert cosine_momentum(0.996, At(100, 100)) == 1
    assert cosine_momentum(0.996, At(130, 100)) == 1


@given(st.floats(0, 1), st.integers(0, 200), st.integers(1, 200))
def test_the_momentum_stays_between_its_start_and_one(start: float, step: int, steps: int) -> None:
    now, later = cosine_momentum(start, At(step, steps)), cosine_momentum(start, At(step + 1, steps))
    assert start - 1e-12 <= now <= later <= 1
