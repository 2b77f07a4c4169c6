"""What tests of whole runs share: a result, ways to end a run, and what it left."""

import os
import signal
from dataclasses import dataclass

import pytest
import torch
from rich.console import Console

from openslip.training.saving import checkpoint
from openslip.training.trainer import Trainer

TIMING = {"samples_per_second", "data_wait", "tflops", "mfu", "memory_gib"}
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class FakeResult:
    value: float
    task: str = "fake"
    metric: str = "score"

    def to_dict(self) -> dict:
        return {"task": self.task, "metric": self.metric, "value": self.value}


class Killed(BaseException):
    """Nobody handles it."""


def fail(error: Exception) -> None:
    """Takes the errors that a test must not have, where they would be reported and passed over."""
    pytest.fail(str(error))


def weights(run):
    return checkpoint.load(checkpoint.list_checkpoints(run.checkpoints)[-1])[0]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def interrupt_after(monkeypatch, step: int) -> None:
    """Send this process SIGTERM once `step` steps are done."""
    original = Trainer._train_on

    def train_step(self, batch):
        original(self, batch)
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train_on", train_step)
