import io
import json
import os
import re
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from rich.console import Console

from slip.config import Config
from slip.data.sources.mixture import Mixture
from slip.errors import CheckpointError, ConfigError, TrainingError
from slip.training import learner, state
from slip.training.learner import Learner
from slip.training.loop import Interrupted, train
from slip.training.saving import checkpoint, tensors
from slip.training.saving.run import read_lines
from toys import ToySource, make_tiny_config

TIMING = {"samples_per_second", "data_wait", "tflops", "mfu"}
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class FakeResult:
    value: float
    task: str = "fake"
    metric: str = "score"

    def to_dict(self) -> dict:
        return {"task": self.task, "metric": self.metric, "value": self.value}


class Killed(BaseException):
    """Nobody handles it."""


def weights(run):
    return checkpoint.load(checkpoint.list_checkpoints(run.checkpoints)[-1])[0]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def interrupt_after(monkeypatch, step: int) -> None:
    """Send this process SIGTERM once `step` steps are done."""
    original = Learner._train_step

    def train_step(self, batch):
        original(self, batch)
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Learner, "_train_step", train_step)


def test_a_run_learns_and_writes_its_folder(tmp_path, toy_source) -> None:
    config = make_tiny_config(epochs=12)
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(run.path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(3, 97, 3))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["position"] == 96 * 8
    expected = {"clip_loss", "simclr_loss", "lr", "logit_scale", "samples_per_second", "data_wait", "mfu"}
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


@pytest.mark.parametrize("loss", ["clip", "simclr", "0.5 * clip + 2 * simclr"])
def test_every_objective_trains(tmp_path, toy_source, tiny_config, loss) -> None:
    config = replace(tiny_config, objective=replace(tiny_config.objective, loss=loss))
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    assert any("text_tower" in name for name in weights(run)) is ("clip" in loss)
    assert any("ssl_head" in name for name in weights(run)) is ("simclr" in loss)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, toy_source, tiny_config, monkeypatch) -> None:
    whole = train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted, match="after step 7 of 16.*--resume"):
        train(tiny_config, toy_source, tmp_path / "parts", console=QUIET)
    parts = train(tiny_config, toy_source, tmp_path / "parts", resume=True, console=QUIET)
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


def test_micro_batches_and_whole_batches_train_alike(tmp_path, toy_source, tiny_config) -> None:
    tower = replace(tiny_config.model.image, drop_path=0.0)
    whole = replace(tiny_config, model=replace(tiny_config.model, image=tower))
    parts = replace(whole, training=replace(whole.training, micro_batch=3))
    curves = []
    for config in (whole, parts):
        run = train(config, toy_source, tmp_path / str(config.training.micro_batch), console=QUIET)
        curves.append([line["loss"] for line in read_lines(run.path / "metrics.jsonl")])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


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
    (run.path / "data.json").write_text("[")
    with pytest.raises(CheckpointError, match="data.json"):
        train(tiny_config, toy_source, run.path, resume=True, console=QUIET)


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


def test_evaluations_are_logged_and_pick_the_best(tmp_path, toy_source) -> None:
    config = make_tiny_config(epochs=3)
    values = iter([0.2, 0.9, 0.4])
    run = train(
        config, toy_source, tmp_path / "run", evaluate=lambda _: [FakeResult(next(values))], console=QUIET
    )
    measured = [line for line in read_lines(run.path / "metrics.jsonl") if "evaluation" in line]
    assert [(line["step"], line["evaluation"]["fake/score"]) for line in measured] == [
        (8, 0.2),
        (16, 0.9),
        (24, 0.4),
    ]
    assert checkpoint.best(checkpoint.list_checkpoints(run.checkpoints)).name == "step-00000016"
    assert json.loads((run.path / "results.json").read_text()) == [FakeResult(0.4).to_dict()]


def test_a_broken_evaluation_does_not_cost_the_weights(tmp_path, toy_source, tiny_config) -> None:
    def broken(_):
        raise RuntimeError("no such data set")

    with pytest.raises(RuntimeError, match="no such data set"):
        train(tiny_config, toy_source, tmp_path / "run", evaluate=broken, console=QUIET)
    assert checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000008"


def test_a_step_is_safe_before_it_is_measured(tmp_path, toy_source, tiny_config) -> None:
    """It is on disk when the evaluation begins, the last one too; a run that is asked to stop then ends well."""
    checkpoints, seen = tmp_path / "run" / "checkpoints", []

    def measure(_):
        newest = checkpoint.newest_good(checkpoints, pytest.fail)
        seen.append(newest and (newest.name, checkpoint.read_state(newest)["score"]))
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return [FakeResult(0.5)]

    def killed(*_):
        raise Killed

    default = signal.signal(signal.SIGTERM, killed)
    try:
        train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
    finally:
        signal.signal(signal.SIGTERM, default)
    assert seen == [("step-00000008", None), ("step-00000016", None)]
    assert checkpoint.read_state(checkpoints / "step-00000016")["score"] == 0.5


