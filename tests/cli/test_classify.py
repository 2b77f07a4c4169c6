"""`slip classify`, from words to files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

import openslip
from finetunings import finetuned
from openslip import toml
from openslip.cli import main
from openslip.evaluation.kept_probe import Origin
from openslip.evaluation.linear import Linear
from toys import make_tiny_config, save_photos, save_toy_model, with_loss


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A run with a linear probe, labelled photos, and a folder of pictures of which one cannot be used."""
    home = tmp_path_factory.mktemp("home")
    run = Path(save_toy_model(home / "run"))
    photos = save_photos(home / "photos", test=3)
    Linear(str(photos), folder=run / "linear" / "photos", origin=Origin(str(run), run)).evaluate(
        openslip.load(run)
    )
    (home / "new").mkdir()
    for name in ("red", "blue"):
        shutil.copy(photos / "test" / name / "0.png", home / "new" / f"{name}.png")
    (home / "new" / "broken.jpg").write_bytes(b"")
    (home / "classes.txt").write_text("red\nblue\n")
    return home


@pytest.fixture(autouse=True)
def _in(home, monkeypatch) -> None:
    monkeypatch.chdir(home)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_goes_to_a_pipe_and_words_to_standard_error(capsys) -> None:
    assert main(["classify", "run", "new", "--classes", "classes.txt", "--top", "1"]) == 0
    printed = capsys.readouterr()
    rows = rows_of(printed.out)
    assert [row["picture"] for row in rows] == ["new/blue.png", "new/broken.jpg", "new/red.png"]
    assert rows[1]["error"].startswith("The image file is empty")
    assert rows[1]["class"] == ""
    expected = openslip.ZeroShotClassifier(openslip.load("run"), ["red", "blue"])("new/red.png")
    assert float(rows[2]["probability_1"]) == pytest.approx(float(expected.max()), rel=1e-4)
    assert rows[2]["class"] == ("red", "blue")[int(expected.argmax())]
    assert "3 pictures: 2 in" in printed.err
    assert "1 cannot be used" in printed.err
    assert "new/broken.jpg" in printed.err


