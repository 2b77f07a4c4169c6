from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from openslip.cli import main
from openslip.cli.suite import SuiteModel, beside_the_papers
from openslip.data.labelled.imagenet import clip_names
from openslip.evaluation import Result, suite
from openslip.evaluation.outcomes import Answers
from openslip.evaluation.published import PROMPTS, asked_with
from openslip.training.train import train
from toys import ToySource, make_tiny_config, save_photos, with_loss

FEW = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a run, and an image-only one."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(make_tiny_config(epochs=1, seed=seed), ToySource(), folder / f"slip-{seed}", console=FEW)
    train(with_loss(make_tiny_config(epochs=1), "simclr"), ToySource(), folder / "simclr", console=FEW)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """The same, of which nothing has been measured."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A folder of data sets that has one of them; its pictures have two of the classes."""
    save_photos(tmp_path / "sets" / "food101", test=6)
    return tmp_path / "sets"


def measure(
    runs: Path, sets: Path, out: Path, *more: str, models: tuple[str, ...] = ("slip-*", "simclr")
) -> int:
    words = [str(runs / model) for model in models]
    return main(["evaluate", "suite", *words, "--datasets", str(sets), "--out", str(out), *more])


def results_of(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())


def test_every_model_is_measured_on_every_set_and_seeds_are_one_column(runs, sets, tmp_path, capsys) -> None:
    assert measure(runs, sets, tmp_path / "out", "--protocols", "knn", "zeroshot") == 0
    said = capsys.readouterr()
    missing = next(line for line in said.err.splitlines() if "Not on this machine" in line)
    assert missing == (  # all but the scenes, which are built in
        "Not on this machine, 40: cifar10, cifar100, cub200, sun397, cars, aircraft, dtd, pets, and 32 more "
        "(`slip datasets`). `slip datasets show cifar10` says where to get it."
    )
    assert "Model 3 of 3" in said.err
    header, _, *lines = said.out.splitlines()
    assert header.split() == ["task", "metric", "slip", "simclr", "n"]
    knn, zeroshot = lines[0], lines[1]
    assert knn.startswith("knn:food101")
    assert "±" in knn
    assert zeroshot.split()[-2:] == ["–", "12"]  # an image-only model has no texts
    found = results_of(tmp_path / "out")
    tops = [(one["group"], one["task"]) for one in found if one["metric"] == "top1"]
    assert sorted(tops) == sorted(
        [("slip", "knn:food101"), ("slip", "zeroshot:food101")] * 2 + [("simclr", "knn:food101")]
    )
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found)
    kept = {result.task for result in suite.read(runs / "slip-1" / "results.json")}
    assert kept == {"knn:food101", "zeroshot:food101"}


def test_how_exact_features_are_is_said_once_for_a_model(runs, sets, tmp_path, capsys, caplog) -> None:
    save_photos(sets / "pets", test=3)
    words = ("--protocols", "knn", "--precision", "bf16")
    assert measure(runs, sets, tmp_path / "out", *words, models=("slip-0", "slip-1")) == 0
    said = capsys.readouterr().err
    assert said.count("knn:food101: ") == said.count("knn:pets: ") == 2
    assert sum("computes in bfloat16" in record.message for record in caplog.records) == 2


