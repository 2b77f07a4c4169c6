from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from measured_fakes import TOP1, run_folder
from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import results
from openslip.evaluation.measured import name_of, newest, open_measured, open_models


def test_a_run_a_file_and_a_folder_with_results_are_measured(tmp_path) -> None:
    run = run_folder(tmp_path / "mine", seed=3)
    of_run, of_file = open_measured(run), open_measured(run / "results.json")
    assert of_run.results == of_file.results == (TOP1,)
    assert (of_run.name, of_run.seed, of_file.seed) == ("mine", 3, None)
    (tmp_path / "probe").mkdir()
    results.save([TOP1], tmp_path / "probe/results.json")
    results.save([TOP1], tmp_path / "numbers.json")
    assert open_measured(tmp_path / "probe").name == "probe"
    assert open_measured(tmp_path / "numbers.json").name == "numbers"
    assert open_measured(run_folder(tmp_path / "new", found=())).results == ()


def test_patterns_and_names_are_seeds_in_the_order_of_their_numbers(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 2, 10):
        run_folder(tmp_path / f"runs/slip-seed{seed}", seed)
    (tmp_path / "runs/slip-seed0.log").write_text("no run")
    run_folder(tmp_path / "runs/slip-seed11", 11, found=())
    run_folder(tmp_path / "runs/a", 0, epochs=3)
    run_folder(tmp_path / "runs/b", 1, epochs=3)
    (slip, clip), notes = open_models(["runs/slip-*", "clip=runs/a", "clip=runs/b"])
    assert (slip.name, slip.seeds) == ("slip", [0, 2, 10])
    assert (clip.name, clip.seeds) == ("clip", [0, 1])
    assert notes == ["runs/slip-seed11 is left out: it has not been measured."]
    assert slip.describe().startswith("3 seeds 0, 2, 10: runs/slip-seed0/results.json runs/slip-seed2/")
    ((named, *_), _) = open_models(["SLIP=runs/slip-*"])
    assert (named.name, len(named.runs)) == ("SLIP", 3)


def test_folders_of_one_name_go_by_their_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("x/run", "y/run"):
        run_folder(tmp_path / place)
    models, _ = open_models(["x/run/", "y/run"])
    assert [model.name for model in models] == ["x/run", "y/run"]
    run_folder(tmp_path / "lr=0.1")
    assert open_models(["lr=0.1"])[0][0].name == "lr=0.1"  # a folder's name, and no name of a model


def test_runs_that_differ_in_more_than_the_seed_are_told_apart(tmp_path) -> None:
    run_folder(tmp_path / "a-0", 0)
    run_folder(tmp_path / "a-1", 1, batch=16)
    run_folder(tmp_path / "a-2", 2)
    models, (note,) = open_models([str(tmp_path / "a-*")])
    assert len(models[0].runs) == 3
    assert "differ in more than their seeds: training.batch 8, 16" in note
    results.save([replace(TOP1, checkpoint="step-00000019")], tmp_path / "a-2/results.json")
    _, (_, note) = open_models([str(tmp_path / "a-*")])
    assert "not all seeds were measured at the same step (step-00000019, step-00000020)" in note


def test_a_seed_that_comes_twice_is_refused(tmp_path) -> None:
    run_folder(tmp_path / "a-0", 0)
    run_folder(tmp_path / "a-1", 0)
    with pytest.raises(ConfigError, match="have the same seed") as refused:
        open_models([str(tmp_path / "a-*")])
    assert "Leave one out" in str(refused.value)


def test_files_of_results_may_be_seeds(tmp_path) -> None:
    for name in ("a1.json", "a2.json"):
        results.save([TOP1], tmp_path / name)
    models, (note,) = open_models([str(tmp_path / "a*.json")])
    assert models[0].seeds == [None, None]
    assert "files of results do not name their model" in note


def test_what_names_nothing_is_refused_in_words(tmp_path) -> None:
    run_folder(tmp_path / "runs/a")
    (tmp_path / "text.txt").write_text("hello")
    for word, told in (
        (str(tmp_path / "gone"), "There is nothing of that name"),
        (str(tmp_path / "runs"), "If they are seeds of one configuration"),
        (str(tmp_path / "x-*"), "matches no run"),
        (str(tmp_path / "text*"), "It matches 1 other paths"),
    ):
        with pytest.raises(ConfigError, match="(?i)run") as refused:
            open_models([word])
        assert told in str(refused.value)
    with pytest.raises(EvaluationError, match="does not hold results"):
        open_models([str(tmp_path / "text.txt")])
    (tmp_path / "numbers.csv").write_text("task,metric\n")
    with pytest.raises(EvaluationError, match=r"read from JSON.*--out FILE\.json"):
        open_models([str(tmp_path / "numbers.csv")])
    run_folder(tmp_path / "new-0", found=())
    with pytest.raises(ConfigError, match="has been measured"):
        open_models([str(tmp_path / "new-*")])
    (tmp_path / "runs/a/results.json").write_text(json.dumps([{"task": "x"}]))
    with pytest.raises(EvaluationError, match="does not hold results"):
        open_models([str(tmp_path / "runs/a")])


def test_the_newest_checkpoint_of_each_measurement_counts(tmp_path) -> None:
    older, other = (
        replace(TOP1, checkpoint="step-00000008"),
        replace(TOP1, metric="top5", checkpoint="step-00000008"),
    )
    run = open_measured(run_folder(tmp_path / "a", found=(TOP1, older, other)))
    assert {(result.metric, result.checkpoint) for result in run.results} == {
        ("top1", "step-00000020"),
        ("top5", "step-00000008"),
    }
    assert run.older == 1
    marked = {asdict(result)["checkpoint"] for result in newest([TOP1, older]) if result.metric == "top1"}
    assert marked == {"", "step-00000008"}
    # Results of earlier versions name no checkpoint: they are of the run's last one.
    unnamed = replace(TOP1, checkpoint="", value=0.9)
    (tmp_path / "a/checkpoints/step-00000030").mkdir(parents=True)
    results.save([TOP1, unnamed], tmp_path / "a/results.json")
    assert [result.value for result in open_measured(tmp_path / "a").results] == [0.9]


def test_a_checkpoint_folder_stands_for_its_own_results(tmp_path) -> None:
    older = replace(TOP1, checkpoint="step-00000008", value=0.3)
    run = run_folder(tmp_path / "a", found=(TOP1, older))
    folders = [run / "checkpoints" / name for name in ("step-00000008", "step-00000020")]
    for folder in folders:
        folder.mkdir(parents=True)
    (one, other), notes = open_models([*map(str, folders)])
    assert [model.runs[0].results for model in (one, other)] == [(older,), (TOP1,)]
    assert [one.name, other.name] == ["a/step-00000008", "a/step-00000020"]
    assert not notes
    assert open_measured(run / "results.json").name == "a"


def test_names_of_seeds_together() -> None:
    assert name_of(["clip-seed0", "clip-seed1"]) == "clip"
    assert name_of(["run10", "run11"]) == "run"
    assert name_of(["a", "b"]) == "a"


def test_names_with_odd_digits_are_names(tmp_path) -> None:
    for seed, name in enumerate(("run1²2", "run1a2")):
        run_folder(tmp_path / name, seed)
    ((model,), _) = open_models([str(tmp_path / "run*")])
    assert len(model.runs) == 2
    odd = replace(TOP1, checkpoint="9" * 5000)
    assert newest([TOP1, odd]) == [TOP1, replace(odd, checkpoint="")]
