from __future__ import annotations

import csv
import json

import pytest

from measured_fakes import measured, run_folder
from openslip.cli import main
from openslip.evaluation import results
from openslip.evaluation.comparison import compare_models
from openslip.evaluation.measured import open_models


def run(folder, number, seed=0, gain=0.0, **training):
    made = run_folder(folder, seed, found=(), **training)
    results.keep(measured(number, count=200, gain=gain), made / "results.json")
    return str(made)


@pytest.fixture
def pair(tmp_path):
    return run(tmp_path / "weak", 0), run(tmp_path / "strong", 0, gain=2.0)


def test_who_is_ahead(pair, capsys) -> None:
    assert main(["compare", *pair]) == 0
    out, err = capsys.readouterr()
    assert not err
    lines = out.splitlines()
    assert lines[0] == f"weak: {pair[0]}/results.json"
    assert lines[3].split()[:4] == ["task", "metric", "weak", "strong"]
    assert lines[5].split()[:2] == ["zeroshot:birds", "top1"]
    assert lines[5].endswith("better")
    assert "strong is ahead of weak by " in out
    assert "Another training seed may move a number further." in out
    assert "by chance" not in out  # of one comparison
    assert main(["compare", *pair, "--all"]) == 0
    assert "Of 4 comparisons of equal models, 0.2 would be decided by chance." in capsys.readouterr().out


def test_the_exit_status_says_where_a_model_is_worse(pair, capsys) -> None:
    assert main(["compare", *pair, "--fail-if", "worse"]) == 0
    assert main(["compare", *pair[::-1], "--fail-if", "worse"]) == 1
    assert "weak is ahead" not in capsys.readouterr().out
    assert main(["compare", *pair[::-1]]) == 0


def test_everything_is_in_a_file_or_as_json(pair, tmp_path, capsys) -> None:
    assert main(["compare", *pair, "--all", "--format", "json", "--out", str(tmp_path / "c.csv")]) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = compare_models(*open_models(pair)[0], everything=True)
    assert [row["difference"] for row in rows] == [one.value for one in expected.differences]
    assert {row["model"] for row in rows} == {"strong"}
    assert {row["against"] for row in rows} == {"weak"}
    assert rows[0]["verdict"] == "better"
    assert rows[0]["paired"] is True
    with open(tmp_path / "c.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["difference_low"]) for row in table] == [row["difference_low"] for row in rows]
    assert main(["compare", *pair, "--out", str(tmp_path / "c.json")]) == 0
    assert [row["metric"] for row in json.loads((tmp_path / "c.json").read_text())] == ["top1"]


def test_several_models_and_seeds(tmp_path, capsys) -> None:
    for seed in range(3):
        run(tmp_path / f"clip-{seed}", seed, seed)
        run(tmp_path / f"slip-{seed}", seed + 10, seed, gain=2.0, epochs=3)
    other = run(tmp_path / "other", 30)
    assert main(["compare", str(tmp_path / "clip-*"), str(tmp_path / "slip-*"), other]) == 0
    out, _ = capsys.readouterr()
    assert "slip: 3 seeds 0, 1, 2: " in out
    assert "slip is ahead of clip by" in out
    assert "for other seeds (Welch's t)" in out
    assert "One side is a single run" in out
    assert "Of 2 comparisons" in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "needs two models or more"),
        (["{a}"], 2, "slip compare 'runs/clip-*' 'runs/slip-*'"),
        (["{a}", "{b}", "--by-seed"], 1, "two or more seeds, the same seeds on both sides"),
        (["{a}", "gone"], 1, "There is nothing of that name"),
        (["{a}", "{b}", "--out", "c.txt"], 1, "Results are written as JSON or CSV"),
        (["{a}", "{b}", "--fail-if", "better"], 2, "worse"),
        (["{a}", "{a}"], 1, "The same run is named twice"),
    ],
)
def test_wrong_words(pair, words, status, said, capsys) -> None:
    try:
        found = main(["compare", *(word.format(a=pair[0], b=pair[1]) for word in words)])
    except SystemExit as ended:
        found = ended.code
    assert found == status
    assert said in " ".join(capsys.readouterr().err.split())


def test_names_too_long_for_a_table_are_letters(tmp_path, capsys) -> None:
    words = [run(tmp_path / f"{letter}{'x' * 30}", number) for number, letter in enumerate("ab")]
    assert main(["compare", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"A: {words[0]}/results.json"
    assert lines[3].split()[2:4] == ["A", "B"]


def test_folders_that_a_shell_has_listed_are_told_how_to_be_seeds(tmp_path, capsys) -> None:
    words = [run(tmp_path / f"clip-{seed}", seed, seed) for seed in range(3)]
    assert main(["compare", *words]) == 0
    assert "differ in their seeds alone" in capsys.readouterr().err
