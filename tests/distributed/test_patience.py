"""What only one process has to do may take longer than processes wait for each other within a step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distributed.ranks import run_on
from slip.collectives import rank
from slip.encoder import Encoder
from slip.training import checkpoint
from slip.training.loop import train
from slip.training.processes import TIMEOUT, joined
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
