"""What of the towers is frozen, and that it stays as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from openslip.config import ViewConfig
from openslip.errors import ConfigError
from openslip.models.tuning import frozen_parts, tune
from openslip.objectives import At
from openslip.training.optimizer import build_optimizer
from openslip.training.parallel import Parallel
from openslip.training.step import backward
from openslip.training.student import stored_parameters
from toys import TUNED, make_inputs, make_student, plan_of, tuned, with_loss


def frozen(config) -> set[str]:
    return {name for name, p in make_student(config).model.named_parameters() if not p.requires_grad}


def of(config, tower: str, *parts: str) -> set[str]:
    """Return the names of a tower's parameters that begin so."""
    names = (name for name, _ in make_student(config).model.named_parameters())
    return {n for n in names if n.startswith(tuple(f"{tower}.{part}" for part in parts))}


def test_freeze_means_what_it_says(tiny_config) -> None:
    """Two blocks in each tower; the slow twin lists the names."""
    embeddings = "trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed"
    first, both = "trunk.blocks.0", "trunk.blocks"
    assert frozen(tiny_config) == set()
    for freeze, parts in (
        ("0", embeddings),
        ("1", (*embeddings, first)),
        ("2", (*embeddings, both)),
        ("-1", (*embeddings, first)),
        ("-2", embeddings),
        ("all", ("",)),
    ):
        assert frozen(tuned(tiny_config, image=freeze)) == of(tiny_config, "image_tower", *parts), freeze
    text = of(tiny_config, "text_tower", "token_embedding", "positional_embedding", "blocks.0")
    assert frozen(tuned(tiny_config, text="-1")) == frozen(tuned(tiny_config, text="1")) == text
    assert frozen(tuned(tiny_config, text="all")) == of(tiny_config, "text_tower", "")


@pytest.mark.parametrize("freeze", ["some", "", "-0", "1.5", "+1", "al", "1 2", "١"])
def test_other_values_are_refused_before_a_model_is_built(tiny_config, freeze) -> None:
    for tower in ("image", "text"):
        with pytest.raises(ConfigError, match=f"model.{tower}.freeze does not say which part.*none"):
            plan_of(tuned(tiny_config, **{tower: freeze}), 64)


@pytest.mark.parametrize("freeze", ["3", "-3", "13"])
def test_more_blocks_than_there_are(tiny_config, freeze) -> None:
    with pytest.raises(ConfigError, match=f"{freeze}, of 2 blocks.*from -2 to 2"):
        make_student(tuned(tiny_config, text=freeze))


def test_a_tower_without_known_blocks_is_frozen_whole_or_not(tiny_config) -> None:
    student = make_student(with_loss(tiny_config, "clip"))
    student.model.image_tower = nn.Sequential(nn.Linear(2, 2))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no blocks that are known.*Use `all`"):
        tune(student.model, tuned(tiny_config, image="1").model, 16)


def test_nothing_left_to_learn_is_refused(tiny_config) -> None:
    with pytest.raises(ConfigError, match="All parts of the trained model are frozen.*image"):
        make_student(tuned(with_loss(tiny_config, "simclr"), image="all"))
    student = make_student(tuned(with_loss(tiny_config, "clip"), image="all", text="all"))
    learning = {name for name, p in student.model.named_parameters() if p.requires_grad}
    assert learning == {"image_projection", "text_projection", "logit_scale"}


def test_frozen_parts_are_the_largest(tiny_config) -> None:
    student = make_student(tuned(tiny_config, image="1", text="all"))
    assert list(frozen_parts(student.model)) == [
        "image_tower.trunk.patch_embed", "image_tower.trunk.blocks.0", "text_tower",
    ]  # fmt: skip
    model: Any = student.model
    assert not model.text_tower.blocks[1].training
    assert not model.image_tower.trunk.blocks[0].drop_path1.training
    assert model.image_tower.trunk.blocks[1].drop_path1.training
    assert model.image_tower.training
    assert not any(module.training for module in student.eval().modules())


def train(config, steps: int = 3, micro_batch: int = 0):
    """Return what is trained for some steps of AdamW, and its state before them."""
    student = make_student(config)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = build_optimizer(stored_parameters(student), replace(config.optimizer, lr=1e-2))
    inputs = make_inputs(config)
    for step in range(steps):
        student.train()
        backward(Parallel(student), inputs, At(step, steps), seed=step, micro_batch=micro_batch)
        optimizer.step()
        student.after_step(At(step, steps), torch.tensor(True))
        optimizer.zero_grad()
    return student, before


