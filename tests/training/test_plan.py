from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from openslip.config import Config, EvaluationConfig, TowerRateConfig
from openslip.data.contents import Contents
from openslip.data.data import Data
from openslip.data.subset import HeldOut, Subset
from openslip.errors import ConfigError
from openslip.models.weights import Origin
from openslip.needs import IMAGE, Need, View
from openslip.objectives import REGISTRY, Objective
from openslip.training.plan import check_ssl, state_bytes
from openslip.training.plan_summary import describe
from openslip.training.start import Start
from openslip.training.student import stored_parameters
from toys import RECORDS, ToySource, make_student, make_tiny_config, plan_of, tuned, with_loss


def test_steps_and_warmup() -> None:
    plan = plan_of(make_tiny_config(epochs=2.5, batch=10), 64)
    assert (plan.steps, plan.warmup, plan.steps_per_epoch) == (16, 6, 6.4)


def test_of_what_is_spread_a_share_counts() -> None:
    config = make_tiny_config(batch=16)
    model = make_student(config, torch.float32)
    spread = sum(p.numel() for tower in model.model.towers for p in tower.parameters() if p.ndim > 1)
    whole = 16 * sum(p.numel() for p in model.parameters())

    def weights(**training: Any) -> int:
        plan = replace(plan_of(config, 64), processes=4)
        options = replace(config.training, **training)
        return state_bytes(replace(plan, config=replace(config, training=options)), model)

    assert weights() == whole
    assert weights(parallel="fsdp") == whole - 12 * spread
    assert weights(parallel="fsdp", offload=True) == whole - 16 * spread


@pytest.mark.parametrize("name", ["workers", "prefetch"])
def test_what_the_loader_would_refuse_is_refused_at_once(name: str) -> None:
    config = make_tiny_config()
    least: dict[str, Any] = {name: -1}
    assert plan_of(replace(config, data=replace(config.data, **least)), 64)
    with pytest.raises(ConfigError, match=f"--data.{name} must be at least 0.* -2"):
        plan_of(replace(config, data=replace(config.data, **(least | {name: -2}))), 64)


def cheap(**objective: Any) -> Config:
    config = make_tiny_config(batch=16)
    ssl = replace(config.views.ssl, size=8, drop_tokens=0.5)
    return replace(
        config,
        views=replace(config.views, ssl=ssl),
        objective=replace(config.objective, **objective),
    )


def test_what_is_saved_is_said(tmp_path, toy_source) -> None:
    config = cheap(ssl_share=0.25, ssl_every=3)
    model = make_student(config, torch.float32)
    told = describe(plan_of(config, 64), model, tmp_path, Data(toy_source))
    size = 16 * sum(p.numel() for p in model.parameters()) / 2**30
    assert f"  memory     {size:.2f} GiB of weights, gradients and optimiser; " in told
    assert "image at 16 px\n" in told
    assert "ssl_1, ssl_2 at 8 px, 50% of the tokens dropped, of 4 of 16 samples, on one step of 3\n" in told
    assert "a sample is 1.02 whole views of 16 px through the tower\n" in told


def test_what_local_crops_masks_and_teachers_cost_is_said(tmp_path, toy_source) -> None:
    config = make_tiny_config()
    local = replace(config.views.local, size=8)
    config = with_loss(replace(config, views=replace(config.views, local=local)), "clip + dino + ibot")
    told = describe(plan_of(config, 64), make_student(config, torch.float32), tmp_path, Data(toy_source))
    assert "local_1, local_2 at 8 px\n" in told
    # The caption's view, two whole ones, two masked ones, two local crops; two views for each of two teachers.
    assert "a sample is 5.5 whole views of 16 px through the tower, 4 through teachers\n" in told
    config = with_loss(make_tiny_config(), "clip + simclr")
    told = describe(plan_of(config, 64), make_student(config, torch.float32), tmp_path, Data(toy_source))
    assert "a sample is" not in told


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"ssl_every": 0}, "objective.ssl-every"),
        ({"ssl_share": 0.01}, "two rows"),
        ({"ssl_every": 2, "loss": "simclr"}, "nothing to train on"),
        ({"ssl_share": 0.5, "loss": "simclr"}, "nothing to train on"),
        ({"ssl_from": 0.5, "loss": "simclr"}, "nothing to train on"),
        ({"ssl_from": 1.0}, "objective.ssl-from"),
    ],
)
def test_schedules_that_leave_nothing_are_refused(objective, told) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_of(cheap(**objective), 64)


