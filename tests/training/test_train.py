"""Whole runs: what they write, how they end and go on, and what they refuse."""

import io
import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from openslip.config import ObjectiveConfig
from openslip.data.sources.mixture import Mixture
from openslip.errors import CheckpointError, ConfigError
from openslip.needs import TEXT
from openslip.objectives import parse
from openslip.training.saving import checkpoint, tensors
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from openslip.training.trainer import Trainer
from toys import (
    BY_CLASS,
    CASES,
    LOSSES,
    VARIANTS,
    ToySource,
    case_name,
    make_student,
    make_tiny_config,
    with_loss,
    with_saved_teacher,
)
from training.runs import QUIET, TIMING, interrupt_after, same, weights

LOSS = pytest.mark.parametrize("loss", LOSSES)
SLIP = ObjectiveConfig().loss


@pytest.mark.usefixtures("counted")
def test_a_run_learns_and_writes_its_folder(tmp_path, toy_source) -> None:
    config = make_tiny_config(epochs=12)
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(run.path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(3, 97, 3))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["position"] == 96 * 8
    expected = {"clip_loss", "simclr_loss", "lr", "logit_scale", *TIMING}
    assert expected <= lines[0].keys()
    assert [line["progress"] for line in lines[:2]] == [0.0312, 0.0625]
    parts = ("augment", "forward", "backward", "optimizer")
    assert all(0.5 < sum(line[f"time_{p}"] for p in parts) + line["data_wait"] <= 1.001 for line in lines)
    assert run.config == config
    assert "torch" in json.loads((run.path / "versions.json").read_text())
    assert [p.name for p in checkpoint.list_checkpoints(run.checkpoints)] == [
        "step-00000095",
        "step-00000096",
    ]


@LOSS
def test_every_objective_trains(tmp_path, toy_source, tiny_config, loss) -> None:
    """It learns; its values are logged; its own weights are saved beside the model's, which has what it needs."""
    config = with_loss(replace(tiny_config, training=replace(tiny_config.training, epochs=4)), loss)
    config = with_saved_teacher(config, tmp_path / "teacher")
    run, objective = train(config, toy_source, tmp_path / "run", console=QUIET), parse(config.objective)
    lines = read_lines(run.path / "metrics.jsonl")
    if loss == "dino":  # begins with all images in one prototype, where its loss is small
        assert lines[-1]["dino_used"] > 2 > lines[0]["dino_used"]
    else:  # what starts at another model starts where its loss is least
        assert lines[-1]["loss"] < lines[0]["loss"] or config.init
    assert all(curve.key in line for curve in objective.curves for line in lines)
    reads = any(
        need.view == TEXT and need.out not in ("ids", "labels", "records") for need in objective.needs
    )
    assert any("text_tower" in name for name in weights(run)) is reads
    assert ("logit_scale" in lines[0]) is reads
    own = {name.split(".")[1] for name in weights(run) if name.startswith("objective.")}
    modules = make_student(config).objective
    assert own == {name for name, module in modules.items() if any(True for _ in module.parameters())}


@LOSS
def test_every_objective_trains_in_bf16(tmp_path, toy_source, tiny_config, loss) -> None:
    config = with_loss(
        replace(tiny_config, training=replace(tiny_config.training, epochs=1, precision="bf16")), loss
    )
    run = train(with_saved_teacher(config, tmp_path / "teacher"), toy_source, tmp_path / "run", console=QUIET)
    assert all(math.isfinite(line["loss"]) for line in read_lines(run.path / "metrics.jsonl"))
    own = {name: tensor for name, tensor in weights(run).items() if name.startswith("objective.")}
    assert all(tensor.dtype != torch.bfloat16 and tensor.isfinite().all() for tensor in own.values())


QUICK = ((SLIP, {"positives": "pairs"}), ("clip", BY_CLASS), ("clip", VARIANTS["clip, global"]))
RESUMED = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
"""Every loss; those besides QUICK are slow, for they take three seconds each."""


@pytest.mark.parametrize(("loss", "options"), RESUMED, ids=case_name)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path, toy_source, tiny_config, monkeypatch, loss, options
) -> None:
    config = with_saved_teacher(with_loss(tiny_config, loss, **options), tmp_path / "teacher")
    whole = train(config, toy_source, tmp_path / "whole", console=QUIET)
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted, match="after step 7 of 16.*--resume"):
        train(config, toy_source, tmp_path / "parts", console=QUIET)
    parts = train(config, toy_source, tmp_path / "parts", resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))

    def metrics(run):
        return [
            {k: v for k, v in line.items() if k not in TIMING and not k.startswith("time_")}
            for line in read_lines(run.path / "metrics.jsonl")
        ]

    assert metrics(whole) == metrics(parts)


