"""Being asked to stop while a batch is waited for: the state between two steps is saved, and the run can go on."""

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from openslip.data.record import Batch
from openslip.errors import DataError
from openslip.processes import Processes
from openslip.training.signals import Interrupted, Stopped, StopSignal, stop_signals
from openslip.training.train import train
from openslip.training.trainer import Trainer
from openslip.training.watching.speed import Speed
from toys import ToySource, make_tiny_config, plan_of
from training.runs import QUIET, same, weights


@dataclass(eq=False)
class Hanging(ToySource):
    """Gives no more records once its `stop` exists; says so by making `hung`."""

    stop: str = ""

    def __getitem__(self, index):
        if os.path.exists(self.stop):
            open(f"{self.stop}-hung", "w").close()
            time.sleep(1000)
        return super().__getitem__(index)


def ask_when(path, then: float = 0.2) -> None:
    """Send this process SIGTERM soon after the file is there."""

    def ask() -> None:
        while not path.exists():
            time.sleep(0.02)
        time.sleep(then)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_waits_for_data_saves_and_leaves(tmp_path, tiny_config, monkeypatch, workers) -> None:
    stop = tmp_path / "stop"
    config = replace(tiny_config, data=replace(tiny_config.data, workers=workers, prefetch=1))
    original = Trainer._train_on

    def train_step(self, batch):
        original(self, batch)
        if self.state.step == 3:
            stop.touch()

    ask_when(tmp_path / "stop-hung")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_on", train_step)
        with pytest.raises(Interrupted, match=r"after step \d+ of 16.*--resume"):
            train(config, Hanging(stop=str(stop)), tmp_path / "run", console=QUIET)
    stop.unlink()
    run = train(tiny_config, Hanging(stop=str(stop)), tmp_path / "run", resume=True, console=QUIET)
    whole = train(tiny_config, Hanging(stop=str(stop)), tmp_path / "whole", console=QUIET)
    assert same(weights(run), weights(whole))


def test_a_rehearsal_that_waits_for_data_leaves(tmp_path, tiny_config) -> None:
    stop = tmp_path / "stop"
    config = replace(tiny_config, training=replace(tiny_config.training, budget="1h"))
    threading.Timer(0.5, stop.touch).start()
    ask_when(tmp_path / "stop-hung")
    with pytest.raises(Interrupted, match=r"first steps were timed|after step"):
        train(config, Hanging(stop=str(stop)), tmp_path / "run", console=QUIET)


def hang_in(monkeypatch, step: int, path) -> None:
    """Let the step after `step` hang, as one that compiles, when it has made `path`."""
    original = Trainer._train_on

    def train_step(self, batch):
        if self.state.step == step and not path.exists():
            path.touch()
            time.sleep(2)
        original(self, batch)

    monkeypatch.setattr(Trainer, "_train_on", train_step)


def test_a_first_step_is_left_half_done(tmp_path, toy_source, tiny_config, monkeypatch) -> None:
    """There is nothing to save, and nothing that would keep the same command from starting again."""
    with monkeypatch.context() as patch:
        hang_in(patch, 0, tmp_path / "hangs")
        ask_when(tmp_path / "hangs")
        with pytest.raises(Interrupted, match="before the first of 16 steps was done"):
            train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "checkpoints").exists()
    run = train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    assert same(weights(run), weights(train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)))


@pytest.mark.parametrize(("step", "saved"), [(5, 5), (6, 7)])  # a checkpoint every five steps
def test_a_later_step_is_left_half_done_only_where_all_is_saved(
    tmp_path, toy_source, tiny_config, monkeypatch, step, saved
) -> None:
    with monkeypatch.context() as patch:
        hang_in(patch, step, tmp_path / "hangs")
        ask_when(tmp_path / "hangs")
        with pytest.raises(Interrupted, match=f"after step {saved} of 16; the state is saved"):
            train(tiny_config, toy_source, tmp_path / "run", console=QUIET)
    run = train(tiny_config, toy_source, tmp_path / "run", resume=True, console=QUIET)
    assert same(weights(run), weights(train(tiny_config, toy_source, tmp_path / "whole", console=QUIET)))


def test_a_loader_that_the_signal_ends_too_costs_nothing(tmp_path, tiny_config) -> None:
    """As of `timeout`, which sends SIGTERM to all processes: the loader's may be gone before this one hears of it."""

    def ended() -> Generator[Batch]:
        trainer.stop.asked = True
        raise DataError("A loader process ended unexpectedly")
        yield

    trainer = Trainer.__new__(Trainer)
    trainer.stop, trainer.speed = StopSignal(), Speed.__new__(Speed)
    trainer.speed.phases = lambda _: nullcontext()  # type: ignore
    writer = SimpleNamespace(busy=False, settle=lambda: None)
    plan = plan_of(make_tiny_config(), 64)
    trainer.state = SimpleNamespace(plan=plan, processes=Processes(), writer=writer, saved_at=0.0, step=0)  # type: ignore
    with pytest.raises(Stopped):
        trainer.step(ended())


def test_stopped_is_raised_once_and_only_where_it_may_be() -> None:
    stop = StopSignal()
    with stop_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(Stopped), stop.interrupts():
            pytest.fail("it was asked before")
        os.kill(os.getpid(), signal.SIGTERM)  # one is enough
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the key is held down, or torchrun passes it on
    held_down = StopSignal()
    with stop_signals(held_down):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert held_down.number == signal.SIGINT
    other = StopSignal()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with stop_signals(other), pytest.raises(Stopped), other.interrupts():
        time.sleep(10)
