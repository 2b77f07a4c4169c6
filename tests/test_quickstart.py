from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from openslip import recipes, toml
from openslip.config import Config
from openslip.data.sources import open_source
from openslip.errors import ConfigError, DataError
from openslip.quickstart import cost, paint, quickstart
from openslip.report import Run

QUIET = Console(quiet=True)


def test_painting_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = open_source(str(paint(tmp_path / "scenes", 7, 1)))
    shards = sorted((tmp_path / "scenes").glob("*.tar"))
    assert len(shards) == 2
    bytes_before = shards[1].read_bytes()
    shards[1].unlink()  # as if it had been stopped between the two
    again = open_source(str(paint(tmp_path / "scenes", 7, 1)))
    assert len(whole) == len(again) == 7
    assert shards[1].read_bytes() == bytes_before
    with pytest.raises(DataError, match="another conversion"):
        paint(tmp_path / "scenes", 8, 1)


def test_trains_measures_and_reports_once(tmp_path: Path, capsys) -> None:
    tiny = recipes.get("scenes-tiny")
    base = replace(
        tiny,
        data=replace(tiny.data, workers=0),
        training=replace(tiny.training, epochs=1, batch=16),
        evaluation=replace(tiny.evaluation, tasks=("zeroshot:scenes:test:24", "knn:scenes:test:24")),
    )
    report = quickstart(tmp_path, base=base, methods=("CLIP", "SimCLR"), scenes=32, console=QUIET)
    printed = capsys.readouterr().out
    assert "CLIP" in printed
    assert "SimCLR" in printed
    page = report.read_text()
    assert "CLIP, SimCLR and SLIP on the same pictures" in page
    configs = {name: toml.load(tmp_path / name / "config.toml") for name in ("clip", "simclr")}
    assert configs["clip"].objective.loss == "clip"
    assert configs["clip"].optimizer.lr == 1.5e-3
    assert configs["simclr"].optimizer.lr == tiny.optimizer.lr
    written = (tmp_path / "clip" / "results.json").stat().st_mtime_ns
    report = quickstart(tmp_path, base=base, methods=("CLIP", "SimCLR"), scenes=32, seeds=2, console=QUIET)
    assert (tmp_path / "clip" / "results.json").stat().st_mtime_ns == written
    assert toml.load(tmp_path / "clip-seed1" / "config.toml").training.seed == 1
    assert "2 seeds each" in report.read_text()
    assert "CLIP, 2 seeds" in capsys.readouterr().out


def test_how_much_more_slip_costs_is_read_from_the_logs() -> None:
    def run(*operations: float) -> Run:
        lines = [
            {"tflops": share * 1e-10, "samples_per_second": 100.0, "position": 1} for share in operations
        ]
        return Run("run", Path("run"), Config(), metrics=tuple(lines))

    assert "2.5 times as much as CLIP's" in cost({"CLIP": run(2, 2, 9), "SLIP": run(5, 5, 1)})
    assert cost({"CLIP": run(2)}) == ""
    assert cost({"CLIP": run(), "SLIP": run(5)}) == ""


def test_no_seed_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Nothing would be trained"):
        quickstart(tmp_path, seeds=0, console=QUIET)
    assert not any(tmp_path.iterdir())


def test_seeds_that_cannot_be_are_refused_before_anything_is_painted(tmp_path: Path) -> None:
    for seed, seeds in ((-1, 1), (2**63 - 1, 2)):
        with pytest.raises(ConfigError, match="training.seed must be"):
            quickstart(tmp_path / "out", seed=seed, seeds=seeds)
    assert not (tmp_path / "out").exists()