def test_a_mixture_and_pictures_of_their_own_resume_exactly(tmp_path, tiny_config, monkeypatch) -> None:
    source = Mixture([ToySource(20, broken=frozenset({3})), ToySource(11, name="other")], [1, 2])
    pictures = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
    runs = [train(tiny_config, source, tmp_path / "whole", ssl=pictures, console=QUIET)]
    interrupt_after(monkeypatch, 4)
    # Of 2 epochs of 20 + 2 · 11 samples, 8 at a time.
    with pytest.raises(Interrupted, match="after step 4 of 10"):
        train(tiny_config, source, tmp_path / "parts", ssl=pictures, console=QUIET)
    said = io.StringIO()
    console = Console(file=said, width=200)
    runs.append(train(tiny_config, source, tmp_path / "parts", ssl=pictures, resume=True, console=console))
    assert same(weights(runs[0]), weights(runs[1]))
    skipped = [
        [(line["source"], line["key"]) for line in read_lines(run.path / "skipped.jsonl")] for run in runs
    ]
    assert skipped[0] == skipped[1]
    assert f"160 records read: {160 - len(skipped[0])} used, {len(skipped[0])} skipped" in said.getvalue()
    # 80 samples are nearly 2 epochs of the mixture, and more than 6 of the pictures.
    assert skipped[0].count(("toy", "#3")) in (1, 2)
    assert skipped[0].count(("pictures", "#5")) in (6, 7)


def test_counts_add_up_and_resume_exactly(tmp_path, tiny_config, monkeypatch) -> None:
    source = Mixture([ToySource(20, broken=frozenset({3})), ToySource(11, name="other")], [1, 2])
    pictures = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
    whole = train(tiny_config, source, tmp_path / "whole", ssl=pictures, console=QUIET)
    interrupt_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        train(tiny_config, source, tmp_path / "parts", ssl=pictures, console=QUIET)
    early = json.loads((tmp_path / "parts" / "counts.json").read_text())
    parts = train(tiny_config, source, tmp_path / "parts", ssl=pictures, resume=True, console=QUIET)
    first, second = (json.loads((run.path / "counts.json").read_text()) for run in (whole, parts))
    assert first == second
    assert (early["steps"], early["samples"], first["steps"], first["samples"]) == (4, 32, 10, 80)
    assert [(s["lane"], s["name"]) for s in first["sources"]] == [
        ("train", "toy"),
        ("train", "other"),
        ("ssl", "pictures"),
    ]
    listed = read_lines(whole.path / "skipped.jsonl")
    for counted in first["sources"]:
        assert counted["read"] == counted["used"] + counted["skipped"]
        assert (
            counted["skipped"]
            == counted["stood_in"]
            == sum(line["source"] == counted["name"] for line in listed)
        )
    assert [counted["read"] for counted in first["sources"]] == [39, 41, 80]


def test_a_dead_source_of_a_mixture_is_said(tmp_path, tiny_config) -> None:
    source = Mixture([ToySource(64), ToySource(4, broken=frozenset(range(4)), name="dead")], [10, 60])
    config = replace(
        tiny_config,
        training=replace(tiny_config.training, batch=64, epochs=1),
        data=replace(tiny_config.data, max_skipped=0.5),
    )
    said = io.StringIO()
    train(config, source, tmp_path / "run", console=Console(file=said, width=200))
    assert said.getvalue().count("records of dead (data.train) could not be used") == 1
    counts = json.loads((tmp_path / "run" / "counts.json").read_text())["sources"]
    assert (counts[1]["used"], counts[1]["skipped"]) == (0, counts[0]["stood_in"])
    assert (
        f"data.train dead: {counts[1]['read']} read, 0 used, {counts[1]['read']} skipped" in said.getvalue()
    )


@pytest.mark.parametrize(
    ("loss", "advice"), [("clip", "Leave --data.ssl out"), ("simclr", "as --data.train")]
)
def test_pictures_of_their_own_need_an_objective_for_both(
    tmp_path, toy_source, tiny_config, loss, advice
) -> None:
    config = replace(tiny_config, objective=replace(tiny_config.objective, loss=loss))
    with pytest.raises(ConfigError, match=advice):
        train(config, toy_source, tmp_path / "run", ssl=toy_source, console=QUIET)


@pytest.mark.parametrize(
    ("tower", "dropped", "why"),
    [
        ("resnet18", 0.0, "has no patch tokens"),
        ("vit", 0.5, "cannot be left out of a view whose patch tokens"),
    ],
)
def test_patch_tokens_that_cannot_be_had_are_refused_before_the_run_has_a_folder(
    tmp_path, toy_source, tiny_config, tower, dropped, why
) -> None:
    config = with_loss(tiny_config, "ibot")
    image = replace(config.model.image, name=tower, drop_path=0.0)
    views = replace(config.views, ssl=replace(config.views.ssl, drop_tokens=dropped))
    config = replace(config, model=replace(config.model, image=image), views=views)
    with pytest.raises(ConfigError, match=why):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


