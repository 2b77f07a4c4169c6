from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from slip import recipes, toml
from slip.data.sources import open_source
from slip.errors import DataError
from slip.quickstart import paint, quickstart

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
    quickstart(tmp_path, base=base, methods=("CLIP", "SimCLR"), scenes=32, console=QUIET)
    assert (tmp_path / "clip" / "results.json").stat().st_mtime_ns == written
