"""Runs in processes of their own, killed without warning, continued, and compared bit for bit."""

import itertools
import signal

import pytest

from forked import Command
from openslip.cli import main
from openslip.config import ObjectiveConfig
from toys import LOSSES, small_options

OPTIONS = [
    "scenes-tiny", "--data.train", "scenes:train:120", "--training.batch", "8", "--training.epochs", "2",
    "--views.size", "16", "--model.text.width", "32",
    "--model.image.drop-path", "0.1", "--training.log-every", "2", "--evaluation.tasks",
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


def options_of(loss: str) -> list[str]:
    """Return the options that train another loss, with small heads."""
    options = [("--objective.loss", loss)]
    for name, values in small_options(loss).items():
        options += [
            (f"--objective.{name}.{key}", str(value)) for key, value in values.items() if key == "width"
        ]
    return [word for option in options for word in option]


OTHERS = [pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES if loss != ObjectiveConfig().loss]


@pytest.fixture(scope="module", params=[ObjectiveConfig().loss, *OTHERS])
def loss(request) -> list[str]:
    return options_of(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, loss) -> bytes:
    return finish(tmp_path_factory.mktemp("runs") / "whole", *loss, "--data.workers", "0")


def test_killed_twice_and_resumed_with_other_workers(tmp_path, whole, loss) -> None:
    out = tmp_path / "run"
    for checkpoint, workers in (("step-00000008", "1"), ("step-00000020", "2")):
        with start(out, *loss, "--resume", "--data.workers", workers) as process:
            process.wait_for((out / "checkpoints" / checkpoint).exists)
            process.send(signal.SIGKILL)
            process.wait()
    assert finish(out, *loss, "--resume", "--data.workers", "0") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, whole, loss, number) -> None:
    out = tmp_path / "run"
    with start(out, *loss, "--data.workers", "1", every=0) as process:
        process.wait_for((out / "metrics.jsonl").exists)
        process.send(number)
        status, output = process.wait(60)
    assert status == 128 + number
    assert "Stopped after step" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert finish(out, *loss, "--resume") == whole