@LOSS
def test_micro_batches_and_whole_batches_train_alike(tmp_path, toy_source, tiny_config, loss) -> None:
    tower = replace(tiny_config.model.image, drop_path=0.0)
    whole = with_loss(replace(tiny_config, model=replace(tiny_config.model, image=tower)), loss)
    whole = with_saved_teacher(whole, tmp_path / "teacher")
    parts = replace(whole, training=replace(whole.training, micro_batch=3))
    curves = []
    for config in (whole, parts):
        run = train(config, toy_source, tmp_path / str(config.training.micro_batch), console=QUIET)
        curves.append([line["loss"] for line in read_lines(run.path / "metrics.jsonl")])
    # The outputs of MoCo v3's heads are normalised over a batch of pictures that are nearly one: rounding grows.
    assert curves[0] == pytest.approx(curves[1], rel=0.03 if loss == "mocov3" else 2e-3)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, toy_source, tiny_config) -> None:
    train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    with pytest.raises(ConfigError, match="already holds a run.*--resume"):
        train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    other = make_tiny_config(seed=5)
    with pytest.raises(ConfigError, match=r"training\.seed = 5, was 0"):
        train(other, toy_source, tmp_path / "run", resume=True, console=QUIET)


def test_a_run_does_not_go_on_with_other_data(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    with pytest.raises(ConfigError, match=r"started with other data.*records: 80, had 64.*new run.*--out"):
        train(tiny_config, ToySource(80), run.path, resume=True, console=QUIET)
    with pytest.raises(ConfigError, match="other content or another order"):
        train(tiny_config, Backwards(64), run.path, resume=True, console=QUIET)


@pytest.mark.parametrize(
    "content", [b"[", b"[]", b'{"train": 5}', b'{"train": [{}]}', b"\xff", b"[" * 99_999]
)
def test_a_damaged_note_of_the_data_stops_nothing(tmp_path, toy_source, tiny_config, content) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    (run.path / "data.json").write_bytes(content)
    said = io.StringIO()
    train(tiny_config, toy_source, run.path, resume=True, console=Console(file=said, width=300))
    assert "warning: whether these are the run's data is not known" in said.getvalue()


def test_data_may_move(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    moved = replace(
        tiny_config, data=replace(tiny_config.data, train="/disk2/toy", image_root="/disk2", val="/disk2/val")
    )
    train(moved, ToySource(name="/disk2/toy"), run.path, resume=True, console=QUIET)
    other = replace(moved, data=replace(moved.data, augment="loader"))
    with pytest.raises(ConfigError, match=r"data\.augment = 'loader', was 'device'"):
        train(other, toy_source, run.path, resume=True, console=QUIET)
    # A run of before data were written down goes on, and data that have moved are other data to it.
    (run.path / "data.json").unlink()
    train(tiny_config, toy_source, run.path, resume=True, console=QUIET)
    with pytest.raises(ConfigError, match=r"data\.train = '/disk2/toy', was 'toy'"):
        train(moved, toy_source, run.path, resume=True, console=QUIET)


class Backwards(ToySource):
    """The same records in another order."""

    def __getitem__(self, index):
        return super().__getitem__(len(self) - 1 - index)


def test_resume_without_a_run_starts_one(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", resume=True, console=QUIET)
    assert checkpoint.list_checkpoints(run.checkpoints)


@pytest.mark.parametrize(("which", "stops"), [("00000010", False), ("00000016", True)])
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path, toy_source, tiny_config, monkeypatch, which, stops
) -> None:
    """One that cannot be written is passed over, with a warning; the last one must be written, or it is an error."""
    original = tensors.write_tensors

    def full(path, *args):
        if which in str(path):
            raise OSError(28, "No space left on device")
        original(path, *args)

    monkeypatch.setattr(tensors, "write_tensors", full)
    said = io.StringIO()
    console = Console(file=said, width=1000)
    run = tmp_path / "run"
    message = f"step {int(which)} could not be written.*No space left.*--resume"
    if stops:
        with pytest.raises(CheckpointError, match=message):
            train(tiny_config, toy_source, run, console=console)
    else:
        train(tiny_config, toy_source, run, console=console)
        assert re.search(f"warning: .*{message}", said.getvalue())
    assert not (run / "checkpoints" / f"step-{which}").exists()
    monkeypatch.undo()
    whole = train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)
    resumed = train(tiny_config, toy_source, run, resume=True, console=QUIET)
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 100}, "batch of 100 is larger than the 64 records that are trained on"),
        ({"batch": 1}, "--training.batch must be at least 2: a contrast needs two samples"),
        ({"log_every": 0}, "--training.log-every must be at least 1"),
        ({"epochs": -1.0}, "--training.epochs must be above 0"),
        ({"offload": True}, "only for a CUDA device"),
        ({"offload": True, "parallel": "fsdp"}, "fsdp on cpu"),
    ],
)
def test_impossible_plans_are_refused(tmp_path, toy_source, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_tiny_config(**changes), toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_built_leaves_no_folder(tmp_path, toy_source, tiny_config) -> None:
    tower = replace(tiny_config.model.image, name="resnte50")
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        train(
            replace(tiny_config, model=replace(tiny_config.model, image=tower)),
            toy_source,
            tmp_path / "run",
            console=QUIET,
        )
    assert not (tmp_path / "run").exists()


def test_the_plan_is_told_in_words(tmp_path, toy_source, tiny_config, capsys) -> None:
    train(tiny_config, toy_source, tmp_path / "run")
    told = capsys.readouterr().err
    for words in (
        "minimise clip + 1.0 * simclr",
        "M parameters",
        "64 records from toy",
        "16 steps of 8",
        "GiB",
        "run",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("ssl", "advice"), [({"size": 20}, "views of 20 pixels"), ({"drop_tokens": 1.0}, "views.ssl.drop-tokens")]
)
def test_views_that_cannot_be_trained_on_leave_no_folder(
    tmp_path, toy_source, tiny_config, ssl, advice
) -> None:
    views = replace(tiny_config.views, ssl=replace(tiny_config.views.ssl, **ssl))
    with pytest.raises(ConfigError, match=advice):
        train(replace(tiny_config, views=views), toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputed_activations_train_the_same_and_may_change_on_the_way(
    tmp_path, toy_source, tiny_config, monkeypatch, how
) -> None:
    plain = train(tiny_config, toy_source, tmp_path / "plain", console=QUIET)
    interrupt_after(monkeypatch, 7)
    recomputed = replace(tiny_config, training=replace(tiny_config.training, checkpoint_activations=how))
    with pytest.raises(Interrupted):
        train(tiny_config, toy_source, tmp_path / "parts", console=QUIET)
    parts = train(recomputed, toy_source, tmp_path / "parts", resume=True, console=QUIET)
    assert same(weights(plain), weights(parts))


def fail_at(monkeypatch, step: int) -> None:
    """Let the step after `step` fail, as for want of memory."""
    original = Trainer._train_on

    def train_step(self, batch):
        if self.state.step == step:
            raise RuntimeError("out of memory")
        original(self, batch)

    monkeypatch.setattr(Trainer, "_train_on", train_step)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("budget", ["", "1h"])
def test_a_start_that_failed_is_no_run(
    tmp_path, toy_source, tiny_config, monkeypatch, resume, budget
) -> None:
    """Other options, other data: what the failed start left is no obstacle, and nobody's file is touched."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    failing = replace(tiny_config, training=replace(tiny_config.training, budget=budget))
    with monkeypatch.context() as patch:
        fail_at(patch, 4)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(failing, toy_source, tmp_path / "run", console=QUIET)
    logged = len(read_lines(tmp_path / "run" / "metrics.jsonl")) if not budget else 0
    said = io.StringIO()
    config, source = make_tiny_config(seed=5), ToySource(80)
    run = train(config, source, tmp_path / "run", resume=resume, console=Console(file=said, width=300))
    assert "start that failed before its first checkpoint" in said.getvalue()
    assert run.config == config
    whole = train(config, source, tmp_path / "whole", console=QUIET)
    assert same(weights(run), weights(whole))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert len(read_lines(run.path / "metrics.jsonl")) == len(read_lines(whole.path / "metrics.jsonl"))
    kept = run.path / "metrics-of-failed-start.jsonl"
    assert (len(read_lines(kept)) if kept.exists() else 0) == logged


def test_a_run_without_its_checkpoints_begins_once_more_and_says_so(
    tmp_path, toy_source, tiny_config
) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    (run.path / "results.json").write_text("[]")
    logged, before = (run.path / "metrics.jsonl").read_text(), weights(run)
    shutil.rmtree(run.checkpoints)
    said = io.StringIO()
    train(tiny_config, toy_source, run.path, resume=True, console=Console(file=said, width=300))
    assert "has no checkpoint to continue from, and begins again" in said.getvalue()
    assert (run.path / "metrics-of-failed-start.jsonl").read_text() == logged
    assert same(weights(run), before)


def test_a_run_with_a_checkpoint_has_begun_however_it_looks(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    for path in checkpoint.list_checkpoints(run.checkpoints):
        (path / "state.json").unlink()  # as an interrupted copy leaves it
    with pytest.raises(ConfigError, match="already holds a run.*--resume --out"):
        train(make_tiny_config(seed=5), toy_source, run.path, console=QUIET)
