from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ablation.grids import ablate, write_grid
from openslip.ablation import compute
from openslip.cli import main
from openslip.errors import DataError


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path / "grid", seeds="[0, 1]")


def test_a_dry_run_says_the_plan_and_writes_nothing(grid, capsys) -> None:
    before = files(grid.path.parent)
    assert main(["ablate", str(grid.path), "--out", str(grid.out), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"4 runs: 2 variants, seeds 0, 1, in {grid.out}"
    assert [line.split()[:2] for line in out.splitlines()[4:]] == [
        ["0", "clip-seed0"],
        ["1", "slip-seed0"],
        ["2", "clip-seed1"],
        ["3", "slip-seed1"],
    ]
    assert main(["ablate", str(grid.path), "--out", str(grid.out), "--slurm"]) == 0
    assert files(grid.path.parent) == before


def test_single_runs_and_the_table(grid, capfd) -> None:
    words = [str(grid.path), "--out", str(grid.out)]
    assert ablate([*words, "--index", "1"]) == 0
    assert capfd.readouterr().out == ""
    assert ablate([*words, "--run", "clip-seed0"]) == 0
    capfd.readouterr()
    save, page = grid.out / "t.csv", grid.out / "page.html"
    options = ["--format", "json", "--save", str(save), "--report", str(page)]
    assert main(["ablate", *words, "--table", *options]) == 0
    out, err = capfd.readouterr()
    rows = json.loads(out)
    assert [(row["variant"], row["seeds"], row["missing_seeds"]) for row in rows] == [
        ("clip", 1, "1"),
        ("slip", 1, "1"),
    ]
    assert rows[1]["against"] == "clip"
    assert "clip: 1 of 2 seeds (seed 1: new)." in err
    assert save.read_text().startswith("variant,seeds,")
    assert "SLIP" in page.read_text()
    text = grid.path.read_text()
    grid.path.write_text(f"{text}\noptimizer.lr = 1.0\n")
    assert main(["ablate", *words, "--table"]) == 1
    assert "slip-seed0: optimizer.lr = 1.0, was 0.003" in capfd.readouterr().err
    assert main(["ablate", *words, "--dry-run"]) == 1
    assert "slip-seed0: optimizer.lr = 1.0, was 0.003" in capfd.readouterr().err
    grid.path.write_text(text)
    assert ablate([*words, "--index", "1"]) == 0  # finished: nothing to do
    assert "1 of 1:" not in capfd.readouterr().err


def test_a_failure_is_the_exit_status(tmp_path, capfd) -> None:
    grid = write_grid(tmp_path / "grid", 'data.val = "no-such-file.csv"\n')
    assert ablate([str(grid.path), "--out", str(grid.out)]) == 1
    out, err = capfd.readouterr()
    assert "FAILED     slip-seed0: exit status 1, new; its message is printed above" in err
    assert [line.split()[:2] for line in out.splitlines()[3:5]] == [["clip", "1"], ["slip", "0"]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--index", "4"], "Runs are 0 to 3"),
        (["--run", "clip-seed2"], "Did you mean 'clip-seed"),
        (["--dry-run", "--table"], "do not go together"),
        (["--index", "0", "--format", "json"], "No table is made with --index"),
        (["--save", "table.xls"], "Call the file .json or .csv"),
    ],
)
def test_options_that_make_no_sense(grid, options, told, capsys) -> None:
    assert main(["ablate", str(grid.path), *options]) in (1, 2)
    assert told in capsys.readouterr().err


def test_the_batch_script_trains_each_run_once(grid, tmp_path, capsys) -> None:
    assert main(["ablate", str(grid.path), "--out", str(grid.out), "--slurm"]) == 0
    script = tmp_path / "grid.sbatch"
    script.write_text(capsys.readouterr().out)
    assert "#SBATCH --array=0-3" in script.read_text()
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    expected = ["slip", "ablate", str(grid.path), "--out", str(grid.out), "--index", "2"]
    assert done.stdout.split("\n")[:-1] == expected


def test_a_table_does_without_the_data(grid, monkeypatch, capsys) -> None:
    def gone(_):
        raise DataError("The data are gone")

    monkeypatch.setattr(compute, "planned", gone)
    words = ["ablate", str(grid.path), "--out", str(grid.out)]
    assert main([*words, "--table"]) == 0
    out, err = capsys.readouterr()
    assert "clip" in out
    assert "FLOPs are taken from the logs: The data are gone" in err
    assert main(words) == 1
