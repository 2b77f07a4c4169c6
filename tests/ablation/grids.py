"""A grid of runs that take moments, and what trains them in processes of their own."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import torch

import forked
from openslip import toml
from openslip.ablation.grid import Grid, load
from openslip.cli import main
from openslip.training.trainer import Trainer
from toys import make_tiny_config

TASK = "knn:scenes:test:24"


def write_grid(folder: Path, more: str = "", seeds: str = "1", **training: object) -> Grid:
    """Write and read a grid of CLIP and SLIP on 16 scenes, 4 steps each, of which every second one is saved."""
    base = make_tiny_config(**{"epochs": 2, "batch": 8, **training})
    base = replace(
        base,
        data=replace(base.data, train="scenes:train:16", decoder="pillow"),
        checkpoint=replace(base.checkpoint, every_steps=2),
    )
    folder.mkdir(exist_ok=True)
    (folder / "base.toml").write_text(toml.dumps(base))
    (folder / "grid.toml").write_text(
        f'config = "{folder / "base.toml"}"\nseeds = {seeds}\ntasks = ["{TASK}"]\n'
        f'[variants.clip]\nobjective.loss = "clip"\n[variants.slip]\n{more}'
    )
    return load(folder / "grid.toml", folder / "runs")


def quick(line: list[str]) -> int:
    """Run a command line of `slip` as tests do."""
    forked.uncounted()
    torch.set_num_threads(1)
    return main(line)


def killed_once(line: list[str]) -> int:
    """Likewise, but kill the process of SLIP's run after its third step, once."""
    out = Path(line[line.index("--out") + 1]) if "--out" in line else None
    if out is not None and out.name == "slip-seed0" and not out.exists():
        step = Trainer.step

        def last(self: Trainer, *arguments: object, **options: object) -> float:
            if self.state.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *arguments, **options)  # type: ignore[arg-type]

        Trainer.step = last  # type: ignore[method-assign]
    return quick(line)


def ablate(line: list[str]) -> int:
    """Run `slip ablate` with quick runs."""
    from openslip.ablation import running
    from openslip.cli import ablate as command

    whole = running.run_all
    running.run_all = lambda *a, **options: whole(*a, **(options | {"command": quick}))  # type: ignore[assignment]
    try:
        return command.main(line)
    finally:
        running.run_all = whole