@pytest.mark.parametrize("step", [8, 16])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_run_killed_about_an_evaluation_has_it_once(
    tmp_path, toy_source, tiny_config, monkeypatch, step, when
) -> None:
    measured: list[int] = []

    def measure(_):
        newest = checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
        measured.append(newest)
        if when == "during" and measured == list(range(8, step + 1, 8)):
            raise Killed
        return [FakeResult(newest / 16)]

    save = state.State.save

    def killed(self):
        if when == "after" and self.step == self.measured_at == step:
            raise Killed
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(state.State, "save", killed)
        if when == "before":
            interrupt_after(patch, step)
        if (when, step) == ("before", 16):  # it is done then, and ends as if nobody had asked
            train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
        else:
            with pytest.raises((Killed, Interrupted)):
                train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
    for _ in range(2):
        run = train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, resume=True, console=QUIET)
    lines = [line for line in read_lines(run.path / "metrics.jsonl") if "evaluation" in line]
    assert [(line["step"], line["evaluation"]["fake/score"]) for line in lines] == [(8, 0.5), (16, 1.0)]
    assert len(measured) == 2 + (when != "before")
    assert checkpoint.best(checkpoint.list_checkpoints(run.checkpoints)).name == "step-00000016"


def test_unusable_records_are_replaced_and_listed(tmp_path, tiny_config) -> None:
    source = ToySource(64, broken=frozenset({3, 40}), silent=frozenset({9}))
    config = replace(tiny_config, data=replace(tiny_config.data, max_skipped=0.2))
    run = train(config, source, tmp_path / "run", console=QUIET)
    listed = read_lines(run.path / "skipped.jsonl")
    assert {line["index"] for line in listed} == {3, 9, 40}
    assert {line["key"] for line in listed} >= {"toy/009"}
    lines = read_lines(run.path / "metrics.jsonl")
    assert lines[-1]["skipped"] == len(listed) >= 6


def test_too_many_unusable_records_stop_the_run(tmp_path) -> None:
    source = ToySource(64, broken=frozenset(range(0, 64, 8)))
    with pytest.raises(
        TrainingError, match=r"could not be used, more than the 5\.0% allowed.*skipped\.jsonl"
    ):
        train(make_tiny_config(epochs=20), source, tmp_path / "run", console=QUIET)


def test_non_finite_losses_are_skipped_then_stop_the_run(
    tmp_path, toy_source, tiny_config, monkeypatch
) -> None:
    original, calls = learner.backward, []

    def poisoned(parallel, *args, **options):
        losses = original(parallel, *args, **options)
        calls.append(1)
        if len(calls) == 3 or len(calls) > 8:
            losses["loss"] = torch.tensor(float("nan"))
            for parameter in parallel.model.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
        return losses

    monkeypatch.setattr(learner, "backward", poisoned)
    config = replace(tiny_config, training=replace(tiny_config.training, max_nonfinite=3))
    with pytest.raises(TrainingError, match=r"3 steps in a row, the last one step 11.*records toy/"):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[1]["nonfinite"] == 1
    counts = json.loads((tmp_path / "run" / "counts.json").read_text())
    assert (counts["nonfinite_steps"], counts["nonfinite_samples"]) in [(1, 8), (3, 24)]
    stored = checkpoint.load(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1])[0]
    assert all(torch.isfinite(w).all() for w in stored.values())


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
        ({"batch": 100}, "batch of 100 is larger than the source's 64 records"),
        ({"batch": 1}, "at least two samples"),
        ({"batch": 0}, "must be positive"),
        ({"epochs": -1.0}, "must be positive"),
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


