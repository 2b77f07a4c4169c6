"""Being asked to stop while a batch is waited for: the state between two steps is saved, and the run can go on."""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace

import pytest

from slip.training.loop import Interrupted, train
from slip.training.signals import Stopped, StopSignal, stop_signals
from toys import ToySource
from training.runs import QUIET, same, weights


@dataclass(frozen=True)
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
    from slip.training.learner import Learner

    stop = tmp_path / "stop"
    config = replace(tiny_config, data=replace(tiny_config.data, workers=workers, prefetch=1))
    original = Learner._train_step

    def train_step(self, batch):
        original(self, batch)
        if self.state.step == 3:
            stop.touch()

    ask_when(tmp_path / "stop-hung")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_train_step", train_step)
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
    other = StopSignal()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with stop_signals(other), pytest.raises(Stopped), other.interrupts():
        time.sleep(10)
