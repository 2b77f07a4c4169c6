from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ablation.grids import TASK, killed_once, quick, write_grid
from openslip import toml
from openslip.ablation.grid import load
from openslip.ablation.running import check_unchanged, run_all, standing
from openslip.ablation.table import collect
from openslip.errors import ConfigError
from openslip.training.saving.lock import held


def weights(out: Path) -> dict[str, bytes]:
    return {
        path.parts[-4]: path.read_bytes()
        for path in sorted(out.glob("*/checkpoints/step-00000004/model.safetensors"))
    }


def states(grid) -> list[str]:
    return [standing(run, grid.out).state for run in grid.runs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A grid that was trained without interruption."""
    grid = write_grid(tmp_path_factory.mktemp("whole"))
    told = []
    outcome = run_all(grid, grid.runs, command=quick, inform=told.append)
    assert (outcome.finished, outcome.failed) == (["clip-seed0", "slip-seed0"], {})
    assert told == [
        f"── 1 of 2: {grid.out / 'clip-seed0'}",
        f"── 2 of 2: {grid.out / 'slip-seed0'}",
    ]
    assert states(grid) == ["finished"] * 2
    return grid


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_weights_it_would_have_had(whole, tmp_path) -> None:
    grid = write_grid(tmp_path, '[variants.third]\nobjective.loss = "simclr"\n')
    outcome = run_all(grid, grid.runs, command=killed_once)
    assert outcome.failed == {"slip-seed0": "its process was ended by SIGKILL, step 2 of 4"}
    assert outcome.finished == ["clip-seed0", "third-seed0"]
    before = (grid.out / "clip-seed0" / "results.json").stat().st_mtime_ns
    outcome = run_all(grid, grid.runs[:2], command=killed_once)
    assert (outcome.failed, outcome.finished) == ({}, ["clip-seed0", "slip-seed0"])
    assert (grid.out / "clip-seed0" / "results.json").stat().st_mtime_ns == before  # not trained again
    found, known = weights(grid.out), weights(whole.out)
    assert len(known) == 2
    assert {name: found[name] for name in known} == known


def test_one_that_fails_is_said_and_the_others_go_on(tmp_path, capfd) -> None:
    more = '[variants.missing]\ndata.ssl = "no-such-file.tar"\n[variants.last]\nobjective.loss = "simclr"\n'
    grid = write_grid(tmp_path, more)
    outcome = run_all(grid, grid.runs[2:], command=quick)
    assert list(outcome.failed) == ["missing-seed0"]
    assert "exit status 1" in outcome.failed["missing-seed0"]
    assert outcome.finished == ["last-seed0"]


def test_a_grid_that_has_changed_is_refused(whole, tmp_path) -> None:
    (tmp_path / "base.toml").write_text((whole.path.parent / "base.toml").read_text())
    text = whole.path.read_text()

    def changed(more: str):
        path = whole.path.with_name("changed.toml")
        path.write_text(text + more)
        return load(path, whole.out)

    check_unchanged(changed("").runs, whole.out)
    check_unchanged(changed("evaluation.every_epochs = 3\n").runs, whole.out)
    for more, told in (
        ("optimizer.lr = 0.5\n", "slip-seed0: optimizer.lr = 0.5, was 0.003"),
        (
            "data.train = 'scenes:train:17'\n",
            "slip-seed0: data.train = 'scenes:train:17', was 'scenes:train:16'",
        ),
        ("data.val = '25%'\n", "slip-seed0: data.val = '25%', was ''"),
    ):
        with pytest.raises(ConfigError, match=told) as error:
            run_all(changed(more), changed(more).runs, command=quick)
        assert "another name" in str(error.value)
    check_unchanged(changed("data.train = 'scenes:train:0016'\n").runs, whole.out)  # the same scenes
    with pytest.raises(ConfigError, match=r"clip-seed0: [^\n]*\n  slip-seed0: training.epochs = 9, was 2"):
        check_unchanged(
            [
                replace(run, config=replace(run.config, training=replace(run.config.training, epochs=9)))
                for run in whole.runs
            ],
            whole.out,
        )


def test_a_task_that_is_added_is_measured_and_nothing_trained(whole, tmp_path) -> None:
    shutil.copytree(whole.out, tmp_path / "runs")
    path = whole.path.with_name("more.toml")
    path.write_text(whole.path.read_text().replace(f'"{TASK}"', f'"{TASK}", "knn:scenes:heldout:24"'))
    grid = load(path, tmp_path / "runs")
    assert states(grid) == ["unmeasured"] * 2
    before = weights(grid.out)
    outcome = run_all(grid, grid.runs[:1], command=quick)
    assert outcome.finished == ["clip-seed0"]
    assert states(grid) == ["finished", "unmeasured"]
    assert weights(grid.out) == before


def test_a_run_whose_files_are_damaged_is_named_and_the_others_go_on(whole, tmp_path) -> None:
    grid = load(whole.path, shutil.copytree(whole.out, tmp_path / "runs"))
    (grid.out / "clip-seed0" / "config.toml").write_text("[")
    told: list[str] = []
    outcome = run_all(grid, grid.runs, command=_never, inform=told.append)
    assert (list(outcome.failed), outcome.finished) == (["clip-seed0"], ["slip-seed0"])
    assert str(grid.out / "clip-seed0" / "config.toml") in outcome.failed["clip-seed0"]
    assert told == [f"clip-seed0 is left out: {outcome.failed['clip-seed0']}"]
    assert any("seed 0: its folder cannot be used" in note for note in collect(grid, {}).notes)
    (grid.out / "slip-seed0" / "results.json").write_text("{")
    assert states(grid) == ["broken"] * 2


def test_what_another_process_trains_is_left_to_it(tmp_path) -> None:
    grid = write_grid(tmp_path)
    with held(grid.out / "clip-seed0"):
        assert states(grid) == ["held", "new"]
        outcome = run_all(grid, grid.runs[:1], command=_never)
    assert (outcome.held, outcome.failed, outcome.finished) == (["clip-seed0"], {}, [])
    assert not multiprocessing.active_children()


def _never(line: list[str]) -> int:
    raise AssertionError(line)


def test_the_configuration_of_each_run_is_there_to_be_looked_at(whole) -> None:
    config = toml.load(whole.out / "configs" / "slip-seed0.toml")
    assert config == whole.runs[1].config