def test_what_was_measured_before_is_not_measured_again(runs, sets, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    assert measure(runs, sets, out, "--protocols", "knn", models=("slip-0",)) == 0
    before = results_of(out)
    run = suite.run
    asked = []
    monkeypatch.setattr(
        suite,
        "run",
        lambda encoder, tasks, **how: asked.append([t.name for t in tasks]) or run(encoder, tasks, **how),
    )
    assert measure(runs, sets, out, "--protocols", "knn", models=("slip-0",)) == 0
    assert "knn:food101: measured before" in capsys.readouterr().err
    assert (asked, results_of(out)) == ([], before)
    assert measure(runs, sets, out, "--protocols", "knn", "--again", models=("slip-0",)) == 0
    assert asked == [["knn:food101"]]
    assert results_of(out) == before


def test_an_interrupted_suite_goes_on(runs, sets, tmp_path, monkeypatch, capsys) -> None:
    out, run = tmp_path / "out", suite.run

    def interrupted(encoder, tasks, **how):
        if sum(1 for _ in (runs / "simclr").glob("outcomes/knn*")):
            raise KeyboardInterrupt
        return run(encoder, tasks, **how)

    words = ("--protocols", "knn")
    with monkeypatch.context() as patch:
        patch.setattr(suite, "run", interrupted)
        measure(runs, sets, out, *words, models=("simclr", "slip-0"))
    assert "the same command goes on" in capsys.readouterr().err
    assert [one["model"] for one in results_of(out)][:1] == [str(runs / "simclr")]
    assert measure(runs, sets, out, *words, models=("simclr", "slip-0")) == 0
    assert {one["model"] for one in results_of(out)} == {str(runs / "simclr"), str(runs / "slip-0")}


def test_a_file_lists_tasks_with_options_and_one_that_fails_leaves_the_others(
    runs, sets, tmp_path, capsys
) -> None:
    photos = sets / "food101"
    tasks = tmp_path / "mine.toml"
    tasks.write_text(
        f'tasks = ["knn:{photos}", "knn:{tmp_path}/nowhere"]\n'
        f'[[task]]\ntask = "zeroshot:{photos}"\ntemplates = ["the {{}}"]\n'
    )
    words = ("--sets", str(tasks))
    assert measure(runs, sets, tmp_path / "out", *words, models=("slip-0",)) == 1
    assert "nowhere" in capsys.readouterr().err
    found = {(one["task"], one["prompts"]) for one in results_of(tmp_path / "out")}
    assert found == {("knn:food101", ""), ("zeroshot:food101", "the {}")}


def test_models_that_are_no_runs_have_their_results_in_the_suites_folder(runs, sets, tmp_path) -> None:
    weights = tmp_path / "mine.safetensors"
    assert main(["consolidate", str(runs / "slip-0"), "--out", str(weights)]) == 0
    out = tmp_path / "out"
    assert main(
        ["evaluate", "suite", f"mine={weights}", "--datasets", str(sets), "--out", str(out), "--protocols", "knn"]
    ) == 0  # fmt: skip
    (kept,) = out.glob("*/results.json")
    assert {result.task for result in suite.read(kept)} == {"knn:food101"}
    assert {one["group"] for one in results_of(out)} == {"mine"}


def test_a_model_that_cannot_be_loaded_leaves_the_others(runs, sets, tmp_path, capsys) -> None:
    for file in (runs / "slip-1" / "checkpoints").rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    (runs / "nothing.safetensors").write_bytes(b"")
    models = ("slip-1", "nothing.safetensors", "slip-0")
    assert measure(runs, sets, tmp_path / "out", "--protocols", "knn", models=models) == 1
    said = capsys.readouterr().err
    assert f"slip: {runs / 'slip-1'}: " in said
    assert f"slip: {runs / 'nothing.safetensors'}: " in said
    assert {one["model"] for one in results_of(tmp_path / "out")} == {str(runs / "slip-0")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sets", "nothing.toml"], "cannot be read.*nothing.toml"),
        (["--protocols", "knnn"], "Did you mean 'knn'"),
        (["--protocols", "pairs"], "fits these protocols.*pairs"),
    ],
)
def test_what_cannot_be_measured_is_an_error(runs, sets, tmp_path, capsys, words, said) -> None:
    assert measure(runs, sets, tmp_path / "out", *words, models=("slip-0",)) == 1
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        ((), 2, "No model was named"),
        (("none-*",), 1, "matches no run"),
        (("slip-0", "slip-2"), 1, r"no such file or folder.*slip-2"),
        (("slip-0", "slip-*"), 1, r"named twice.*slip-0"),
    ],
)
def test_models_that_are_not_there_are_known_before_any_is_measured(
    runs, sets, tmp_path, capsys, models, status, said
) -> None:
    assert measure(runs, sets, tmp_path / "out", models=models) == status
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_results_that_are_damaged_are_known_before_any_model_is_measured(
    runs, sets, tmp_path, capsys
) -> None:
    (runs / "slip-1" / "results.json").write_text("{")
    assert measure(runs, sets, tmp_path / "out", "--protocols", "knn", models=("slip-0", "slip-1")) == 1
    said = capsys.readouterr().err
    assert re.search(rf"does not hold results.*{runs / 'slip-1' / 'results.json'}", said)
    assert "Model 1 of 2" not in said
    assert not (tmp_path / "out").exists()


def test_runs_of_one_name_are_seeds_where_a_word_says_so(runs, sets, tmp_path) -> None:
    shutil.copytree(runs / "slip-0", runs / "more" / "slip-0")
    models, out = ("slip-0", "more/slip-0"), tmp_path / "out"
    assert measure(runs, sets, out, "--protocols", "knn", models=models) == 0
    assert {one["group"] for one in results_of(out)} == {str(runs / model) for model in models}
    words = [f"slip={runs / model}" for model in models]
    assert (
        main(["evaluate", "suite", *words, "--datasets", str(sets), "--out", str(out), "--protocols", "knn"])
        == 0
    )
    assert {one["group"] for one in results_of(out)} == {"slip"}


@pytest.mark.parametrize(
    "option", ['folds = "two"', "captions = [1]", 'label_column = ["a"]', "templates = 5", "classnames = [1]"]
)
def test_a_file_of_tasks_whose_values_are_of_another_type(tmp_path, capsys, option) -> None:
    (tmp_path / "mine.toml").write_text(f'[[task]]\ntask = "knn:scenes"\n{option}\n')
    assert main(["evaluate", "suite", str(tmp_path), "--sets", str(tmp_path / "mine.toml")]) == 1
    assert re.search(r"knn:scenes.*takes|takes.*knn:scenes", capsys.readouterr().err)


def test_the_papers_rows_stand_beside_what_was_measured_as_the_paper_did(tmp_path) -> None:
    labels = np.arange(50_000) % 1000
    said = Answers(
        labels, np.ones(50_000, int), labels[:, None], np.full((50_000, 1), np.nan, np.float32),
        np.arange(50_000), (b"",) * 50_000, clip_names(),
    )  # fmt: skip
    result = Result(
        "zeroshot:imagenet", "top1", 0.412, 50_000, 0.4, 0.42, prompts=asked_with(PROMPTS), answers=said
    )
    side: Any = SimpleNamespace(name="mine")
    told = beside_the_papers([SuiteModel("mine", side, tmp_path / "results.json", [result])])
    assert "mine: 41.2%" in told
    assert "SLIP ViT-B/16, YFCC15M, 100 epochs: 45.0%" in told
    other = replace(result, prompts="imagenet")
    assert beside_the_papers([SuiteModel("mine", side, tmp_path / "results.json", [other])]) == ""
