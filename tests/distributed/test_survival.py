"""Runs under torchrun whose processes are killed, or asked to stop, and that go on by themselves."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.distributed.run import main as torchrun

from distributed.ranks import run_on
from forked import Command
from openslip import toml
from openslip.cli import main
from openslip.config import ObjectiveConfig
from openslip.training.saving.checkpoint import newest_good
from openslip.training.saving.run import read_lines
from toys import LOSSES, ToySource, make_tiny_config, with_loss, with_saved_teacher

LAST = "step-00000060"
LOSS = ObjectiveConfig().loss


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["path,caption"]
    for number, record in enumerate(map(ToySource().__getitem__, range(80))):
        assert isinstance(record.image, np.ndarray)
        Image.fromarray(record.image).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{record.captions[0]} of number {number}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


def train(pictures: Path, out: Path) -> list[str]:
    config = str(out.with_name("config.toml"))
    return ["train", "--config", config, "--data.train", str(pictures), "--out", str(out), "--resume"]


def new_run(folder: Path, loss: str, every: int = 4) -> Path:
    """Write the configuration of a run that saves every few steps, and return the run's folder."""
    config = with_loss(make_tiny_config(epochs=6, log_every=2), loss)
    config = with_saved_teacher(config, folder / "teacher")
    config = replace(
        config,
        data=replace(config.data, train=""),
        optimizer=replace(config.optimizer, lr=3e-4),
        checkpoint=replace(config.checkpoint, every_steps=every),
    )
    (folder / "config.toml").write_text(toml.dumps(config))
    return folder / "run"


def start(pictures: Path, out: Path, processes: int) -> Command:
    launch = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", "2", "-m", "openslip"]
    output = out.with_name("output")
    return Command(torchrun, [*launch, *train(pictures, out)], output, {"OMP_NUM_THREADS": "1"})


def workers(agent: Command) -> list[int]:
    return [pid for pid in agent.children() if b"slip" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def weights(out: Path) -> bytes:
    return (out / "checkpoints" / LAST / "model.safetensors").read_bytes()


RUNS = [(2, LOSS), pytest.param((4, LOSS), marks=pytest.mark.slow)]
RUNS += [pytest.param((2, loss), marks=pytest.mark.slow) for loss in LOSSES if loss != LOSS]


@pytest.fixture(scope="module", params=RUNS, ids=str)
def whole(request, pictures, tmp_path_factory) -> tuple[int, str, Path]:
    processes, loss = request.param
    out = new_run(tmp_path_factory.mktemp("whole"), loss)
    assert run_on(processes, main, train(pictures, out)) == [0] * processes
    return processes, loss, out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_costs_nothing(tmp_path, pictures, whole) -> None:
    """Its likes are started anew by torchrun, go on from the newest checkpoint, and end with the same weights."""
    processes, loss, uninterrupted = whole
    out = new_run(tmp_path, loss)
    with start(pictures, out, processes) as agent:
        agent.wait_for((out / "checkpoints" / "step-00000008").exists)
        os.kill(workers(agent)[-1], signal.SIGKILL)
        status, output = agent.wait(300)
    assert status == 0, output
    assert "continuing from step" in output
    assert weights(out) == weights(uninterrupted)


def test_asked_to_stop_saves_and_goes_on_with_fewer(tmp_path, pictures, whole) -> None:
    """SIGTERM, as before a preemption; then a single process goes on, with the losses of all but for rounding.

    What is saved is the state of the step they were at. torchrun kills who has not left within half a minute, which is
    what schedulers give as well.
    """
    processes, loss, uninterrupted = whole
    out = new_run(tmp_path, loss, every=100_000)
    with start(pictures, out, processes) as agent:
        agent.wait_for((out / "metrics.jsonl").exists)
        agent.send(signal.SIGTERM)
        status, output = agent.wait()
    assert status != 0
    stop = re.search(r"Stopped after step (\d+) of 60; the state is saved", output)
    assert stop, output
    stopped, warnings = int(stop[1]), list[object]()
    (newest,) = filter(None, [newest_good(out / "checkpoints", warnings.append)])
    assert newest.name == f"step-{stopped:08}"
    assert not warnings
    going_on = ["train", "--out", str(out), "--resume"]
    with Command(main, going_on, tmp_path / "alone", {"OMP_NUM_THREADS": "1"}) as alone:
        status, output = alone.wait()
    assert status == 0, output
    found, expected = (read_lines(o / "metrics.jsonl") for o in (out, uninterrupted))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, other in zip(found, expected):
        if loss == LOSS or line["step"] <= stopped + 20:  # without captions rounding errors soon have grown
            assert line["loss"] == pytest.approx(other["loss"], rel=2e-3)
