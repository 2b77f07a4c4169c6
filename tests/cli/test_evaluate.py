import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import openslip
from openslip.cli import main
from openslip.evaluation.finetune import FinetuneRecipe, LinearRecipe
from openslip.training.saving import metadata
from openslip.training.train import train
from toys import make_tiny_config, save_photos, save_toy_model, toy_model


@pytest.fixture
def run(tmp_path, toy_source):
    return train(make_tiny_config(epochs=1), toy_source, tmp_path / "run", console=Console(quiet=True)).path


@pytest.fixture
def photos(tmp_path):
    """Two classes that a look at the colour tells apart."""
    return save_photos(tmp_path / "photos", test=6)


def test_prints_keeps_and_writes(run, photos, tmp_path, capsys) -> None:
    out = tmp_path / "out.json"
    assert (
        main(["evaluate", str(run), f"knn:{photos}", "zeroshot", "--data", str(photos), "--out", str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "knn:photos" in printed
    assert "zeroshot:photos" in printed
    written = json.loads(out.read_text())
    assert {r["task"] for r in written} == {"knn:photos", "zeroshot:photos"}
    assert all(r["count"] == 12 and 0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in written)
    assert json.loads((run / "results.json").read_text()) == written
    assert main(["evaluate", str(run), f"linear:{photos}", f"knn:{photos}"]) == 0
    kept = [r["task"] for r in json.loads((run / "results.json").read_text()) if r["metric"] == "top1"]
    assert sorted(kept) == ["knn:photos", "linear:photos", "zeroshot:photos"]


@pytest.fixture
def short(monkeypatch):
    """Finetunings of one epoch."""
    recipe = FinetuneRecipe(name="short", epochs=1, warmup_epochs=1, batch=8)
    monkeypatch.setattr("openslip.evaluation.finetune.run.recipe_for", lambda *_: recipe)


def results_of(run, metric="top1"):
    return [r for r in json.loads((run / "results.json").read_text()) if r["metric"] == metric]


def test_few_shot_geometry_and_the_paper_s_linear_protocol(
    run, photos, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(
        "openslip.evaluation.finetune.run.LinearRecipe", lambda: LinearRecipe(epochs=1, batch=8)
    )
    pairs = tmp_path / "pairs.csv"
    rows = [f"photos/train/{name}/{i}.png,a {name} thing {i}" for name in ("red", "blue") for i in range(4)]
    pairs.write_text("\n".join(["image,caption", *rows]))
    tasks = [f"fewshot:{photos}", f"linear:{photos}", f"geometry:{pairs}", f"retrieval:{pairs}"]
    assert main(["evaluate", str(run), *tasks, "--preset", "paper"]) == 0
    said = capsys.readouterr()
    assert re.search(r"fewshot:photos: top1@16shot|no class of photos has 16 training images", said.err)
    assert f"slip classify {run}/linear-paper/photos" in said.err
    assert main(["classify", str(run), str(photos)]) == 1
    assert f"slip classify {run}/linear-paper/photos" in capsys.readouterr().err
    assert (
        main(["export", f"{run}/linear-paper/photos", "--to", "openslip", "--out", str(tmp_path / "out")])
        == 0
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A layer on the frozen tower was trained on" in card
    assert "The tower was trained before on" in card
    metrics = {(r["task"], r["metric"]) for r in json.loads((run / "results.json").read_text())}
    assert {("fewshot:photos", "top1@4shot"), ("geometry:pairs", "alignment")} <= metrics
    (linear,) = [r for r in results_of(run) if r["task"] == "linear:photos"]
    assert linear["settings"] == "preset=paper"
    assert main(["evaluate", str(run), f"linear:{photos}"]) == 0
    assert sorted(r["settings"] for r in results_of(run) if r["task"] == "linear:photos") == [
        "",
        "preset=paper",
    ]


def test_each_set_and_each_task_has_a_line(run, photos, capsys) -> None:
    assert main(["evaluate", str(run), f"knn:{photos}", f"linear:{photos}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Measuring .*run, step-\d{8}, on \w+\.", lines[0])
    assert lines[1] == "photos: 2 classes (blue, red), 24 train, 12 test"
    assert [re.sub(r"[\d.]+%", "x", re.sub(r"\d+ s$", "0 s", line)) for line in lines[2:4]] == [
        "knn:photos: top1 x of 12, 0 s",
        "linear:photos: top1 x of 12, 0 s",
    ]
    assert lines[4].endswith("results.json.")


def test_other_sets_prompts_and_checkpoints_stand_beside(run, photos, tmp_path, capsys) -> None:
    other = shutil.copytree(photos, tmp_path / "other" / "photos")
    (other / "test/red/0.png").unlink()
    task = f"zeroshot:{photos}"
    assert main(["evaluate", str(run), task, f"zeroshot:{other}"]) == 0
    printed = capsys.readouterr().out
    assert f"zeroshot:{tmp_path.name}/photos " in printed
    assert "zeroshot:other/photos " in printed
    assert main(["evaluate", str(run), task, "--templates", "a {}.", "the {}."]) == 0
    assert [(r["data"], r["prompts"], r["count"]) for r in results_of(run)] == [
        (str(photos), "default", 12),
        (str(other), "default", 11),
        (str(photos), "a {}. | the {}.", 12),
    ]
    *_, step = sorted((run / "checkpoints").glob("step-*"))
    later = shutil.copytree(step, step.with_name("step-00000099"))
    state = json.loads((later / "state.json").read_text()) | {"step": 99}
    del state["crc"], state["checksums"]
    (later / "state.json").write_text(json.dumps(state))
    assert main(["evaluate", str(run), task]) == 0
    assert [r["checkpoint"] for r in results_of(run)] == [*[step.name] * 3, "step-00000099"]
    assert main(["evaluate", str(run), task]) == 0
    assert len(results_of(run)) == 4
    assert "content" in json.loads((run / "results.json").read_text())[0]


def test_a_copy_of_weights_and_configuration_is_measured_under_its_checkpoint(run, photos, tmp_path) -> None:
    *_, step = sorted((run / "checkpoints").glob("step-*"))
    copied = tmp_path / "copied" / "checkpoints" / step.name
    copied.mkdir(parents=True)
    shutil.copy(step / "model.safetensors", copied)
    shutil.copy(run / "config.toml", tmp_path / "copied")
    assert main(["evaluate", str(tmp_path / "copied"), f"knn:{photos}"]) == 0
    assert [r["checkpoint"] for r in results_of(tmp_path / "copied")] == [step.name]


def test_results_are_on_disk_before_they_are_printed(run, photos, tmp_path, monkeypatch) -> None:
    class Closed(Exception):
        pass

    def fails(*_: object, **__: object) -> None:
        raise Closed

    monkeypatch.setattr("openslip.evaluation.suite.table", fails)
    with pytest.raises(Closed):
        main(["evaluate", str(run), f"knn:{photos}", "--out", str(tmp_path / "out.csv")])
    assert results_of(run)
    assert (tmp_path / "out.csv").read_text().startswith("task,metric,value,")


def test_an_interruption_keeps_the_tasks_before_it(run, photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "openslip.evaluation.linear.Linear.evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    out = tmp_path / "out.json"
    tasks = [f"zeroshot:{photos}", f"knn:{photos}", f"linear:{photos}"]
    assert main(["evaluate", str(run), *tasks, "--out", str(out)]) == 130
    printed = capsys.readouterr()
    assert "2 of 3 tasks measured. Results kept in" in printed.err
    assert "knn:photos" in printed.out
    assert {r["task"] for r in json.loads(out.read_text())} == {"zeroshot:photos", "knn:photos"}
    assert {r["task"] for r in results_of(run)} == {"zeroshot:photos", "knn:photos"}


def test_a_task_that_fails_leaves_the_others_and_a_status(run, photos, tmp_path, capsys) -> None:
    broken = shutil.copytree(photos, tmp_path / "broken")
    for path in broken.glob("test/*/*"):
        path.write_bytes(b"no picture")
    assert main(["evaluate", str(run), f"knn:{broken}", f"knn:{photos}"]) == 1
    assert "slip: knn:broken: None of the 12" in capsys.readouterr().err
    assert [r["task"] for r in results_of(run)] == ["knn:photos"]


def test_a_run_that_cannot_be_written_is_measured(run, photos, short, monkeypatch, capsys, caplog) -> None:
    (run / "finetune").touch()
    monkeypatch.setattr("openslip.evaluation.ledger.unwritable", lambda path: "Read-only file system")
    assert main(["evaluate", str(run), f"finetune:{photos}"]) == 0
    printed = capsys.readouterr()
    assert "Read-only file system" in printed.err
    assert "No file keeps the results; --out FILE writes them." in printed.err
    assert "the state of the finetuning is not kept" in caplog.text
    assert "finetune:photos" in printed.out
    assert not (run / "results.json").exists()


def test_finetunings_of_two_sets_of_one_name_are_kept_apart(run, photos, short, tmp_path, caplog) -> None:
    other = shutil.copytree(photos, tmp_path / "other" / "photos")
    for path in other.glob("*/*/*.png"):
        with Image.open(path) as image:
            inverted = image.rotate(180)
        inverted.save(path)
    assert main(["evaluate", str(run), f"finetune:{photos}", f"finetune:{other}"]) == 0
    assert "differs in pictures" in caplog.text
    assert len(list((run / "finetune").iterdir())) == 2
    assert [r["data"] for r in results_of(run)] == [str(photos), str(other)]


def test_nothing_measured_is_an_error(tmp_path, toy_source, photos, capsys) -> None:
    config = make_tiny_config(epochs=1)
    config = replace(config, objective=replace(config.objective, loss="simclr"))
    run = train(config, toy_source, tmp_path / "simclr", console=Console(quiet=True)).path
    out = tmp_path / "out.json"
    assert main(["evaluate", str(run), f"zeroshot:{photos}", "retrieval:nowhere", "--out", str(out)]) == 1
    assert "no text tower, which every task needs" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_wrong_is_known_before_anything_is_measured(
    run, photos, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("openslip.evaluation.suite.run", lambda *_, **__: pytest.fail("measured"))
    task, file = f"linear:{photos}", tmp_path / "file"
    file.touch()
    assert main(["evaluate", str(run), task, "--keep", str(file)]) == 1
    assert "kept in a folder, and this is not a folder" in capsys.readouterr().err
    task = f"zeroshot:{photos}"
    for words, message in (
        (["--templates", "a photo"], "holds {} once"),
        (["--out", str(tmp_path / "no" / "out.json")], "not there"),
        (["--out", str(tmp_path)], "There is a folder at"),
        (["--out", "out.txt"], "JSON or CSV"),
    ):
        assert main(["evaluate", str(run), task, *words]) == 1
        assert message in capsys.readouterr().err
    (run / "results.json").write_text("{")
    assert main(["evaluate", str(run), task]) == 1
    assert "does not hold results" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is the device that is asked for")
def test_a_device_that_is_not_there_is_named_by_its_option(run, photos, capsys) -> None:
    assert main(["evaluate", str(run), f"knn:{photos}", "--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert "--device cuda" in error
    assert "--training.device" not in error


def test_data_of_all_tasks_are_looked_at_before_any_is_measured(run, photos, monkeypatch, capsys) -> None:
    monkeypatch.setattr("openslip.evaluation.suite.run", lambda *_, **__: pytest.fail("measured"))
    for missing in ("linear", "knn", "zeroshot", "finetune", "retrieval"):
        assert main(["evaluate", str(run), f"knn:{photos}", f"{missing}:{run / 'nowhere'}"]) == 1
        assert "nowhere" in capsys.readouterr().err


def test_data_that_cannot_be_measured_are_known_before_a_model_is_loaded(
    run, photos, tmp_path, monkeypatch, capsys
) -> None:
    weights = tmp_path / "mine.safetensors"
    assert main(["consolidate", str(run), "--out", str(weights)]) == 0
    monkeypatch.setattr("openslip.interop.load", lambda *_, **__: pytest.fail("loaded"))
    for model in (run, next((run / "checkpoints").iterdir()), weights):
        assert main(["evaluate", str(model), f"retrieval:{photos}"]) == 1
        assert "no image with a caption" in capsys.readouterr().err
    assert main(["evaluate", "timm:resnet18", f"knn:{tmp_path / 'nowhere'}"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "no-run"), f"knn:{photos}"]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_what_a_model_without_text_is_not_measured_by_need_not_be_there(tmp_path, toy_source, photos) -> None:
    config = make_tiny_config(epochs=1)
    config = replace(config, objective=replace(config.objective, loss="simclr"))
    run = train(config, toy_source, tmp_path / "simclr", console=Console(quiet=True)).path
    assert main(["evaluate", str(run), f"knn:{photos}", "zeroshot:nowhere"]) == 0
    kept = {result["task"] for result in json.loads((run / "results.json").read_text())}
    assert kept == {"knn:photos"}


def test_finetunes_and_keeps_its_state(run, photos, short, capsys) -> None:
    assert main(["evaluate", str(run), f"finetune:{photos}"]) == 0
    assert "finetune:photos" in capsys.readouterr().out
    assert (run / "finetune" / "photos").is_dir()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "zeroshot:scenes"], "no such file or folder"),
        (["RUN"], "No task was named"),
        (["RUN", "zreoshot:scenes"], "Did you mean 'zeroshot'"),
        (["RUN", "cifar10"], "zeroshot:cifar10"),
        (["RUN", "zeroshot"], "The task 'zeroshot' names no data set"),
        (["RUN", "suite"], "slip evaluate suite MODEL"),
        (["RUN", "knn:nowhere/at/all"], "no labelled images at this place"),
    ],
)
def test_wrong_calls_teach(run, argv, message, capsys) -> None:
    argv = [str(run) if word == "RUN" else word for word in argv]
    assert main(["evaluate", *argv]) == (2 if message.startswith("No task") else 1)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_report_of_a_run(run, tmp_path, capsys) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "<html" in out.read_text()
    assert main(["report", str(tmp_path), "--out", str(out)]) == 1
    assert "not a run folder" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(out), "--examples", "-1"]) == 2
    assert "fewer than 0" in capsys.readouterr().err


def test_a_table_whose_columns_are_named(run, photos, capsys) -> None:
    rows = [f"{path},a {path.parent.name} thing number {n}" for n, path in enumerate(photos.glob("test/*/*"))]
    (photos / "odd.csv").write_text("\n".join(["where,q7", *rows]) + "\n")
    task = f"retrieval:{photos / 'odd.csv'}"
    assert main(["evaluate", str(run), task]) == 1
    assert "--data.caption-column" in capsys.readouterr().err
    assert main(["evaluate", str(run), task, "--data.caption-column", "q7"]) == 0
    assert "text_recall@1" in capsys.readouterr().out
    page = ["report", str(run), "--out", str(photos / "r.html"), "--pictures", str(photos / "odd.csv")]
    assert main([*page, "--caption-column", "q7"]) == 0


def test_a_linear_probe_is_kept_and_said(photos, tmp_path, capsys) -> None:
    run = Path(save_toy_model(tmp_path / "toy"))
    assert main(["evaluate", str(run), f"linear:{photos}", f"knn:{photos}"]) == 0
    place = run / "linear" / "photos"
    assert f"The classifier is kept: slip classify {place} PICTURES" in capsys.readouterr().err
    assert {row["task"]: row["classifier"] for row in results_of(run)} == {
        "linear:photos": str(place),
        "knn:photos": "",
    }
    assert openslip.LinearClassifier(place).names == ("blue", "red")


def test_classifiers_of_what_is_no_run_are_kept_where_it_is_asked_for(photos, tmp_path, capsys) -> None:
    weights = Path(save_toy_model(tmp_path / "toy")) / "model.safetensors"
    alone = tmp_path / "alone"
    alone.mkdir()
    metadata.write_model(alone / "mine.safetensors", load_file(weights), toy_model()[1])
    words = ["evaluate", str(alone / "mine.safetensors")]
    assert main([*words, f"linear:{photos}"]) == 0
    assert "classifier is kept" not in capsys.readouterr().err
    assert [path.name for path in alone.iterdir()] == ["mine.safetensors"]
    keep = tmp_path / "kept"
    assert main([*words, f"linear:{photos}", "--keep", str(keep)]) == 0
    probe = openslip.LinearClassifier(keep / "linear" / "photos")
    assert probe.about["origin"] == {"name": "", "path": "../../../alone/mine.safetensors", "checkpoint": ""}
    assert main([*words, f"knn:{photos}", "--keep", str(keep)]) == 2
    assert "--keep has no effect here" in capsys.readouterr().err
