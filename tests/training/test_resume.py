"""Runs in processes of their own, killed without warning, continued, and compared bit for bit."""

import itertools
import signal
from dataclasses import replace

import pytest

from forked import Command
from openslip import toml
from openslip.cli import main
from openslip.config import ObjectiveConfig, TowerRateConfig
from toys import LOSSES, VARIANTS, make_tiny_config, tuned, with_loss, with_saved_teacher

STEPS = 30
numbers = itertools.count()


def start(out, *options, every: int = 4) -> Command:
    config = str(out.parent / "config.toml")
    saved = ["--out", str(out), "--checkpoint.every-steps", str(every)]
    arguments = ["train", "--config", config, *saved, *options]
    return Command(main, arguments, out.with_name(f"output-{next(numbers)}"))


TUNED = "clip + 1.0 * byol"
"""The loss of a run that freezes parts of its towers, and has rates of its own for the others."""


def new_run(folder, loss: str):
    """Write the configuration of a run, of a loss or of one of VARIANTS, and return the run's folder."""
    config = with_loss(make_tiny_config(log_every=2), loss.partition(",")[0], **VARIANTS.get(loss, {}))
    config = with_saved_teacher(config, folder / "teacher")
    image = replace(config.model.image, name="test_resnet", drop_path=0.1)
    model, data = replace(config.model, image=image), replace(config.data, train="scenes:train:120")
    config = replace(config, model=model, data=data)
    if loss == TUNED:
        rates = replace(config.optimizer, text=TowerRateConfig(lr=1e-3, layer_decay=0.7))
        config = tuned(replace(config, optimizer=rates), image="2", text="0")
    (folder / "config.toml").write_text(toml.dumps(config))
    return folder / "run"


def final_weights(out) -> bytes:
    return (out / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


def finish(out, *options) -> bytes:
    """Run to the end, and return the weights."""
    with start(out, *options) as process:
        status, output = process.wait()
    assert status == 0, output
    return final_weights(out)


OTHERS = [
    pytest.param(loss, marks=pytest.mark.slow)
    for loss in (TUNED, *LOSSES, "clip, global")
    if loss != ObjectiveConfig().loss
]


@pytest.fixture(scope="module", params=[ObjectiveConfig().loss, *OTHERS])
def loss(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory, loss) -> bytes:
    return finish(new_run(tmp_path_factory.mktemp("runs"), loss), "--data.workers", "0")


def test_killed_twice_and_resumed_with_other_workers(tmp_path, whole, loss) -> None:
    out = new_run(tmp_path, loss)
    for checkpoint, workers in (("step-00000008", "1"), ("step-00000020", "2")):
        with start(out, "--resume", "--data.workers", workers) as process:
            process.wait_for((out / "checkpoints" / checkpoint).exists)
            process.send(signal.SIGKILL)
            process.wait()
    assert finish(out, "--resume", "--data.workers", "0") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, whole, loss, number) -> None:
    out = new_run(tmp_path, loss)
    with start(out, "--data.workers", "1", every=0) as process:
        process.wait_for((out / "metrics.jsonl").exists)
        process.send(number)
        status, output = process.wait(60)
    assert status == 128 + number
    assert "Stopped after step" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert finish(out, "--resume") == whole
