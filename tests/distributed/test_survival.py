"""Runs under torchrun whose processes are killed, or asked to stop, and that go on by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slip.training.run import read_lines

OPTIONS = [
    "scenes-tiny", "--data.train", "scenes:train:120", "--training.batch", "8", "--training.epochs", "10",
    "--views.size", "16", "--model.image.name", "vit", "--model.image.patch", "8", "--model.image.width", "16",
    "--model.image.depth", "2", "--model.image.heads", "2", "--model.image.drop-path", "0.1",
    "--model.text.width", "32", "--model.ssl.width", "32", "--checkpoint.every-steps", "4",
    "--training.log-every", "2", "--data.workers", "0", "--optimizer.lr", "3e-4", "--evaluation.tasks",
]  # fmt: skip
LAST = "step-00000150"


def start(out: Path, processes: int) -> subprocess.Popen[str]:
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "--max-restarts",
        "2",
    ]
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "slip", "train", *OPTIONS, "--out", str(out), "--resume"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.02)


def workers(agent: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"slip" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def weights(out: Path) -> bytes:
    return (out / "checkpoints" / LAST / "model.safetensors").read_bytes()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def whole(request, tmp_path_factory) -> tuple[int, Path]:
    out = tmp_path_factory.mktemp("whole") / "run"
    end(start(out, request.param))
    return request.param, out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_costs_nothing(tmp_path, whole) -> None:
    """Its likes are started anew by torchrun, go on from the newest checkpoint, and end with the same weights."""
    processes, uninterrupted = whole
    out = tmp_path / "run"
    agent = start(out, processes)
    wait_for((out / "checkpoints" / "step-00000008").exists, agent)
    os.kill(workers(agent)[-1], signal.SIGKILL)
    assert "continuing from step" in end(agent)
    assert weights(out) == weights(uninterrupted)


def test_asked_to_stop_saves_and_goes_on_with_fewer(tmp_path, whole) -> None:
    """SIGTERM, as before a preemption; then a single process goes on, with the losses of all but for rounding."""
    processes, uninterrupted = whole
    out = tmp_path / "run"
    agent = start(out, processes)
    wait_for((out / "checkpoints" / "step-00000008").exists, agent)
    agent.send_signal(signal.SIGTERM)
    output, _ = agent.communicate(timeout=60)
    assert agent.returncode != 0
    assert "the state is saved" in output
    assert not (out / "checkpoints" / LAST).exists()
    alone = [sys.executable, "-m", "slip", "train", "--out", str(out), "--resume"]
    subprocess.run(alone, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found, expected = (read_lines(o / "metrics.jsonl") for o in (out, uninterrupted))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, other in zip(found, expected):
        assert line["loss"] == pytest.approx(other["loss"], rel=2e-3)