def test_self_supervision_may_begin_late(tmp_path, toy_source) -> None:
    config = cheap(ssl_from=0.75, ssl_every=2)
    config = replace(config, training=replace(config.training, budget="10 steps"))
    plan = plan_of(config, 64)
    assert plan.schedule.start == 7
    assert [plan.at(step).scheduled for step in range(10)] == [False] * 7 + [True, False, True]
    told = describe(plan, make_student(config, torch.float32), tmp_path, Data(toy_source))
    assert ", on one step of 2, after 7 steps\n" in told
    with pytest.raises(ConfigError, match="a budget of time"):
        plan_of(replace(config, training=replace(config.training, budget="10 minutes")), 64)


class Across(Objective):
    name, title = "across", "Across"
    views = (IMAGE, View("local_1", "local"))
    needs = (Need("image"), Need("local_1"))


def test_views_of_other_rows_or_pictures_are_not_compared(monkeypatch) -> None:
    monkeypatch.setitem(REGISTRY, "across", Across)
    assert plan_of(cheap(loss="clip + across", ssl_every=2), 64)
    with pytest.raises(
        ConfigError, match="--objective.ssl-share 0.5 would give the objective across.*local_1.*image"
    ):
        plan_of(cheap(loss="clip + across", ssl_share=0.5), 64)
    with pytest.raises(ConfigError, match="--data.ssl would give the objective across"):
        check_ssl(plan_of(cheap(loss="clip + across"), 64).loss)
    check_ssl(plan_of(cheap(ssl_share=0.5), 64).loss)
    own = {"preserve": {"pictures": "other", "text": True}}
    with pytest.raises(
        ConfigError, match="Leave --data.ssl out, or --objective.preserve.text, which compares"
    ):
        check_ssl(plan_of(cheap(loss="clip + preserve", options=own), 64).loss)


def test_what_is_kept_of_every_record_is_said(tmp_path, toy_source) -> None:
    config = with_loss(make_tiny_config(), "clip + simclr", negatives="global")
    told = describe(plan_of(config, 64), make_student(config, torch.float32), tmp_path, Data(toy_source))
    assert (
        f"records    clip keeps 8 bytes of each of {RECORDS} records: 0.00 MiB on each process, and in"
        in told
    )
    assert "of each of" not in told_memory(tmp_path, toy_source)


def told_memory(tmp_path, source, **data: Any) -> str:
    config = make_tiny_config(batch=16)
    config = replace(config, data=replace(config.data, **data))
    return describe(plan_of(config, 64), make_student(config, torch.float32), tmp_path, Data(source))


def test_what_is_kept_ready_is_said(tmp_path, toy_source, monkeypatch) -> None:
    assert "shared memory" not in told_memory(tmp_path, toy_source, workers=0)
    told = told_memory(tmp_path, toy_source, workers=3, prefetch=5)
    assert "0.00 GiB of shared memory for what 3 loader processes keep ready: 96 samples, 6 batches\n" in told
    monkeypatch.setattr("openslip.data.prefetch.free_memory", lambda: 300_000)  # a sample takes 2,304
    told = told_memory(tmp_path, toy_source, workers=2)
    assert "32 samples, 2 batches; more would help, but" in told


@pytest.fixture
def cuda(monkeypatch) -> None:
    """A plan for a GPU, which making it does not touch."""
    monkeypatch.setattr("openslip.training.plan.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(
        "openslip.training.plan.choose_precision",
        lambda name, device: {"fp16": torch.float16, "bf16": torch.bfloat16}[name],
    )


def test_fp16_is_refused_where_weights_are_spread(cuda) -> None:
    """Each process would find its own scale for the loss; with other choices there is one."""
    spread = make_tiny_config(batch=8, precision="fp16", parallel="fsdp")
    with pytest.raises(ConfigError, match="fp16 does not go together.*--training.precision bf16"):
        plan_of(spread, 64, processes=2)
    for allowed, processes in (
        (spread, 1),
        (make_tiny_config(batch=8, precision="bf16", parallel="fsdp"), 2),
        (make_tiny_config(batch=8, precision="fp16"), 2),
    ):
        assert plan_of(allowed, 64, processes).device.type == "cuda"


