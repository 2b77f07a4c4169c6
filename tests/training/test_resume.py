"""Runs in processes of their own, killed without warning, continued, and compared bit for bit."""

import itertools
import signal

import pytest

from forked import Command
from openslip.cli import main

OPTIONS = [
    "scenes-tiny", "--data.train", "scenes:train:120", "--training.batch", "8", "--training.epochs", "2",
    "--views.size", "16", "--model.text.width", "32",
    "--model.image.drop-path", "0.1", "--model.ssl.width", "32", "--training.log-every", "2", "--evaluation.tasks",
]  # fmt: skip
STEPS = 30
numbers = itertools.count()


def start(out, *options, every: int = 4) -> Command:
    arguments = ["train", *OPTIONS, "--out", str(out), "--checkpoint.every-steps", str(every), *options]
    return Command(main, arguments, out.with_name(f"output-{next(numbers)}"))


def final_weights(out) -> bytes:
    return (out / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


def finish(out, *options) -> bytes:
    """Run to the end, and return the weights."""
    with start(out, *options) as process:
        status, output = process.wait()
    assert status == 0, output
    return final_weights(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return finish(tmp_path_factory.mktemp("runs") / "whole", "--data.workers", "0")


def test_killed_twice_and_resumed_with_other_workers(tmp_path, whole) -> None:
    out = tmp_path / "run"
    for checkpoint, workers in (("step-00000008", "1"), ("step-00000020", "2")):
        with start(out, "--resume", "--data.workers", workers) as process:
            process.wait_for((out / "checkpoints" / checkpoint).exists)
            process.send(signal.SIGKILL)
            process.wait()
    assert finish(out, "--resume", "--data.workers", "0") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, whole, number) -> None:
    out = tmp_path / "run"
    with start(out, "--data.workers", "1", every=0) as process:
        process.wait_for((out / "metrics.jsonl").exists)
        process.send(number)
        status, output = process.wait(60)
    assert status == 128 + number
    assert "Stopped after step" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert finish(out, "--resume") == whole
