"""Evaluations of a run: when, what they may cost, and that a kill about one changes nothing."""

import io
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from rich.console import Console

import openslip
from openslip.evaluation import Result
from openslip.training import state
from openslip.training.saving import checkpoint
from openslip.training.saving.run import RunFolder, read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from toys import make_tiny_config
from training.runs import QUIET, FakeResult, Killed, fail, interrupt_after, same, weights


def best(run: RunFolder) -> str:
    """Return the name of a run's best checkpoint."""
    found = checkpoint.best(checkpoint.list_checkpoints(run.checkpoints))
    assert found is not None
    return found.name


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
    assert best(run) == "step-00000016"
    assert json.loads((run.path / "results.json").read_text()) == [FakeResult(0.4).to_dict()]


def test_the_best_is_picked_by_a_metric_of_which_more_is_better(tmp_path, toy_source) -> None:
    values = iter([0.2, 0.9, 0.4])

    def measure(_):
        value = next(values)
        return [Result("geometry:x", "alignment", -value, 3, 0, 1), Result("knn:x", "top1", value, 3, 0, 1)]

    run = train(make_tiny_config(epochs=3), toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
    assert best(run) == "step-00000016"


@pytest.mark.parametrize("name", ["vit", "test_resnet"])
def test_what_is_measured_is_in_evaluation_mode_and_training_goes_on_as_if_nothing_was(
    tmp_path, toy_source, name
) -> None:
    """By several threads, with stochastic depth, dropped tokens and BatchNorm: those of that step's checkpoint."""
    config = make_tiny_config(epochs=2)
    image = replace(config.views.image, drop_tokens=0.5 if name == "vit" else 0.0)
    config = replace(
        config,
        views=replace(config.views, image=image, size=32),
        model=replace(config.model, image=replace(config.model.image, name=name)),
    )
    pictures = [toy_source[index].image for index in range(8)]
    seen = []

    def measure(encoder):
        with ThreadPoolExecutor(4) as pool:
            found = torch.cat(list(pool.map(encoder.encode_image, pictures)))
        saved = openslip.load(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
        alone = torch.cat([saved.encode_image(picture) for picture in pictures])
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)  # convolutions are laid out otherwise
        assert not torch.equal(found, seen[-1] if seen else -found)
        seen.append(found)
        return [FakeResult(0.5)]

    measured = train(config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
    assert len(seen) == 2
    plain = train(config, toy_source, tmp_path / "plain", console=QUIET)
    assert same(weights(measured), weights(plain))


def test_a_broken_evaluation_does_not_cost_the_weights(tmp_path, toy_source, tiny_config) -> None:
    def broken(_):
        raise RuntimeError("no such data set")

    with pytest.raises(RuntimeError, match="no such data set"):
        train(tiny_config, toy_source, tmp_path / "run", evaluate=broken, console=QUIET)
    assert checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000008"


def test_a_step_is_safe_before_it_is_measured(tmp_path, toy_source, tiny_config) -> None:
    """It is on disk when the evaluation begins, the last one too: a run that is asked to stop then leaves at once."""
    checkpoints, seen = tmp_path / "run" / "checkpoints", []

    def measure(_):
        newest = checkpoint.newest_good(checkpoints, fail)
        seen.append(newest and (newest.name, checkpoint.read_state(newest)["score"]))
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return [FakeResult(0.5)]

    def killed(*_):
        raise Killed

    default = signal.signal(signal.SIGTERM, killed)
    try:
        with pytest.raises(Interrupted, match="after step 16 of 16"):
            train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
        train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, resume=True, console=QUIET)
    finally:
        signal.signal(signal.SIGTERM, default)
    assert seen == [("step-00000008", None), ("step-00000016", None), ("step-00000016", None)]
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
        with pytest.raises((Killed, Interrupted)):
            train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, console=QUIET)
    for _ in range(2):
        run = train(tiny_config, toy_source, tmp_path / "run", evaluate=measure, resume=True, console=QUIET)
    lines = [line for line in read_lines(run.path / "metrics.jsonl") if "evaluation" in line]
    assert [(line["step"], line["evaluation"]["fake/score"]) for line in lines] == [(8, 0.5), (16, 1.0)]
    assert len(measured) == 2 + (when != "before")
    assert best(run) == "step-00000016"


@dataclass(frozen=True)
class Measured(FakeResult):
    data: str = "a.csv"


def measure(values, data: str = "a.csv"):
    """Return what measures: of each of `values` one after the other the first two metrics."""
    left = iter(values)

    def evaluate(_):
        first, second = next(left)
        return [Measured(first, metric="first", data=data), Measured(second, metric="second", data=data)]

    return evaluate


def best_of(run) -> int:
    found = checkpoint.best(checkpoint.list_checkpoints(run / "checkpoints"))
    assert found is not None
    return checkpoint.step_of(found)


@pytest.mark.parametrize(
    ("data", "metric", "best", "words"),
    [
        ("a.csv", "fake/second", 8, "picked by fake/second; a.csv.* until now by fake/first; a.csv"),
        ("b.csv", "fake/first", 16, "picked by fake/first; b.csv.* until now by .*a.csv.*are not compared"),
        ("a.csv", "fake/first", 8, ""),
    ],
)
def test_a_run_that_goes_on_with_another_metric_or_data_compares_what_can_be(
    tmp_path, toy_source, monkeypatch, data, metric, best, words
) -> None:
    config = make_tiny_config()
    config = replace(config, evaluation=replace(config.evaluation, every_epochs=0.5, best="fake/first"))
    interrupt_after(monkeypatch, 9)  # measured after 4 and 8 steps
    with pytest.raises(Interrupted):
        train(config, toy_source, tmp_path, evaluate=measure([(0.3, 0.1), (0.9, 0.8)]), console=QUIET)
    assert best_of(tmp_path) == 8
    other = replace(config, evaluation=replace(config.evaluation, best=metric))
    said = io.StringIO()
    evaluate = measure([(0.1, 0.2), (0.2, 0.3)], data)
    console = Console(file=said, width=1000)
    train(other, toy_source, tmp_path, evaluate=evaluate, resume=True, console=console)
    assert best_of(tmp_path) == best
    assert (tmp_path / "checkpoints" / "step-00000008").exists()
    assert re.search(words, said.getvalue()) if words else "picked by" not in said.getvalue()
