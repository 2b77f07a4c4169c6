"""What only one process has to do may take longer than processes wait for each other within a step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from distributed.ranks import run_on
from slip.collectives import rank
from slip.encoder import Encoder
from slip.training import checkpoint
from slip.training.loop import train
from slip.training.processes import TIMEOUT, joined
from slip.training.tensors import Snapshot
from slip.training.writer import BackgroundWriter
from toys import ToySource, make_tiny_config


def measured(out: Path) -> list[str]:
    """Train while the first process measures for longer than the others wait in a step."""
    os.environ[TIMEOUT] = "5"

    def slowly(encoder: Encoder) -> list[Any]:
        time.sleep(8)
        return []

    train(make_tiny_config(epochs=1), ToySource(), out, evaluate=slowly, console=Console(quiet=True))
    return sorted(path.name for path in checkpoint.list_checkpoints(out / "checkpoints"))


def test_the_others_wait_while_the_first_measures(tmp_path) -> None:
    assert run_on(2, measured, tmp_path / "run")[1][-1] == "step-00000008"


def written(folder: Path, parts: int) -> list[str]:
    """Write a checkpoint, of which the first process's part is late."""
    os.environ[TIMEOUT] = "3"
    snapshot = LateSnapshot({"w": torch.ones(3)}, {"w|exp_avg": torch.zeros(3)}, {}, rank(), parts)
    with joined(torch.device("cpu")) as processes:
        writer = BackgroundWriter(folder, processes, pytest.fail)
        writer.start(1, snapshot, lambda checksums: checkpoint.commit(folder, 1, {}, checksums))
        writer.finish()
        writer.close()
    return sorted(path.name for path in checkpoint.path_of(folder, 1).iterdir())


class LateSnapshot(Snapshot):
    def write(self, folder: Path) -> list[Path]:
        if self.part == 0:
            time.sleep(5)
        return super().write(folder)


@pytest.mark.parametrize(("parts", "files"), [(1, 3), (2, 5)])
def test_the_others_wait_for_a_slow_disk(tmp_path, parts, files) -> None:
    assert [len(names) for names in run_on(2, written, tmp_path, parts)] == [files, files]