def cheap(config: Config) -> Config:
    """Return the configuration with everything that makes self-supervision cheaper."""
    ssl = replace(config.views.ssl, size=24, drop_tokens=0.5)
    return replace(
        config,
        views=replace(config.views, image=replace(config.views.image, drop_tokens=0.25), ssl=ssl),
        objective=replace(config.objective, ssl_every=2, ssl_share=0.5),
    )


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_cheaper_self_supervision_resumes_exactly(tmp_path, toy_source, monkeypatch, micro_batch) -> None:
    config = cheap(make_tiny_config(micro_batch=micro_batch))
    pictures = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
    said = io.StringIO()
    console = Console(file=said, width=200)
    whole = train(config, toy_source, tmp_path / "whole", ssl=pictures, console=console)
    interrupt_after(monkeypatch, 7)  # steps 0, 2, 4, … have self-supervision
    with pytest.raises(Interrupted, match="after step 7 of 16"):
        train(config, toy_source, tmp_path / "parts", ssl=pictures, console=QUIET)
    parts = train(config, toy_source, tmp_path / "parts", ssl=pictures, resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    lines = [
        [
            {k: v for k, v in line.items() if k not in TIMING and not k.startswith("time_")}
            for line in read_lines(run.path / "metrics.jsonl")
        ]
        for run in (whole, parts)
    ]
    assert lines[0] == lines[1]
    # 16 steps of 8 pairs; 8 steps with 4 pictures, which are 2 epochs of 13 and a half.
    assert "160 records read" in said.getvalue()
    skipped = [line["key"] for line in read_lines(whole.path / "skipped.jsonl")]
    assert skipped.count("#5") in (2, 3)


def test_steps_without_self_supervision_run_and_log_none(tmp_path, toy_source, monkeypatch) -> None:
    config = cheap(make_tiny_config(log_every=1))
    original, views = learner.backward, []

    def watched(model, objective, inputs, **options):
        views.append({name: tuple(view.shape) for name, view in inputs.views.items()})
        return original(model, objective, inputs, **options)

    monkeypatch.setattr(learner, "backward", watched)
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    image = {"image": (8, 3, 16, 16)}
    assert views == [image | {"ssl_1": (4, 3, 24, 24), "ssl_2": (4, 3, 24, 24)}, image] * 8
    lines = read_lines(run.path / "metrics.jsonl")
    assert [("simclr_loss" in line, "clip_loss" in line) for line in lines] == [
        (True, True),
        (False, True),
    ] * 8


def test_means_are_over_the_steps_that_have_a_value(tmp_path, toy_source) -> None:
    each, all_steps = (
        read_lines(
            train(cheap(make_tiny_config(log_every=n)), toy_source, tmp_path / str(n), console=QUIET).path
            / "metrics.jsonl"
        )
        for n in (1, 16)
    )
    for name, count in (("simclr_loss", 8), ("clip_loss", 16), ("loss", 16)):
        values = [line[name] for line in each if name in line]
        assert len(values) == count
        assert all_steps[0][name] == pytest.approx(sum(values) / count)


def test_the_trained_model_takes_images_of_views_size(tmp_path, toy_source, tiny_config) -> None:
    import slip

    run = train(cheap(tiny_config), toy_source, tmp_path / "run", console=QUIET)
    encoder = slip.load(run.path)
    assert encoder.size == 16
    assert encoder.encode_image(toy_source[0].image).shape == (1, 8)


@pytest.mark.parametrize(
    ("ssl", "advice"), [({"size": 20}, "views of 20 pixels"), ({"drop_tokens": 1.0}, "views.ssl.drop_tokens")]
)
def test_views_that_cannot_be_trained_on_leave_no_folder(
    tmp_path, toy_source, tiny_config, ssl, advice
) -> None:
    views = replace(tiny_config.views, ssl=replace(tiny_config.views.ssl, **ssl))
    with pytest.raises(ConfigError, match=advice):
        train(replace(tiny_config, views=views), toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def scale_losses(monkeypatch, **options) -> None:
    """Let fp32 runs on a CPU scale their losses as fp16 ones on a GPU do."""
    monkeypatch.setattr(state, "loss_scaler", lambda *_: torch.amp.GradScaler("cpu", **options))


def test_a_scaled_loss_trains_the_same_and_resumes_exactly(
    tmp_path, toy_source, tiny_config, monkeypatch
) -> None:
    plain = train(tiny_config, toy_source, tmp_path / "plain", console=QUIET)
    # Grows at steps 5, 10 and 15, so that both the scale and the steps since it grew have to be restored.
    scale_losses(monkeypatch, init_scale=2.0**8, growth_interval=5)
    whole = train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)
    assert same(weights(plain), weights(whole))  # powers of two: bit for bit
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted):
        train(tiny_config, toy_source, tmp_path / "parts", console=QUIET)
    parts = train(tiny_config, toy_source, tmp_path / "parts", resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))
    states = [
        checkpoint.read_state(checkpoint.list_checkpoints(run.checkpoints)[-1]) for run in (whole, parts)
    ]
    assert states[0] == states[1]
    assert states[0]["scaler"]["scale"] == 2.0**11
    assert states[0]["scaler"]["_growth_tracker"] == 1


def test_overflow_lowers_the_scale_and_is_no_strike(tmp_path, toy_source, tiny_config, monkeypatch) -> None:
    """The loss stays finite and its gradient does not: four times too high a scale, then something else."""
    original, calls = learner.backward, []

    def too_high(parallel, *args, scaler, **options):
        losses = original(parallel, *args, scaler=scaler, **options)
        calls.append(scaler.get_scale())
        if scaler.get_scale() > 0.5 or len(calls) > 10:
            parallel.model.logit_scale.grad.fill_(float("inf"))
        return losses

    monkeypatch.setattr(learner, "backward", too_high)
    scale_losses(monkeypatch, init_scale=8.0, growth_interval=1000)
    config = replace(tiny_config, training=replace(tiny_config.training, max_nonfinite=3))
    with pytest.raises(TrainingError, match="3 steps in a row, the last one step 13"):
        train(config, toy_source, tmp_path / "run", console=QUIET)
    assert calls == [8, 4, 2, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.125]
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["overflow"], line["nonfinite"]) for line in lines] == [(3, 0), (4, 0), (4, 0), (4, 2)]


def test_runs_in_other_precisions_count_no_overflow(tmp_path, toy_source, tiny_config) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    assert not any("overflow" in line for line in read_lines(run.path / "metrics.jsonl"))


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
