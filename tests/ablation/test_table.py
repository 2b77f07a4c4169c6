from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from measured_fakes import TOP1, measured, run_folder
from openslip.ablation import table as tables
from openslip.ablation.compute import Cost
from openslip.ablation.grid import Grid, Variant
from openslip.ablation.running import Standing
from openslip.config import Config, DataConfig
from openslip.errors import ConfigError
from openslip.evaluation import results
from openslip.evaluation.comparison import compare_models
from openslip.evaluation.measured import open_models

VALUES = {"a": (0.50, 0.52, 0.57), "b": (0.60, 0.66)}


@pytest.fixture
def grid(tmp_path) -> Grid:
    """Two variants and three seeds, of which the second variant lacks one."""
    for name, values in VALUES.items():
        for seed, value in enumerate(values):
            step = f"step-{20 if name == 'a' else 50:08}"  # trained for another time
            top5 = replace(TOP1, metric="top5", value=0.9, low=0.85, high=0.95, checkpoint=step)
            top1 = replace(TOP1, value=value, low=value - 0.1, high=value + 0.1, checkpoint=step)
            found = [top1, top5]
            folder = run_folder(tmp_path / f"{name}-seed{seed}", seed, found)
            lines = [
                {"step": 1, "position": 100, "samples_per_second": 10.0, "progress": 0.5},
                {"step": 2, "position": 200, "samples_per_second": 20.0 + 30 * seed, "progress": 1.0},
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Config(data=DataConfig(train="birds.csv"))
    return Grid(Path("g.toml"), tuple(Variant(name, config, {}) for name in VALUES), (0, 1, 2), tmp_path)


COSTS = {"a": Cost(200, 1e9, records=100), "b": Cost(200, 3e9, records=100)}


def now(grid: Grid) -> dict[str, Standing]:
    known = {run.name: Standing("finished") for run in grid.runs}
    return known | {"b-seed2": Standing("begun", 3, 9)}


def test_means_spreads_and_costs_are_those_by_hand(grid) -> None:
    found = tables.collect(grid, COSTS, now=now(grid))
    a, b = found.lines
    ((what, (name, metric)),) = found.names.items()
    assert (name, metric) == ("knn:birds", "top1")
    assert a.scores[what].value == pytest.approx(mean(VALUES["a"]))
    assert a.scores[what].spread == pytest.approx(stdev(VALUES["a"]))
    assert (a.samples, a.operations, b.operations) == (200, 2e11, 6e11)
    assert a.seconds == pytest.approx(mean([10 + 100 / 20, 10 + 100 / 50, 10 + 100 / 80]))
    assert (a.seeds, a.missing) == ((0, 1, 2), {})
    assert (b.seeds, b.missing) == ((0, 1), {2: "step 3 of 9"})
    assert b.differences[what].value == pytest.approx(mean(VALUES["b"]) - mean(VALUES["a"]))
    assert "b: 2 of 3 seeds (seed 2: step 3 of 9)." in found.notes
    text = tables.as_text(found)
    assert "200  200 G" in text
    assert "53.0 ± 3.6" in text
    assert "+10.0" in text
    assert "Intervals are for other seeds" in text
    assert "over the seeds ± their standard deviation." in text
    first = {name: Standing("finished" if name.endswith("seed0") else "new") for name in now(grid)}
    assert "standard deviation" not in tables.as_text(tables.collect(grid, COSTS, now=first))


def test_differences_are_those_of_slip_compare(grid, tmp_path) -> None:
    for name in VALUES:
        for seed in range(3):
            folder = tmp_path / f"{name}-seed{seed}"
            found = measured(seed, gain=0.5 * (name == "b"), checkpoint="step-00000050")
            folder.mkdir(exist_ok=True)
            if not (folder / "config.toml").exists():
                run_folder(tmp_path / "x", seed, ()).rename(folder / "x")
                (folder / "x" / "config.toml").rename(folder / "config.toml")
            results.keep(found, folder / "results.json")
    every = {run.name: Standing("finished") for run in grid.runs}
    line = tables.collect(grid, COSTS, now=every).lines[1]
    models, _ = open_models([str(tmp_path / f"{name}-seed*") for name in VALUES])
    known = [one for one in compare_models(*models).differences if one.after.task == "zeroshot:birds"]
    found = [one for one in line.differences.values() if one.after.task == "zeroshot:birds"]
    assert found == known
    assert not found[0].unpaired


def test_what_is_missing_or_too_much_is_said(grid, tmp_path) -> None:
    run_folder(tmp_path / "old-seed0")
    nothing = tables.collect(grid, {}, now={run.name: Standing("new") for run in grid.runs})
    assert nothing.notes[:2] == [
        "a: 0 of 3 seeds (seed 0: new; seed 1: new; seed 2: new).",
        "b: 0 of 3 seeds (seed 0: new; seed 1: new; seed 2: new).",
    ]
    assert nothing.notes[2].endswith("and not in the grid: old-seed0.")
    assert "–" in tables.as_text(nothing)
    assert [row["variant"] for row in tables.rows(nothing)] == ["a", "b"]


def test_all_metrics_and_narrow_terminals(grid) -> None:
    found = tables.collect(grid, COSTS, everything=True, now=now(grid))
    assert [metric for _, metric in found.names.values()] == ["top1", "top5"]
    narrow = tables.as_text(found, width=50).split("\n\n")
    assert narrow[0].splitlines()[0].split() == ["variant", "seeds", "samples", "FLOPs", "seconds"]
    assert narrow[1].splitlines()[1].split() == ["variant", "top-1", "top-5"]


def test_files(grid, tmp_path) -> None:
    rows = tables.rows(tables.collect(grid, COSTS, now=now(grid)))
    for name in ("t.csv", "t.json"):
        path = tmp_path / name
        tables.check_place(path)
        tables.write_rows(rows, path)
        tables.check_place(path)  # a table may be replaced
    with open(tmp_path / "t.csv", newline="") as file:
        a, b = csv.DictReader(file)
    assert json.loads((tmp_path / "t.json").read_text()) == rows
    assert (b["variant"], b["seeds"], b["missing_seeds"], b["against"]) == ("b", "2", "2", "a")
    assert float(b["difference"]) == pytest.approx(0.1)
    assert (a["against"], a["operations"]) == ("", "200000000000.0")
    (tmp_path / "mine.csv").write_text("other,things\n")
    for name in ("mine.csv", "t.txt", "no/t.csv"):
        with pytest.raises(ConfigError):
            tables.check_place(tmp_path / name)


def test_the_expected_time_follows_from_runs_that_are_finished(grid) -> None:
    text = tables.plan_text(grid, COSTS, now(grid))
    lines = text.splitlines()
    assert lines[0].startswith("6 runs: 2 variants, seeds 0, 1, 2, in ")
    spent = sum(10 + 100 / (20 + 30 * seed) for seed in range(3)) + sum(
        10 + 100 / (20 + 30 * s) for s in (0, 1)
    )
    rate = (3 * 2e11 + 2 * 6e11) / spent
    assert f"about {2e11 / rate:.3g} s" in lines[4]
    assert lines[-1].endswith("step 3 of 9")
    assert "–" in tables.plan_text(grid, COSTS, {run.name: Standing("new") for run in grid.runs})