def test_offloading_takes_weights_that_are_spread(cuda) -> None:
    offloaded = make_tiny_config(batch=8, precision="bf16", offload=True)
    with pytest.raises(ConfigError, match="only for a CUDA device.*ddp on cuda"):
        plan_of(offloaded, 64, processes=2)
    spread = replace(offloaded, training=replace(offloaded.training, parallel="fsdp"))
    assert plan_of(spread, 64, processes=2).config.training.offload
    with pytest.raises(ConfigError, match="fsdp on cuda, 1 process"):
        plan_of(spread, 64, processes=1)


def test_the_plan_warns_of_what_a_source_loses(tmp_path) -> None:
    config, source = make_tiny_config(batch=16), ToySource()
    plan, model = plan_of(config, 64), make_student(config, torch.float32)
    assert "WARNING" not in describe(plan, model, tmp_path, Data(source))
    contents = Contents("members", 128)
    contents.leave_out("no known format", "a.heic", 64)
    object.__setattr__(source, "contents", contents)
    told = describe(plan, model, tmp_path, Data(source))
    assert "toy: 128 members seen, 64 used; left out:\n" in told
    assert (
        "  WARNING    64 of 128 members of toy are not used: 64 × no known format, for example a.heic" in told
    )


@pytest.mark.parametrize(
    ("val", "tasks", "evaluated", "words"),
    [
        ("", (), False, "nothing will be measured: there is neither --data.val nor --evaluation.tasks"),
        ("val.csv", ("knn:scenes",), True, "retrieval on val.csv\n             knn:scenes"),
        ("", (), True, "by the program that trains"),
    ],
)
def test_what_is_measured_is_said(tiny_config, toy_source, tmp_path, val, tasks, evaluated, words) -> None:
    config = replace(
        tiny_config, data=replace(tiny_config.data, val=val), evaluation=EvaluationConfig(tasks=tasks)
    )
    model = make_student(config, torch.float32)
    told = describe(plan_of(config, 64), model, tmp_path, Data(toy_source), evaluated=evaluated)
    assert f"  validation {words}" in told
    if not evaluated:
        assert "`--data.val 10%` holds out a tenth of the training data" in told


def test_what_is_held_out_is_said(tiny_config, toy_source, tmp_path) -> None:
    about = HeldOut(0.1, 7, 5, 64, "", ("a note",))
    source = Subset(toy_source, np.arange(7), about)
    model = make_student(tiny_config, torch.float32)
    told = describe(plan_of(tiny_config, 57), model, tmp_path, Data(source))
    assert "  validation 10 % of train held out: 7 of 64 records (10.9 %), 5 groups (equal" in told
    assert f"\n{13 * ' '}a note\n" in told


def test_teachers_are_told_beside_what_is_trained(tmp_path, toy_source) -> None:
    config = with_loss(make_tiny_config(batch=16), "byol")
    student = make_student(config, torch.float32)
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source))
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in student.parameters() if not p.requires_grad)
    assert frozen > 0
    assert f"model      {trained:,} parameters (" in told
    assert f"; {frozen:,} of teachers\n" in told


def test_what_is_frozen_is_told(tmp_path, toy_source) -> None:
    config = tuned(with_loss(make_tiny_config(batch=16), "clip"), image="1", text="all")
    student = make_student(config, torch.float32)
    learning = sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert student.model.text_tower is not None
    text = sum(p.numel() for p in student.model.text_tower.parameters())
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source), fresh=())
    assert f"  model      {learning:,} parameters are trained (image_tower " in told
    assert f"text_tower {text / 1e6:.1f} M\n" in told
    assert "frozen: image_tower " in told
    assert "WARNING" not in told
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source))
    assert "frozen tensors of image_tower and text_tower have random weights, and keep them" in told
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source), fresh={"text_tower.norm.bias"})
    assert "WARNING    1 frozen tensors of text_tower have random weights" in told


def test_statistics_that_are_kept_are_told(tmp_path, toy_source) -> None:
    config = tuned(with_loss(make_tiny_config(batch=16), "clip"), statistics=True)
    student = make_student(config, torch.float32)
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source), fresh=())
    layers = sum(isinstance(part, nn.BatchNorm2d) for part in student.model.modules())
    assert f"; {layers} BatchNorm layers keep their statistics\n" in told
    assert "WARNING" not in told
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source))
    assert "WARNING    the image tower's BatchNorm keeps statistics that no pictures have made" in told


