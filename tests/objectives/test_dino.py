"""DINO's loss against the paper's, one image at a time; its centre, its temperatures, its crops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import features_for, make, trained
from openslip.errors import TrainingError
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives import At, Dino

NO_SCALE: Any = SimpleNamespace(logit_scale=None)


def objective_of(seed: int = 0, **options: Any) -> Any:
    """Return one whose centre is somewhere, and whose teacher is not its student."""
    objective = make("dino", seed=seed, **options)
    with torch.no_grad():
        objective.centre.copy_(0.3 * torch.randn(objective.centre.shape).double())
        for parameter in objective.teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return objective


def plain(objective: Any, embeddings: dict[str, Tensor], temperature: float) -> dict[str, Tensor]:
    """The slow, obvious twin: equations 1 to 3, for each image, each global crop and each other crop."""

    def scores(row: Tensor, prototypes: Tensor) -> Tensor:
        return torch.stack([(row / row.norm()) @ (w / w.norm()) for w in prototypes])

    students = {name[8:]: rows for name, rows in embeddings.items() if name.startswith("student_")}
    own, averaged = objective.prototypes.weight, objective.teacher["prototypes"].weight
    losses, entropies, goals, targets = [], [], [], []
    for n in range(len(students["ssl_1"])):
        for seen in ("ssl_1", "ssl_2"):
            target = scores(embeddings[f"teacher_{seen}"][n], averaged).detach()
            goal = ((target - objective.centre) / temperature).exp()
            goal = goal / goal.sum()
            targets.append(target)
            goals.append(goal)
            entropies.append(-(goal * goal.log()).sum())
            for name, rows in students.items():
                if name != seen:
                    guess = (scores(rows[n], own) / objective.config.temperature).exp()
                    losses.append(-(goal * (guess / guess.sum()).log()).sum())
    mean = torch.stack(goals).mean(0)
    loss, entropy = torch.stack(losses).mean(), torch.stack(entropies).mean()
    return {
        "loss": loss,
        "dino_loss": loss.detach(),
        "dino_entropy": entropy,
        "dino_kl": (loss - entropy).detach(),
        "dino_used": torch.tensor(math.prod(float(p) ** -float(p) for p in mean), dtype=torch.float64),
        "mean": torch.stack(targets).mean(0),
    }


@settings(deadline=None, max_examples=10)
@given(
    n=st.integers(1, 5),
    seed=st.integers(0, 100),
    local=st.integers(0, 3),
    average=st.sampled_from(("model", "head")),
)
def test_equals_the_paper_image_by_image(n, seed, local, average) -> None:
    objective = objective_of(seed, local=local, average=average, block=2)
    features = features_for(objective.needs_for(objective.config), n, seed=seed)
    embeddings, at = objective.embed(features), At(1, 100)
    expected = plain(objective, embeddings, objective.teacher_temperature(at))
    ours = objective.loss(embeddings, at)
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
    inputs = [*trained(objective).values(), *(x for x in features.values() if x.requires_grad)]
    found, wanted = (torch.autograd.grad(x["loss"], inputs, retain_graph=True) for x in (ours, expected))
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
    # After the step the centre is a tenth nearer to the batch's mean.
    moved = 0.9 * objective.centre + 0.1 * expected["mean"]
    with torch.no_grad():
        objective.after_step(NO_SCALE, at)
    torch.testing.assert_close(objective.centre, moved)


def test_its_crops_and_who_sees_them() -> None:
    config = Dino.Config(local=3)
    views = Dino.views_for(config)
    assert [view.name for view in views] == ["ssl_1", "ssl_2", "local_1", "local_2", "local_3"]
    assert {view.kind for view in views[2:]} == {"local"}
    needs = Dino.needs_for(config)
    assert {need.view for need in needs if need.by == "teacher"} == {"ssl_1", "ssl_2"}
    assert {need.view for need in needs if need.by == "student"} == {view.name for view in views}
    assert Dino.views_for(Dino.Config(local=0)) == SSL_VIEWS
    assert all(need.by == "student" for need in Dino.needs_for(Dino.Config(average="head")))


def test_with_the_head_alone_averaged_the_teacher_sees_the_students_features() -> None:
    objective = objective_of(average="head", local=0)
    features = features_for(objective.needs_for(objective.config), 4)
    target = objective.embed(features)["teacher_ssl_1"]
    torch.testing.assert_close(target, objective.teacher["projector"](features[Need("ssl_1")]))
    assert not target.requires_grad


def test_both_kinds_of_collapse_are_told() -> None:
    objective = make("dino", prototypes=8, local=1)
    rows = torch.randn(16, objective.config.dim, dtype=torch.float64)
    names = ("student_ssl_1", "student_ssl_2", "student_local_1", "teacher_ssl_1", "teacher_ssl_2")
    spread = objective.loss(dict.fromkeys(names, rows), At())
    assert 2 < spread["dino_used"] <= 8
    # All in one point, and a centre that does not know it yet: one prototype wins everywhere.
    point = objective.teacher["prototypes"].weight[:1].expand(16, -1)
    one = objective.loss(dict.fromkeys(names, point), At())
    assert one["dino_used"].item() == pytest.approx(1, abs=0.2)
    assert one["dino_entropy"] < 0.1
    # The centre is there: all prototypes win alike.
    for _ in range(200):
        objective.loss(dict.fromkeys(names, point), At())
        with torch.no_grad():
            objective.after_step(NO_SCALE, At())
    alike = objective.loss(dict.fromkeys(names, point), At())
    assert alike["dino_entropy"].item() == pytest.approx(math.log(8), abs=1e-6)
    assert alike["dino_used"].item() == pytest.approx(8, abs=1e-5)


def test_the_teachers_temperature_warms_up() -> None:
    objective = make("dino", teacher_start=0.02, teacher_temperature=0.06, teacher_warmup=0.5)
    found = [objective.teacher_temperature(At(step, 100)) for step in (0, 25, 50, 100)]
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.06])
    at_once = make("dino", teacher_warmup=0.0)
    assert at_once.teacher_temperature(At(1, 100)) == at_once.config.teacher_temperature


def test_the_prototypes_may_stay_for_a_while() -> None:
    objective = make("dino", freeze=0.1)
    features = features_for(objective.needs_for(objective.config), 4)
    weight = objective.prototypes.weight
    gradients = [torch.autograd.grad(objective(features, At(n, 100))["loss"], weight)[0] for n in (9, 10)]
    assert gradients[0].abs().max() == 0 < gradients[1].abs().max()
    same = [make("dino", freeze=share)(features, At(0, 100))["loss"] for share in (0.0, 0.1)]
    assert torch.equal(*same)


def test_the_momentum_rises_to_one_along_a_cosine() -> None:
    objective = make("dino", momentum=0.9)
    assert [objective.momentum(At(step, 100)) for step in (0, 50, 100)] == pytest.approx([0.9, 0.95, 1])


def test_without_a_teacher_there_is_no_target() -> None:
    objective = make("dino")
    objective.teacher = None
    with pytest.raises(TrainingError, match="DINO has no teacher"):
        objective(features_for(objective.needs_for(objective.config), 4), At())
