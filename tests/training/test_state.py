"""Checkpoints that this version cannot go on from: said in words, whatever is wrong with them."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from openslip.errors import CheckpointError, ConfigError
from openslip.processes import Processes
from openslip.training.saving import checkpoint
from openslip.training.saving.tensors import read_tensors, write_tensors
from openslip.training.train import train
from toys import ToySource, make_tiny_config
from training.runs import fail

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return train(
        make_tiny_config(epochs=1), ToySource(), tmp_path_factory.mktemp("run") / "run", console=QUIET
    ).path


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("window"), "it lacks 'window'"),
        (without("counts"), "it lacks 'counts'"),
        (without("nonfinite_in_a_row"), "it lacks 'nonfinite_in_a_row'"),
        (lambda state: state | {"window": [1]}, "has no attribute"),
        (lambda state: state | {"window": {"loss": 3.0}}, "cannot unpack"),
        (lambda state: state | {"records": {"since": 0, "tallies": [{"seen": 3}]}}, "'seen'"),
        (lambda state: state | {"records": {"since": 0, "tallies": []}}, "shorter"),
        (lambda state: [state], "state cannot be read"),
    ],
)
def test_a_state_of_another_layout(run, tmp_path, change, message) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = checkpoint.list_checkpoints(copy / "checkpoints")[-1]
    for other in checkpoint.list_checkpoints(copy / "checkpoints")[:-1]:
        shutil.rmtree(other)
    (path / "state.json").write_text(json.dumps(change(checkpoint.read_state(path))))
    with pytest.raises(CheckpointError, match=message):
        train(make_tiny_config(epochs=1), ToySource(), copy, resume=True, console=QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights | {"image_projection": torch.ones(3, 3)},
            "1 of its weights.*image_projection",
        ),
        (lambda weights: weights | {"third_tower.weight": torch.ones(3)}, "1 of its weights.*third_tower"),
        (without("logit_scale"), "1 of its weights.*logit_scale"),
    ],
)
def test_weights_of_another_model(run, tmp_path, change, message) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = checkpoint.list_checkpoints(copy / "checkpoints")[-1]
    write_tensors(path / "model.safetensors", change(read_tensors(path / "model.safetensors")))
    (path / "state.json").write_text(json.dumps(without("checksums")(checkpoint.read_state(path))))
    with pytest.raises(CheckpointError, match=f"cannot go on from its newest checkpoint.*{message}"):
        train(make_tiny_config(epochs=1), ToySource(), copy, resume=True, console=QUIET)


def test_a_state_of_before_records_were_counted_goes_on(run, tmp_path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = checkpoint.list_checkpoints(copy / "checkpoints")[-1]
    older = without("scaler")(without("records")(checkpoint.read_state(path)))
    older["counts"]["skipped"] = 0
    (path / "state.json").write_text(json.dumps(older))
    train(make_tiny_config(epochs=1), ToySource(), copy, resume=True, console=QUIET)
    assert json.loads((copy / "counts.json").read_text())["since_step"] == 8


def test_what_comes_after_a_checkpoint_does_not_undo_it(tmp_path) -> None:
    """counts.json cannot be written: the checkpoint is there all the same, and people are warned."""
    (tmp_path / "run" / "counts.json").mkdir(parents=True)
    console = Console(record=True, width=1000, file=io.StringIO())
    run = train(make_tiny_config(epochs=1), ToySource(), tmp_path / "run", console=console)
    assert checkpoint.newest_good(run.checkpoints, fail)
    assert "warning: counts.json cannot be written" in console.export_text()


def test_a_run_folder_that_is_not_shared(run, tmp_path, monkeypatch) -> None:
    """The first process, on another machine, has found a checkpoint that is not here."""
    (tmp_path / "run").mkdir()
    for name in ("config.toml", "data.json"):
        shutil.copy(run / name, tmp_path / "run" / name)
    monkeypatch.setattr(Processes, "from_first", lambda self, number: 8)
    with pytest.raises(
        CheckpointError, match=r"not there for this process.*step-00000008.*all machines share"
    ):
        train(make_tiny_config(epochs=1), ToySource(), tmp_path / "run", resume=True, console=QUIET)


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_of_nobody_knows_what_run_are_not_taken(
    tmp_path, toy_source, tiny_config, resume
) -> None:
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    (run.path / "config.toml").unlink()
    with pytest.raises(ConfigError, match=r"checkpoints, and no config\.toml"):
        train(make_tiny_config(seed=5), toy_source, run.path, resume=resume, console=QUIET)
    assert not (run.path / "config.toml").exists()