@pytest.mark.parametrize("tuning", TUNED, ids=str)
@pytest.mark.parametrize("tower", ["vit", "test_resnet"])
def test_what_is_frozen_stays_bit_for_bit(tiny_config, tuning, tower) -> None:
    """Weights and running statistics, in the tower, and in the teacher that follows it."""
    if "lora" in tuning and tower == "test_resnet":
        pytest.skip("has no linear layers")
    config = tuned(with_loss(tiny_config, "clip + byol"), **tuning)
    image = replace(config.model.image, name=tower)
    config = replace(config, model=replace(config.model, image=image), views=replace(config.views, size=32))
    student, before = train(config)
    after, still = student.state_dict(), list(frozen_parts(student.model))
    modules = dict(student.named_modules())
    teachers = [f"objective.{name}.teacher.model" for name in ("byol",)]
    same = {
        f"{root}.{part}.{name}"
        for root in ("model", *teachers)
        for part in still
        if f"{root}.{part}" in modules
        for name in modules[f"{root}.{part}"].state_dict()
    }
    frozen = {f"model.{name}" for name, p in student.model.named_parameters() if not p.requires_grad}
    assert len(same) > len(frozen) - 5
    for name in same | frozen:
        assert torch.equal(after[name], before[name]), name
    learned = {f"model.{name}" for name, p in student.model.named_parameters() if p.requires_grad}
    assert sum(not torch.equal(after[name], before[name]) for name in learned) > 0.9 * len(learned)
    if tuning.get("image") == "1" and tower == "test_resnet":
        statistics = [n for n in before if n.startswith("model.") and n.endswith("running_mean")]
        moved = {n for n in statistics if not torch.equal(after[n], before[n])}
        assert {n for n in statistics if "layer1" in n or "conv1.1" in n}.isdisjoint(moved)
        assert {n for n in statistics if "layer3" in n} <= moved


def test_statistics_that_are_kept_stay_and_each_row_is_computed_alone(tiny_config) -> None:
    config = tuned(with_loss(tiny_config, "clip + byol"), statistics=True)
    config = replace(config, model=replace(config.model, image=replace(config.model.image, drop_path=0.0)))
    student, before = train(config)
    after = student.state_dict()
    running = [
        name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    towers = [name for name in running if ".trunk." in name]
    assert len({name.partition(".trunk.")[0] for name in towers}) == 2  # the student's, and its teacher's
    assert all(torch.equal(after[name], before[name]) for name in towers)
    assert not any(torch.equal(after[name], before[name]) for name in set(running) - set(towers))
    scales = [name for name in before if name.startswith("model.image_tower.trunk.bn1.")]
    assert not all(torch.equal(after[name], before[name]) for name in scales)

    pictures = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    tower = student.train().model.image_tower
    torch.testing.assert_close(tower(pictures)[:1], tower(pictures[:1]))
    torch.testing.assert_close(tower(pictures), tower.eval()(pictures))
    seeing = replace(config.model.image, batchnorm="batch")
    batch = make_student(replace(config, model=replace(config.model, image=seeing))).model.image_tower
    assert not torch.allclose(batch(pictures)[:2], batch(pictures[:2]))


def test_frozen_towers_draw_nothing_and_keep_all_tokens(tiny_config) -> None:
    views = replace(tiny_config.views, image=ViewConfig(drop_tokens=0.5))
    config = tuned(with_loss(replace(tiny_config, views=views), "clip"), image="all")
    student, inputs = make_student(config), make_inputs(config)
    losses = [float(backward(Parallel(student), inputs, At(), seed=seed)["loss"]) for seed in (5, 6)]
    assert losses[0] == losses[1]
    student.eval()
    assert losses[0] == float(student(inputs, At())["loss"].detach())


@pytest.mark.parametrize(("freeze", "calls"), [("none", [1, 1, 1]), ("1", [0, 1, 1]), ("all", [0, 0, 0])])
def test_frozen_first_blocks_have_no_backward(tiny_config, freeze, calls) -> None:
    """Neither do they keep anything for one: only what learns is in the graph."""
    config = tuned(with_loss(tiny_config, "clip"), image=freeze)
    student = make_student(config)
    trunk: Any = student.model.image_tower.trunk
    outputs = []
    for module in (trunk.blocks[0], trunk.blocks[1], trunk.norm):
        module.register_forward_hook(lambda module, given, output: outputs.append(output.requires_grad))
    student.features(make_inputs(config), At())
    assert outputs == [bool(call) for call in calls]


@pytest.mark.parametrize(("freeze", "calls"), [("none", 10), ("1", 10), ("all", 5)])
def test_micro_batches_pass_a_frozen_tower_once(tiny_config, freeze, calls) -> None:
    config = tuned(with_loss(tiny_config, "clip"), image=freeze)
    student, seen = make_student(config), []
    student.model.image_tower.register_forward_hook(lambda *_: seen.append(1))
    backward(Parallel(student), make_inputs(config), At(), micro_batch=2)
    assert len(seen) == calls
