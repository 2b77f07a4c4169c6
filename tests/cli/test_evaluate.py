import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from slip.cli import main
from slip.training.loop import train
from toys import make_tiny_config


@pytest.fixture
def run(tmp_path, toy_source):
    return train(make_tiny_config(epochs=1), toy_source, tmp_path / "run", console=Console(quiet=True)).path


@pytest.fixture
def photos(tmp_path):
    """Two classes that a look at the colour tells apart."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
                pixels[..., channel] = 250
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


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


def test_data_of_all_tasks_are_looked_at_before_any_is_measured(run, photos, monkeypatch, capsys) -> None:
    monkeypatch.setattr("slip.evaluation.suite.run", lambda *_, **__: pytest.fail("measured"))
    for missing in ("linear", "knn", "zeroshot", "finetune", "retrieval"):
        assert main(["evaluate", str(run), f"knn:{photos}", f"{missing}:{run / 'nowhere'}"]) == 1
        assert "nowhere" in capsys.readouterr().err


def test_what_a_model_without_text_is_not_measured_by_need_not_be_there(tmp_path, toy_source, photos) -> None:
    config = make_tiny_config(epochs=1)
    config = replace(config, objective=replace(config.objective, loss="simclr"))
    run = train(config, toy_source, tmp_path / "simclr", console=Console(quiet=True)).path
    assert main(["evaluate", str(run), f"knn:{photos}", "zeroshot:nowhere"]) == 0
    kept = {result["task"] for result in json.loads((run / "results.json").read_text())}
    assert kept == {"knn:photos"}


def test_finetunes_and_keeps_its_state(run, photos, capsys) -> None:
    assert main(["evaluate", str(run), f"finetune:{photos}"]) == 0
    assert "finetune:photos" in capsys.readouterr().out
    assert (run / "finetune" / "photos").is_dir()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "zeroshot:scenes"], "no such file or folder"),
        (["RUN"], "No task was named"),
        (["RUN", "zreoshot:scenes"], "Did you mean 'zeroshot'"),
        (["RUN", "zeroshot"], "names no data set"),
        (["RUN", "knn:nowhere/at/all"], "no labelled images at this place"),
    ],
)
def test_wrong_calls_teach(run, argv, message, capsys) -> None:
    argv = [str(run) if word == "RUN" else word for word in argv]
    assert main(["evaluate", *argv]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_report_of_a_run(run, tmp_path, capsys) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "<html" in out.read_text()
    assert main(["report", str(tmp_path), "--out", str(out)]) == 1
    assert "not a run folder" in capsys.readouterr().err


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
