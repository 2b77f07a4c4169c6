"""iBOT's loss against the paper's, one patch at a time; its masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives.cases import DIMS, features_for, make, trained
from openslip.config import Config
from openslip.errors import ConfigError, TrainingError
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives import At, Ibot, Objective
from openslip.objectives.ibot import block_masks
from openslip.training.parallel import Parallel
from openslip.training.step import backward
from toys import make_inputs, make_student, with_loss

AT = At(3, 100, seed=5)


def with_tower(config: Config, **values: Any) -> Config:
    return replace(config, model=replace(config.model, image=replace(config.model.image, **values)))


def plain(objective: Any, features: dict[Need, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """The slow, obvious twin: each hidden patch of each view of each image. Returns the loss, the teacher's entropy."""
    own, averaged = objective.prototypes.weight, objective.teacher["prototypes"].weight
    by = "student" if objective.config.average == "head" else "teacher"
    losses, entropies = [], []
    for view in SSL_VIEWS:
        tokens, whole = (
            features[Need(view.name, "tokens", masked=True)],
            features[Need(view.name, "tokens", by=by)],
        )
        masks, _ = objective.masked(view, len(tokens), tokens.shape[1], AT)
        for n in range(len(tokens)):
            hidden = [t for t in range(tokens.shape[1]) if masks[n, t] or objective.config.patches == "all"]
            each, each_entropy = [], []
            for t in hidden:
                student = objective.projector(tokens[n, t])
                target = objective.teacher["projector"](whole[n, t].detach())
                guess = torch.stack([torch.cosine_similarity(student, w, dim=0) for w in own])
                goal = torch.stack([torch.cosine_similarity(target, w, dim=0) for w in averaged])
                goal = ((goal - objective.centre) / temperature).softmax(0).detach()
                each.append(-(goal * (guess / objective.config.temperature).log_softmax(0)).sum())
                each_entropy.append(-(goal * goal.log()).sum())
            losses.append(torch.stack(each).mean())
            entropies.append(torch.stack(each_entropy).mean())
    return torch.stack(losses).mean(), torch.stack(entropies).mean()


@settings(deadline=None, max_examples=10)
@given(
    n=st.integers(1, 4),
    seed=st.integers(0, 50),
    patches=st.sampled_from(("masked", "all")),
    average=st.sampled_from(("model", "head")),
)
def test_equals_the_paper_patch_by_patch(n, seed, patches, average) -> None:
    objective = make("ibot", seed=seed, patches=patches, average=average, share=(0.2, 0.8), block=3)
    with torch.no_grad():
        objective.centre.copy_(0.3 * torch.randn(objective.centre.shape).double())
    features = features_for(objective.needs_for(objective.config), n, seed=seed)
    loss, entropy = plain(objective, features, objective.teacher_temperature(AT))
    ours = objective(features, AT)
    torch.testing.assert_close(ours["loss"], loss, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours["ibot_entropy"], entropy, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours["ibot_kl"], (loss - entropy).detach(), rtol=1e-6, atol=1e-8)
    inputs = list(trained(objective).values())
    for one, other in zip(torch.autograd.grad(ours["loss"], inputs), torch.autograd.grad(loss, inputs)):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_the_centre_moves_to_the_mean_of_what_was_predicted() -> None:
    objective = make("ibot", patches="all")
    features = features_for(objective.needs_for(objective.config), 3)
    objective(features, AT)
    whole = torch.cat([features[Need(v.name, "tokens", by="teacher")].flatten(0, 1) for v in SSL_VIEWS])
    target, averaged = objective.teacher["projector"](whole), objective.teacher["prototypes"].weight
    mean = torch.cosine_similarity(target[:, None], averaged[None], dim=2).mean(0)
    with torch.no_grad():
        objective.after_step(type("Model", (), {"logit_scale": None}), AT)
    torch.testing.assert_close(objective.centre, 0.1 * mean.detach())


@pytest.mark.parametrize("patches", [196, 144, 16, 4, 2, 1, 7, 12])
def test_masks_hide_the_share_that_was_drawn(patches) -> None:
    masks = block_masks(300, patches, (0.1, 0.5), torch.Generator().manual_seed(1))
    assert masks.shape == (300, patches)
    counts = masks.sum(1)
    assert counts.min() >= 1
    assert counts.max() <= max(1, round(0.5 * patches))
    if patches == 196:
        shares = counts / patches
        assert shares.min() < 0.12 < 0.48 < shares.max()
        assert shares.mean().item() == pytest.approx(0.3, abs=0.02)
        assert masks.any(0).all()  # corners are hidden less often than the middle, and still are
    exact = block_masks(50, patches, (0.5, 0.5), torch.Generator().manual_seed(1)).sum(1)
    assert set(exact.tolist()) == {max(1, round(0.5 * patches))}


def test_masks_are_blocks() -> None:
    """A hidden patch has more hidden neighbours than it would have by chance."""
    masks = block_masks(200, 196, (0.3, 0.3), torch.Generator().manual_seed(2)).view(200, 14, 14)
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum()
    assert beside > 0.5


def test_masks_are_of_the_step_the_seed_and_the_view_alone() -> None:
    objective, other = make("ibot"), make("ibot", seed=3)
    one, two = SSL_VIEWS

    def mask(of: Objective, view=one, at: At = AT) -> Tensor:
        return of.masked(view, 8, 64, at)[0]

    drawn = mask(objective)
    torch.manual_seed(77)
    assert torch.equal(drawn, mask(other))
    assert torch.equal(drawn, mask(objective))
    assert not torch.equal(drawn, mask(objective, two))
    assert not torch.equal(drawn, mask(objective, at=replace(AT, step=4)))
    assert not torch.equal(drawn, mask(objective, at=replace(AT, seed=6)))
    assert torch.equal(drawn, mask(objective))


def test_the_tower_sees_the_masks_that_the_loss_knows(tiny_config) -> None:
    """The hidden patches' pixels change nothing of what the student gives, and the others' do."""
    config = with_loss(with_tower(tiny_config, drop_path=0.0), "ibot", share=(0.5, 0.5))
    student, inputs = make_student(config), make_inputs(config)
    objective: Any = student.objective["ibot"]
    (masks, token), need = objective.masked(SSL_VIEWS[0], 10, 4, AT), Need("ssl_1", "tokens", masked=True)
    before = student.features(inputs, AT)["", need]
    pixels = masks.view(10, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = {
        hidden: {**inputs.views, "ssl_1": inputs.views["ssl_1"] + (pixels == hidden)}
        for hidden in (True, False)
    }
    after = {
        hidden: student.features(replace(inputs, views=views), AT)["", need]
        for hidden, views in changed.items()
    }
    torch.testing.assert_close(after[True], before)
    assert not torch.allclose(after[False], before)
    backward(Parallel(student), inputs, AT)
    assert token.grad.abs().max() > 0


def test_what_it_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="lower one first"):
        Ibot(Ibot.Config(share=(0.5, 0.1), width=4, dim=4), DIMS)
    objective = make("ibot")
    objective.teacher = None
    with pytest.raises(TrainingError, match="iBOT has no teacher"):
        objective(features_for(objective.needs_for(objective.config), 2), At())
