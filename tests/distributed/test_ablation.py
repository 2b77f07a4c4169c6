"""Grids under torchrun, in two processes at the same time, and killed as a whole."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from torch.distributed.run import main as torchrun

from ablation.grids import ablate, write_grid
from forked import Command
from openslip.ablation.running import standing

pytestmark = pytest.mark.slow


def weights(out: Path) -> list[bytes]:
    paths = sorted(out.glob("*/checkpoints/step-00000004/model.safetensors"))
    assert [path.parts[-4] for path in paths] == ["clip-seed0", "slip-seed0"]
    return [path.read_bytes() for path in paths]


def start(grid, output: Path) -> Command:
    words = [str(grid.path), "--out", str(grid.out)]
    return Command(ablate, words, output, {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[bytes]:
    grid = write_grid(tmp_path_factory.mktemp("whole"))
    assert ablate([str(grid.path), "--out", str(grid.out)]) == 0
    return weights(grid.out)


def test_two_at_once_train_no_run_twice(whole, tmp_path) -> None:
    grid = write_grid(tmp_path)
    with start(grid, tmp_path / "one") as one, start(grid, tmp_path / "other") as other:
        for command in (one, other):
            status, output = command.wait()
            assert status == 0, output
    assert weights(grid.out) == whole
    for run in grid.runs:
        lines = (grid.out / run.name / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 4, lines  # steps 3 and 4, and a measurement an epoch


def test_a_grid_that_is_killed_leaves_no_run_behind_and_goes_on(whole, tmp_path) -> None:
    grid = write_grid(tmp_path)
    with start(grid, tmp_path / "one") as killed:
        killed.wait_for((grid.out / "slip-seed0" / "config.toml").exists)
        killed.process.kill()  # alone: what it has started is to notice
        killed.process.join()
    end = time.monotonic() + 60
    while standing(grid.runs[1], grid.out).state == "held":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert standing(grid.runs[1], grid.out).state in ("new", "begun", "finished")
    assert ablate([str(grid.path), "--out", str(grid.out)]) == 0
    assert weights(grid.out) == whole


def test_under_torchrun_all_processes_train_each_run_together(tmp_path) -> None:
    grid = write_grid(tmp_path)
    words = ["--standalone", "--nproc-per-node", "2", "-m", "openslip", "ablate"]
    words += [str(grid.path), "--out", str(grid.out)]
    with Command(torchrun, words, tmp_path / "output", {"OMP_NUM_THREADS": "1"}) as command:
        status, output = command.wait(400)
    assert status == 0, output
    assert output.count("2 processes (DDP") == 2
    assert [standing(run, grid.out).state for run in grid.runs] == ["finished"] * 2
    assert "slip" in output