def test_a_terminal_gets_lines(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["classify", "run", "new", "--classes", "red,blue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "%" in lines[0]
    assert "cannot be used" in lines[1]


def test_a_kept_probe_and_every_kind_of_table(tmp_path, capsys) -> None:
    outs = [tmp_path / f"labels{ending}" for ending in (".csv", ".jsonl", ".parquet")]
    for out in outs:
        assert main(["classify", "run/linear/photos", "new", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"Answers in {outs[0]}." in printed.err
    told = [
        rows_of(outs[0].read_text()),
        [json.loads(line) for line in outs[1].read_text().splitlines()],
        pq.read_table(outs[2]).to_pylist(),
    ]
    for rows in told:
        assert [row["class"] or "" for row in rows] == ["blue", "", "red"]
        assert [*rows[0]][-2:] == ["probability_2", "error"]  # there are no three classes


def test_a_damaged_probe_is_said_to_be_one(tmp_path, capsys) -> None:
    place = Path(shutil.copytree("run/linear/photos", tmp_path / "photos"))
    for content in ((place / "probe.safetensors").read_bytes()[:-5], b""):
        (place / "probe.safetensors").write_bytes(content)
        assert main(["classify", str(place), "new"]) == 1
        assert "linear probe cannot be read" in capsys.readouterr().err


def test_a_finetuned_classifier(tmp_path, capsys) -> None:
    kept = finetuned(tmp_path)
    assert main(["classify", str(kept), "new", "--top", "3"]) == 0
    assert set(rows_of(capsys.readouterr().out)[0]["top_1"].split("|")) <= {"dark blue", "green", "red"}
    assert main(["classify", str(kept), "new", "--classes", "a,b"]) == 1
    assert "brings its own classes" in capsys.readouterr().err


def test_sorted_twice_is_sorted_once(tmp_path, capsys) -> None:
    into, out = tmp_path / "sorted", tmp_path / "labels.csv"
    words = ["classify", "run/linear/photos", "new", "--sort-into", str(into), "--out", str(out)]
    assert main(words) == 0
    assert "2 copies made" in capsys.readouterr().err
    assert sorted(str(path.relative_to(into)) for path in into.rglob("*.*")) == [
        "blue/blue.png",
        "red/red.png",
    ]
    assert [row["sorted_as"] for row in rows_of(out.read_text())] == ["blue/blue.png", "", "red/red.png"]
    assert main(words) == 0
    assert "0 copies made in" in (told := capsys.readouterr().err)
    assert "2 were there" in told
    assert main([*words, "--threshold", "1", "--link"]) == 0
    assert "2 none (below 1)" in capsys.readouterr().err
    assert (into / "none" / "red.png").is_symlink()


def test_calibrated_kept_and_read_again(tmp_path, capsys) -> None:
    sample = save_photos(tmp_path / "sample", test=0)
    shutil.rmtree(sample / "test")
    for name in ("red", "blue"):  # more of each
        for i in range(12):
            shutil.copy(sample / "train" / name / f"{i}.png", sample / "train" / name / f"more{i}.png")
    file = tmp_path / "calibration.json"
    calibrate = ["--calibrate", str(sample / "train"), "--calibration", str(file)]
    assert main(["classify", "run", "--classes", "red,blue", *calibrate]) == 0
    printed = capsys.readouterr()
    assert "24 pictures chose, the other 24 say" in printed.err
    assert "no pictures of other classes" in printed.err
    assert printed.out == ""
    found = json.loads(file.read_text())
    assert found["sample"]["known"] == 48
    assert main(["classify", "run", "new", "--classes", "red,blue", "--calibration", str(file)]) == 0
    printed = capsys.readouterr()
    assert f"threshold {found['threshold']:.4g} of" in printed.err
    answers = {row["class"] for row in rows_of(printed.out)}
    assert answers <= {"red", "blue", "none", ""}
    assert main(["classify", "run", "new", "--classes", "blue,red", "--calibration", str(file)]) == 1
    assert "another classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["run"], 2, "No pictures were named"),
        (["run", "new"], 1, "no classes to choose from.*run/linear/photos"),
        (["run/linear/phots", "new"], 1, "no classes to choose from.*run/linear/photos"),
        (["run", "new", "--classes", "red"], 1, "no such file of classes"),
        (["run", "new", "--classes", "red,red"], 1, "named twice"),
        (["run", "new", "--classes", "a,b", "--templates", "no place"], 1, "once, where the class name goes"),
        (["run", "nowhere", "--classes", "a,b"], 1, "no such file or folder"),
        (["run", "new/broken.jpg", "--classes", "a,b"], 1, "None of the 1 pictures"),
        (["run", "new", "--classes", "a,b", "--threshold", "1.5"], 1, "threshold is a probability"),
        (["run", "new", "--classes", "a,b", "--top", "0"], 1, "count from 1 on"),
        (["run", "new", "--classes", "a,none", "--threshold", "0.5"], 1, "--none-class"),
        (["run", "new", "--classes", "a,b", "--none-class", "x"], 2, "has no effect.*--threshold"),
        (["run", "new", "--classes", "a,b", "--link"], 2, "has no effect.*--sort-into"),
        (
            ["run", "new", "--classes", "a,b", "--calibrate", "photos", "--threshold", "0.5"],
            2,
            "has no effect",
        ),
        (["run", "--classes", "a,b", "--calibrate", "photos", "--out", "x.csv"], 2, "has no effect"),
        (["run", "new", "--classes", "a,b", "--calibration", "gone.json"], 1, "no such calibration"),
        (["run", "new", "--classes", "a,b", "--out", "gone/labels.csv"], 1, "folder that is not there"),
        (["run", "new", "--classes", "a,b", "--sort-into", "new/sorted"], 1, "among the pictures"),
        (["run", "new", "--classes", "a,b", "--encoder", "run"], 1, "--encoder says where"),
        (["run", "new", "--classes", "a,b", "--image-column", "x"], 2, "--image-column has no effect"),
        (["run/linear/photos", "new", "--templates", "a {}"], 1, "brings its own classes"),
        (["run/linear/photos", "new", "--which", "best"], 2, "picks a checkpoint of a run"),
    ],
)
def test_what_cannot_be(words, status, told, capsys) -> None:

    assert main(["classify", *words]) == status
    printed = capsys.readouterr()
    assert re.search(told, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert not Path("new/sorted").exists()


def test_a_model_without_text_says_what_can_be_done(tmp_path, capsys) -> None:
    config = with_loss(make_tiny_config(), "simclr")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(toml.dumps(config))
    save_file(openslip.create(config).model.state_dict(), tmp_path / "run" / "model.safetensors")
    assert main(["classify", str(tmp_path / "run"), "new", "--classes", "a,b"]) == 1
    assert "no text tower" in (told := capsys.readouterr().err)
    assert "linear:FOLDER" in told


def test_an_interrupted_table_is_not_there(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "labels.csv"

    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("openslip.classifying.labels.label_pictures", interrupted)
    assert main(["classify", "run", "new", "--classes", "a,b", "--out", str(out)]) == 130
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["classify", "run", "new", "--classes", "a,b"]) == 1
    assert "`slip classify` works in one process" in capsys.readouterr().err
