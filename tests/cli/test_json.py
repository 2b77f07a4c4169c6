"""`--json`: one document on standard output, whatever else a command prints."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from distributed.tiny import TINY
from measured_fakes import measured, run_folder
from openslip.cli import main
from openslip.cli.output import as_json, one_document
from openslip.evaluation import results
from toys import save_photos, save_toy_model


def test_a_document_has_what_json_has() -> None:
    document = {
        "numbers": (1, 0.5, math.nan, math.inf, -math.inf),
        "of numpy": [np.float32(0.5), np.int64(3), np.float64("nan")],
        "path": Path("a/b"), "text": "\u00e4 \u2028 \x9b", "nothing": None, "yes": np.bool_(True), 3: frozenset([4]),
    }  # fmt: skip
    text = as_json(document)
    assert text.isascii()
    assert json.loads(text) == {
        "numbers": [1, 0.5, None, None, None], "of numpy": [0.5, 3, None], "path": "a/b", "text": "\u00e4 \u2028 \x9b",
        "nothing": None, "yes": True, "3": [4],
    }  # fmt: skip


def test_everything_else_goes_to_standard_error(capsys) -> None:
    with one_document(True) as give:
        print("a table")
        give({"a": 1})
        print("where it is")
    print("afterwards")
    printed = capsys.readouterr()
    assert json.loads(printed.out.removesuffix("afterwards\n")) == {"a": 1}
    assert printed.err == "a table\nwhere it is\n"
    with one_document(False) as give:
        print("a table")
        give({"a": 1})
    assert capsys.readouterr().out == "a table\n"


def test_an_error_leaves_no_document(capsys) -> None:
    assert main(["data", "check", "nowhere.csv", "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nowhere.csv" in printed.err


def run(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0):
    """Return the document that a command prints, which has to be all that it prints, and standard error."""
    assert main([*map(str, words), "--json"]) == status
    printed = capsys.readouterr()
    assert sys.stdout is not sys.stderr
    return json.loads(printed.out), printed.err


def test_compare(tmp_path, capsys) -> None:
    folders = []
    for name, gain in (("weak", 0.0), ("strong", 2.0)):
        made = run_folder(tmp_path / name, 0, found=())
        results.keep(measured(0, count=200, gain=gain), made / "results.json")
        folders.append(made)
    rows, _ = run(capsys, "compare", *folders)
    assert [(row["metric"], row["verdict"]) for row in rows] == [("top1", "better")]
    assert main(["compare", *map(str, folders), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_evaluate(tmp_path, capsys) -> None:
    model, photos = save_toy_model(tmp_path / "toy"), save_photos(tmp_path / "photos", test=3)
    found, said = run(capsys, "evaluate", model, f"knn:{photos}")
    (result, *_) = [one for one in found["results"] if one["metric"] == "top1"]
    assert result["count"] == 6
    assert 0 <= result["low"] <= result["value"] <= result["high"] <= 1
    assert found["against"] is None
    assert "knn:photos" in said


def test_embed(tmp_path, capsys) -> None:
    model, photos = save_toy_model(tmp_path / "toy"), save_photos(tmp_path / "photos", test=3)
    (photos / "test" / "red" / "broken.png").write_bytes(b"\x89PNG")
    found, said = run(capsys, "embed", model, photos / "test", "--out", tmp_path / "vectors", "--workers", 0)
    assert (found["rows"], found["new"], found["reused"], found["gone"]) == (6, 6, 0, 0)
    assert found["folder"] == str(tmp_path / "vectors")
    (skipped,) = found["skipped"]
    assert "broken" in skipped["key"]
    assert skipped["reason"]
    assert "6 embeddings, 6 of them new" in said


def test_data_check(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = save_photos(tmp_path / "photos", test=3)
    found, said = run(
        capsys, "data", "check", photos / "test", "--processes", 1, status=1
    )  # there are no captions
    assert (found["good"], found["records"], found["without_caption"]) == (False, 6, 6)
    assert found["page"] == "check.html"
    assert found["verdict"].startswith("It cannot be trained on")
    assert "It cannot be trained on" in said
    assert {one["level"] for one in found["findings"]} <= {"stop", "fix", "know"}


def test_train(tmp_path, capsys) -> None:
    out = tmp_path / "run"
    more = [
        "knn:scenes:test:12",
        "--data.train",
        "scenes:train:16",
        "--training.budget",
        "2 steps",
        "--out",
        out,
    ]
    found, said = run(capsys, "train", *TINY, *more, "--training.log-every", 1)
    assert (found["run"], found["name"], found["loss"]) == (str(out), "scenes-tiny", "clip + 1.0 * simclr")
    assert math.isfinite(found["metrics"]["loss"])
    assert 1 <= found["metrics"]["step"] <= 2
    assert "knn:scenes" in {result["task"] for result in found["results"]}
    assert "done:" in said
