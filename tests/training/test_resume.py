"""Runs in processes of their own, killed without warning, continued, and compared bit for bit."""

import signal
import subprocess
import sys
import time

import pytest

OPTIONS = [
    "scenes-tiny", "--data.train", "scenes:train:120", "--training.batch", "8", "--training.epochs", "2",
    "--views.size", "16", "--model.image.width", "32", "--model.image.depth", "2", "--model.text.width", "32",
    "--model.image.drop-path", "0.1", "--model.ssl.width", "32", "--checkpoint.every-steps", "4",
    "--training.log-every", "2", "--evaluation.tasks",
]  # fmt: skip
STEPS = 30


def start(out, *options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "slip", "train", *OPTIONS, "--out", str(out), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def final_weights(out) -> bytes:
    return (out / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(out, "--data.workers", "0")
    _, error = process.communicate()
    assert process.returncode == 0, error
    return final_weights(out)


def test_killed_twice_and_resumed_with_other_workers(tmp_path, whole) -> None:
    out = tmp_path / "run"
    for checkpoint, workers in (("step-00000008", "1"), ("step-00000020", "2")):
        process = start(out, "--resume", "--data.workers", workers)
        wait_for(lambda name=checkpoint: (out / "checkpoints" / name).exists(), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(out, "--resume", "--data.workers", "0")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert final_weights(out) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, whole, number) -> None:
    out = tmp_path / "run"
    process = start(out, "--data.workers", "1", "--checkpoint.every-steps", "0")
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped after step" in error
    assert "--resume" in error
    assert "Traceback" not in error
    process = start(out, "--resume")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert final_weights(out) == whole
