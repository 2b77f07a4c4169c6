"""Trackers elsewhere are modules with the libraries' own signatures, which record what they are called with."""

import io
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from openslip import toml
from openslip.config import TrackingConfig
from openslip.errors import ConfigError
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.state import State
from openslip.training.train import train
from openslip.training.watching.tracking import numbers, progress_text
from toys import make_tiny_config

QUIET = Console(quiet=True)


class FakeRun:
    """A run of wandb or of trackio: one name for what differs between them."""

    def __init__(self, calls, fail_at=None) -> None:
        self.calls, self.fail_at = calls, fail_at

    def _lines(self) -> int:
        return sum(call[0] == "log" for call in self.calls)

    def finish(self, exit_code=None) -> None:
        self.calls.append(("finish",))


class WandbRun(FakeRun):
    def define_metric(
        self, name, step_metric=None, step_sync=None, hidden=None, summary=None, overwrite=None
    ) -> None:
        self.calls.append(("define_metric", name, step_metric))

    def log(self, data, step=None, commit=None) -> None:
        self.calls.append(("log", data))
        if self._lines() == self.fail_at:
            raise ConnectionError("the network is gone")


class TrackioRun(FakeRun):
    def log(self, metrics, step=None) -> None:
        self.calls.append(("log", metrics, step))
        if self._lines() == self.fail_at:
            raise ConnectionError("the network is gone")


def install_wandb(monkeypatch, calls, fail_at=None) -> None:
    def init(
        entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None,
        config_exclude_keys=None, config_include_keys=None, allow_val_change=None, group=None, job_type=None,
        mode=None, force=None, reinit=None, resume=None, resume_from=None, fork_from=None, save_code=None,
        tensorboard=None, sync_tensorboard=None, monitor_gym=None, settings=None,
    ):  # fmt: skip
        calls.append(("init", project, id, name, resume, dir, config))
        if fail_at == 0:
            raise ConnectionError("the network is gone")
        return WandbRun(calls, fail_at)

    module: Any = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)


def install_trackio(monkeypatch, calls, fail_at=None) -> None:
    def init(
        project, name=None, group=None, space_id=None, server_url=None, dataset_id=None, bucket_id=None, config=None,
        resume="never", settings=None, private=None, embed=True, auto_log_gpu=None, gpu_log_interval=10.0,
        auto_log_cpu=None, cpu_log_interval=10.0, webhook_url=None, webhook_min_level=None,
    ):  # fmt: skip
        calls.append(("init", project, name, resume, config))
        return TrackioRun(calls, fail_at)

    module: Any = ModuleType("trackio")
    module.init = init
    monkeypatch.setitem(sys.modules, "trackio", module)


def tracked(**tracking):
    return replace(make_tiny_config(), tracking=TrackingConfig(**tracking))


def stop_after(monkeypatch, step: int) -> None:
    original = State.save

    def save(self):
        original(self)
        if self.step == step:
            raise Interrupted("Stopped here")

    monkeypatch.setattr(State, "save", save)


def test_wandb_gets_every_line_and_a_resumed_run_goes_on_in_the_same_one(
    tmp_path, toy_source, monkeypatch
) -> None:
    calls: list[tuple] = []
    install_wandb(monkeypatch, calls)
    config = tracked(wandb="squares")
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        with pytest.raises(Interrupted):
            train(config, toy_source, tmp_path / "run", console=QUIET)
    assert calls[-1] == ("finish",)
    run = train(config, toy_source, tmp_path / "run", resume=True, console=QUIET)
    first, second = (call for call in calls if call[0] == "init")
    assert first == second
    _, project, identity, name, resume, folder, told = first
    assert (project, name, resume, folder) == ("squares", "run", "allow", str(run.path))
    assert len(identity) == 12
    assert told == toml.to_dict(config)
    assert calls.count(("define_metric", "*", "step")) == 2
    logged = [call[1] for call in calls if call[0] == "log"]
    assert logged == read_lines(run.path / "metrics.jsonl")


