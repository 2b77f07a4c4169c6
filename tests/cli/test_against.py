from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import openslip
from openslip import toml
from openslip.cli import main
from openslip.encoder import Encoder
from openslip.evaluation import results
from openslip.evaluation.finetune import FinetuneRecipe
from openslip.training.saving import checkpoint, metadata
from toys import make_tiny_config, save_photos


@pytest.fixture
def run(tmp_path):
    """A run with one checkpoint."""
    config, folder = make_tiny_config(), tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(toml.dumps(config))
    torch.manual_seed(0)
    weights = Encoder.from_config(config).model.state_dict()
    checkpoint.save(folder / "checkpoints", 1, weights, {}, {"score": 0.5})
    return folder


@pytest.fixture
def fresh(tmp_path):
    return written(tmp_path / "fresh.safetensors")


def written(path, loss: str = ""):
    """Write a model that was never trained."""
    config = make_tiny_config()
    if loss:
        config = replace(config, objective=replace(config.objective, loss=loss))
    torch.manual_seed(9)
    metadata.write_model(path, Encoder.from_config(config).model.state_dict(), config)
    return path


@pytest.fixture
def photos(tmp_path):
    """Two classes of pictures that differ in their colour."""
    return save_photos(tmp_path / "photos", test=15)


def second_is_perfect(monkeypatch) -> None:
    """Have the model that is measured first get every class wrong by k-NN, and all others every one right."""
    from openslip.evaluation import knn

    seen: list[object] = []

    def evaluate(self, encoder):
        seen.append(encoder)
        return real(self, encoder)

    def vote(values, labels, queries, classes, **_):
        own = (np.arange(len(queries)) >= len(queries) // 2).astype(int)
        return np.eye(classes, dtype=np.float32)[1 - own if seen[-1] is seen[0] else own]

    real = knn.Knn.evaluate
    monkeypatch.setattr(knn.Knn, "evaluate", evaluate)
    monkeypatch.setattr(knn, "vote", vote)


def test_two_models_are_measured_and_compared(run, fresh, photos, tmp_path, monkeypatch, capsys) -> None:
    second_is_perfect(monkeypatch)
    out = tmp_path / "out.json"
    words = [f"knn:{photos}", "--general", f"zeroshot:{photos}", "--against", str(fresh), "--out", str(out)]
    assert main(["evaluate", str(run), *words]) == 0
    printed = capsys.readouterr()
    assert f"Before: {fresh}; after: {run}" in printed.out
    assert "Own tasks\n" in printed.out
    assert "General tasks\n" in printed.out
    line = next(line for line in printed.out.splitlines() if line.startswith("knn:photos"))
    assert line.split()[1:5] == ["top1", "0.0%", "100.0%", "+100.0"]
    assert line.endswith("better")
    assert "Better on 1 of 1 own task (knn:photos top1 0.0% → 100.0%)." in printed.out
    assert f"knn:photos ({fresh}): top1 0.0% of 30" in printed.err
    written = json.loads(out.read_text())
    first = written[0]
    assert {r["task"]: r["tasks"] for r in written} == {"knn:photos": "own", "zeroshot:photos": "general"}
    assert (first["against"], first["before"], first["value"]) == (str(fresh), 0.0, 1.0)
    assert (first["difference"], first["paired"], first["verdict"]) == (1.0, True, "better")
    assert 0 < first["difference_low"] < first["difference_high"] <= 1
    kept = json.loads((run / "results.json").read_text())
    assert [r["value"] for r in kept] == [r["value"] for r in written]
    assert not any("before" in r or "outcomes" in r for r in kept)
    assert results.read(out) == results.read(run / "results.json")


def test_measured_on_different_days_they_compare_as_in_one_command(
    run, fresh, photos, tmp_path, capsys
) -> None:
    """The pictures have moved in between."""
    both, alone = tmp_path / "both.json", tmp_path / "fresh.json"
    tasks = [f"knn:{photos}", f"zeroshot:{photos}"]
    assert main(["evaluate", str(run), *tasks, "--against", str(fresh), "--out", str(both)]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(photos, tmp_path / "elsewhere/photos")
    tasks = [f"knn:{moved}", f"zeroshot:{moved}"]
    assert main(["evaluate", str(fresh), *tasks, "--out", str(alone)]) == 0
    capsys.readouterr()
    assert main(["compare", str(alone), str(run), "--all", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(one["paired"] for one in found)
    for one, other in zip(found, json.loads(both.read_text()), strict=True):
        for field in ("task", "metric", "difference", "difference_low", "difference_high", "verdict"):
            assert one[field] == other[field]


def test_what_was_lost_points_to_the_mixtures(run, fresh, photos, tmp_path, monkeypatch, capsys) -> None:
    from openslip.evaluation.compare import Difference

    encoder = openslip.load(run)
    after = tmp_path / "after it.safetensors"
    weights = {n: t + 0.01 if t.is_floating_point() else t for n, t in encoder.model.state_dict().items()}
    metadata.write_model(after, weights, encoder.config)
    told = f"slip mix {run} '{after}' --alpha 0.25 0.5 0.75"
    words = ["evaluate", str(after), f"knn:{photos}", "--against"]
    monkeypatch.setattr(Difference, "verdict", property(lambda self: "undecided"))
    assert main([*words, str(run)]) == 0
    assert told not in capsys.readouterr().out
    monkeypatch.setattr(Difference, "verdict", property(lambda self: "worse"))
    assert main([*words, str(run)]) == 0
    printed = capsys.readouterr().out
    assert told in printed
    assert "Worse on 1 of 1 task" in printed
    for unrelated in (fresh, written(tmp_path / "other.safetensors", "simclr")):
        assert main([*words, str(unrelated)]) == 0
        assert "slip mix" not in capsys.readouterr().out


def test_a_csv_has_a_column_for_each(run, fresh, photos, tmp_path) -> None:
    out = tmp_path / "out.csv"
    assert main(["evaluate", str(run), f"knn:{photos}", "--against", str(fresh), "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert {"before", "difference_low", "verdict", "against"} <= rows[0].keys()
    assert {row["verdict"] for row in rows} <= {"better", "worse", "undecided"}
    # and is replaced as a file of results
    assert main(["evaluate", str(run), f"knn:{photos}", "--out", str(out)]) == 0
    assert "verdict" not in out.read_text()


def test_both_runs_keep_their_own_results(run, photos, tmp_path, capsys) -> None:
    base = shutil.copytree(run, tmp_path / "base")
    assert main(["evaluate", str(run), f"knn:{photos}", "--against", str(base)]) == 0
    printed = capsys.readouterr()
    assert f"{base / 'results.json'} and {run / 'results.json'}" in printed.err
    assert "Undecided on 1 of 1 task." in printed.out
    both = [results.read(folder / "results.json") for folder in (base, run)]
    assert both[0] == both[1] != []


def test_a_task_that_one_model_cannot_have_is_shown_alone(run, photos, tmp_path, capsys, caplog) -> None:
    silent = written(tmp_path / "silent.safetensors", "simclr")
    words = [f"knn:{photos}", f"zeroshot:{photos}", "--against", str(silent)]
    assert main(["evaluate", str(run), *words]) == 0
    printed = capsys.readouterr()
    assert "zeroshot:photos is left out" in caplog.text
    assert f"Not compared, of {run} alone:" in printed.out
    assert "of 1 task" in printed.out
    assert main(["evaluate", str(run), f"zeroshot:{photos}", "--against", str(silent)]) == 1
    assert f"No task can be measured on {silent}: the model has no text tower" in capsys.readouterr().err


def test_a_task_that_fails_leaves_the_others(run, fresh, photos, tmp_path, capsys) -> None:
    broken = shutil.copytree(photos, tmp_path / "broken")
    for path in broken.glob("test/*/*"):
        path.write_bytes(b"no picture")
    assert main(["evaluate", str(run), f"knn:{broken}", f"knn:{photos}", "--against", str(fresh)]) == 1
    printed = capsys.readouterr()
    assert "of 1 task" in printed.out
    assert "1 of 2 tasks measured." in printed.err


def test_an_interruption_keeps_what_was_measured(run, fresh, photos, monkeypatch, capsys) -> None:
    calls = []

    def stop(self, encoder):
        calls.append(encoder)
        raise KeyboardInterrupt

    monkeypatch.setattr("openslip.evaluation.linear.Linear.evaluate", stop)
    assert main(["evaluate", str(run), f"knn:{photos}", f"linear:{photos}", "--against", str(fresh)]) == 130
    printed = capsys.readouterr()
    assert "knn:photos" in printed.out
    assert "0 of 2 tasks measured." in printed.err
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["--against", "nowhere"], "no such file or folder", 1),
        (["--against", "RUN"], "A model is compared with itself", 1),
        (["--general", "knn:PHOTOS"], "--general has no effect here", 2),
        (["--against", "FRESH", "--general", "cifar10"], "zeroshot:cifar10", 1),
        (["--against", "FRESH", "--general", "knn:nowhere"], "no labelled images at this place", 1),
        (["--against", "FRESH", "--out", "out.txt"], "JSON or CSV", 1),
        (["--against", "PHOTOS"], "neither a run folder nor", 1),
    ],
)
def test_wrong_calls_teach_before_anything_is_measured(
    run, fresh, photos, words, message, status, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("openslip.evaluation.suite.run", lambda *_, **__: pytest.fail("measured"))
    known = {"RUN": str(run), "FRESH": str(fresh), "PHOTOS": str(photos)}
    for name, value in known.items():
        words = [word.replace(name, value) for word in words]
    assert main(["evaluate", str(run), f"knn:{photos}", *words]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_best_checkpoint_is_of_either_run(run, fresh, photos, capsys) -> None:
    words = [f"knn:{photos}", "--against", str(run), "--which", "best"]
    assert main(["evaluate", str(fresh), *words]) == 0
    assert main(["evaluate", str(fresh), f"knn:{photos}", "--against", str(photos), "--which", "best"]) == 2
    assert f"neither {fresh} nor {photos} is one" in capsys.readouterr().err


def test_a_finetuning_of_either_run_keeps_its_state_there(run, photos, tmp_path, monkeypatch) -> None:
    recipe = FinetuneRecipe(name="short", epochs=1, warmup_epochs=1, batch=8)
    monkeypatch.setattr("openslip.evaluation.finetune.run.recipe_for", lambda *_: recipe)
    base = shutil.copytree(run, tmp_path / "base")
    assert main(["evaluate", str(run), f"finetune:{photos}", "--against", str(base)]) == 0
    assert all((folder / "finetune" / "photos").is_dir() for folder in (run, base))


def test_other_words_for_the_option_are_answered(run, photos, capsys) -> None:
    assert main(["evaluate", str(run), f"knn:{photos}", "--baseline", str(run)]) == 2
    assert "--against" in capsys.readouterr().err