def test_a_term_that_changes_nothing_of_the_model_is_warned_of(tmp_path, toy_source) -> None:
    for loss, warned in (("clip + simclr", True), ("clip", False)):
        config = tuned(with_loss(make_tiny_config(batch=16), loss), image="all")
        student = make_student(config, torch.float32)
        told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source), fresh=())
        assert ("WARNING    the inputs of simclr come from frozen towers alone, and" in told) == warned
        assert ("WARNING" in told) == warned


def test_adapters_are_told(tmp_path, toy_source) -> None:
    pytest.importorskip("peft")
    config = tuned(with_loss(make_tiny_config(batch=16), "clip"), lora=(4, 2))
    student = make_student(config, torch.float32)
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source))
    assert "; adapters of rank 2 on text_tower; adapters of rank 4 on image_tower\n" in told
    assert "frozen tensors of image_tower and text_tower have random weights" in told
    names = {name for name, _ in stored_parameters(student)}
    told = describe(plan_of(config, 64), student, tmp_path, Data(toy_source), fresh=names)
    assert "frozen tensors of image_tower and text_tower have random weights" in told


def test_what_is_frozen_takes_its_weights_alone() -> None:
    config = with_loss(make_tiny_config(batch=16), "clip")
    tuning: dict[str, Any]
    for tuning in ({}, {"image": "1", "text": "all"}):
        student = make_student(tuned(config, **tuning), torch.float32)
        expected = sum(p.numel() * (16 if p.requires_grad else 4) for p in student.parameters())
        assert state_bytes(plan_of(tuned(config, **tuning), 64), student) == expected
    spread = replace(config, training=replace(config.training, parallel="fsdp"))
    towers = {p for tower in student.model.towers for p in tower.parameters() if p.ndim > 1}
    shares = (
        p.numel() // (2 if p in towers else 1) * (16 if p.requires_grad else 4) for p in student.parameters()
    )
    assert state_bytes(plan_of(spread, 64, 2), student) == sum(shares)


def test_rates_of_their_own_are_told(tmp_path, toy_source) -> None:
    config = replace(make_tiny_config(batch=16), init="weights.safetensors")
    rates = replace(
        config.optimizer,
        image=TowerRateConfig(lr=1e-5, layer_decay=0.7),
        text=TowerRateConfig(lr=0),
        fresh_epochs=0.5,
    )
    config = replace(config, optimizer=rates)
    told = describe(plan_of(config, 64), make_student(config, torch.float32), tmp_path, Data(toy_source))
    assert "image tower: learning rate 1e-05, in each layer 0.7 of the rate above it\n" in told
    assert "text tower: learning rate 0\n" in told
    assert "in the first 2 steps only fresh weights learn; the other weights warm up afterwards\n" in told
    still = tuned(config, image="all")
    told = describe(plan_of(still, 64), make_student(still, torch.float32), tmp_path, Data(toy_source))
    assert "image tower: learning rate" not in told
    quick = replace(config, optimizer=replace(config.optimizer, fresh_lr=1e-3))
    student = make_student(quick, torch.float32)
    for fresh in ((), ("logit_scale",)):
        begun = Start(Origin("their.pt", "a test"), ("logit_scale",), fresh, (), {})
        told = describe(plan_of(quick, 64), student, tmp_path, Data(toy_source), begun)
        assert ("fresh weights: learning rate 0.001" in told) == bool(fresh)


def test_fresh_weights_alone_take_a_start_and_leave_an_end() -> None:
    config = make_tiny_config(batch=16)
    alone = replace(config, optimizer=replace(config.optimizer, fresh_epochs=0.5))
    with pytest.raises(ConfigError, match="Without --init all weights are fresh"):
        plan_of(alone, 64)
    begun = replace(alone, init="weights.safetensors")
    plan = plan_of(begun, 64)
    assert (plan.fresh, plan.steps) == (2, 8)
    assert plan.of_steps(100).fresh == 25
    short = replace(begun, optimizer=replace(begun.optimizer, fresh_epochs=0.01))
    assert plan_of(short, 64).fresh == plan_of(short, 64).of_steps(20).fresh == 1  # asked for, so not none
    assert plan_of(config, 64).fresh == 0
    with pytest.raises(ConfigError, match="would never learn.*fresh_epochs 2 of training.epochs 2"):
        plan_of(replace(begun, optimizer=replace(config.optimizer, fresh_epochs=2)), 64)