def test_trackio_gets_every_line_by_its_step(tmp_path, toy_source, monkeypatch) -> None:
    calls: list[tuple] = []
    install_trackio(monkeypatch, calls)
    config = tracked(trackio="squares")
    run = train(config, toy_source, tmp_path / "run", console=QUIET)
    other = train(config, toy_source, tmp_path / "other" / "run", console=QUIET)
    names = [call[2] for call in calls if call[0] == "init"]
    assert [name.rpartition("-")[0] for name in names] == ["run", "run"]
    assert names[0] != names[1]
    assert [call[1] for call in calls if call[0] == "init"] == ["squares", "squares"]
    logged = [{"step": call[2]} | call[1] for call in calls if call[0] == "log"]
    assert logged == read_lines(run.path / "metrics.jsonl") + read_lines(other.path / "metrics.jsonl")


@pytest.mark.parametrize("fail_at", [1, 3])
@pytest.mark.parametrize(("name", "install"), [("wandb", install_wandb), ("trackio", install_trackio)])
def test_a_tracker_that_fails_is_left_alone(
    tmp_path, toy_source, monkeypatch, name, install, fail_at
) -> None:
    calls: list[tuple] = []
    install(monkeypatch, calls, fail_at)
    said = io.StringIO()
    console = Console(file=said, width=200)
    run = train(tracked(**{name: "squares"}), toy_source, tmp_path / "run", console=console)
    assert len(read_lines(run.path / "metrics.jsonl")) == 6
    assert sum(call[0] == "log" for call in calls) == fail_at
    assert calls[-1][0] == "log"
    assert said.getvalue().count(f"{name} failed (the network is gone)") == 1


def test_a_tracker_that_does_not_open_stops_no_run(tmp_path, toy_source, monkeypatch) -> None:
    calls: list[tuple] = []
    install_wandb(monkeypatch, calls, fail_at=0)
    run = train(tracked(wandb="squares"), toy_source, tmp_path / "run", console=QUIET)
    assert len(read_lines(run.path / "metrics.jsonl")) == 6
    assert [call[0] for call in calls] == ["init"]


@pytest.mark.parametrize(
    ("name", "value", "module"),
    [
        ("wandb", "squares", "wandb"),
        ("trackio", "squares", "trackio"),
        ("tensorboard", True, "torch.utils.tensorboard"),
    ],
)
def test_a_missing_library_is_said_before_anything_is_written(
    tmp_path, toy_source, monkeypatch, name, value, module
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{name} is not installed.*pip install {name}.*--tracking.{name}"):
        train(tracked(**{name: value}), toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_trackers_may_change_when_a_run_is_resumed(tmp_path, toy_source, monkeypatch) -> None:
    train(tracked(), toy_source, tmp_path / "run", console=QUIET)
    calls: list[tuple] = []
    install_trackio(monkeypatch, calls)
    train(tracked(trackio="squares"), toy_source, tmp_path / "run", resume=True, console=QUIET)
    assert [call[0] for call in calls] == ["init", "finish"]


def test_tensorboard_gets_the_numbers(tmp_path, toy_source) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(tracked(tensorboard=True), toy_source, tmp_path / "run", console=QUIET)
    events = event_accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    lines = read_lines(run.path / "metrics.jsonl")
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines
    ]


def test_evaluations_are_flat_for_trackers() -> None:
    line = {"step": 3, "evaluation": {"knn/top1": 0.5}}
    assert numbers(line) == {"step": 3, "knn/top1": 0.5}


def test_the_progress_line_tells_what_people_ask_for() -> None:
    line = {"step": 3, "loss": 1.23456, "samples_per_second": 99.6, "data_wait": 0.254, "mfu": 0.412}
    told = progress_text(line | {"skipped": 2, "nonfinite": 0})
    assert told == "loss 1.235  100 samples/s  waiting 25%  41% of peak  skipped 2"
