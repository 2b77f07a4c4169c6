from __future__ import annotations

import csv
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result, results
from openslip.evaluation.ledger import Ledger

BIRDS = Result(
    "zeroshot:birds",
    "top1",
    0.5,
    10,
    0.2,
    0.8,
    1,
    "/data/birds",
    "test",
    "default",
    "",
    "step-00000004",
    "12ab",
)
OTHERS: dict[str, Any] = {
    "task": "knn:birds",
    "metric": "top5",
    "data": "/other/birds",
    "split": "val",
    "prompts": 'a "photo" of a {}, | say',
    "settings": "k=5",
    "checkpoint": "step-00000008",
    "content": "34cd",
}


def test_other_measurements_stand_beside_and_the_same_one_is_replaced(tmp_path):
    path = tmp_path / "results.json"
    results.keep([BIRDS], path)
    others = [replace(BIRDS, **{field: value}) for field, value in OTHERS.items()]
    results.keep(others, path)
    assert results.read(path) == [BIRDS, *others]
    again = replace(BIRDS, value=0.6, count=12)
    results.keep([again], path)
    assert results.read(path) == [*others, again]


def test_files_of_earlier_versions_are_read_and_stay(tmp_path):
    path = tmp_path / "results.json"
    old = {"task": "zeroshot:birds", "metric": "top1", "value": 0.4, "count": 9, "low": 0.2, "high": 0.7}
    path.write_text(json.dumps([old]))
    results.keep([BIRDS], path)
    assert results.read(path) == [Result("zeroshot:birds", "top1", 0.4, 9, 0.2, 0.7), BIRDS]


def test_a_value_that_is_no_number_is_kept_and_shown_without_a_unit(tmp_path):
    path = tmp_path / "results.json"
    none = replace(BIRDS, value=math.nan, low=math.nan, high=math.nan)
    results.keep([none], path)
    (again,) = results.read(path)
    assert math.isnan(again.value)
    assert results.cells(again)[1:3] == ("–", "–")
    assert results.cells(replace(BIRDS, value=math.nan))[1] == "–"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "out.json")
    with pytest.raises(ConfigError, match="holds something else, or is no regular file"):
        Ledger(None, tmp_path / "out.json")


def test_many_at_once_lose_nothing(tmp_path):
    path = tmp_path / "results.json"
    tasks = [replace(BIRDS, task=f"knn:{i}") for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda result: results.keep([result], path), tasks))
    assert {result.task for result in results.read(path)} == {result.task for result in tasks}


def test_csv_has_all_fields(tmp_path):
    others = [replace(BIRDS, **{field: value}) for field, value in OTHERS.items()]
    results.save(others, tmp_path / "out.CSV")
    with open(tmp_path / "out.CSV", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in result.to_dict().items()} for result in others] == rows


def test_the_table_tells_measurements_apart():
    printed = results.table([BIRDS, replace(BIRDS, data="/other/birds"), replace(BIRDS, metric="top5")])
    assert [line.split()[0] for line in printed.splitlines()[2:]] == [
        "zeroshot:data/birds",
        "zeroshot:other/birds",
        "zeroshot:data/birds",
    ]


# The ledger


def test_a_ledger_keeps_each_task_as_it_comes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    results.save([replace(BIRDS, task="linear:birds")], run / "results.json")
    ledger = Ledger(run, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    second = replace(BIRDS, task="knn:birds")
    assert ledger.add([BIRDS]) == []
    assert results.read(tmp_path / "out.json") == [BIRDS]
    assert ledger.add([second]) == []
    assert results.read(tmp_path / "out.json") == [BIRDS, second]
    assert [r.task for r in results.read(run / "results.json")] == [
        "linear:birds",
        "zeroshot:birds",
        "knn:birds",
    ]
    assert ledger.files == [run / "results.json", tmp_path / "out.json"]


def test_a_run_that_cannot_be_written_is_said_and_measured(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("openslip.evaluation.ledger.unwritable", lambda path: "Read-only file system")
    ledger = Ledger(tmp_path / "run")
    assert "Read-only file system" in ledger.notes[0]
    assert "--out FILE" in ledger.notes[0]
    assert ledger.add([BIRDS]) == []
    assert ledger.files == []


def test_a_disk_that_fills_is_told_and_does_not_stop_the_next_task(tmp_path, monkeypatch):
    ledger = Ledger(None, tmp_path / "out.json")
    with monkeypatch.context() as patch:
        patch.setattr(
            results, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        (error,) = ledger.add([BIRDS])
    assert "No space left" in str(error)
    assert ledger.add([replace(BIRDS, task="knn:birds")]) == []
    assert len(results.read(tmp_path / "out.json")) == 2


def test_a_broken_results_file_is_known_at_the_start(tmp_path):
    (tmp_path / "results.json").write_text('{"not": "results"}')
    with pytest.raises(EvaluationError, match="does not hold results"):
        Ledger(tmp_path)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.txt", "JSON or CSV"),
        ("out.xlsx", "JSON or CSV"),
        ("nowhere/out.json", "not there"),
        ("folder", "There is a folder at"),
        ("folder.csv", "There is a folder at"),
        ("file.json/out.json", "not there"),
        ("captions.csv", "holds something else"),
        ("other.json", "holds something else"),
        ("run/results.json", "keeps the new results anyway"),
        ("run/../run/results.json", "keeps the new results anyway"),
    ],
)
def test_an_out_that_cannot_be_is_refused_and_nothing_is_touched(tmp_path, out, message):
    for folder in ("folder", "folder.csv", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file.json").write_text("[]")
    (tmp_path / "captions.csv").write_text("image,caption\na.png,a cat\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        Ledger(tmp_path / "run", tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name", ["new", "new.json", "new.csv", "empty.csv", "old.json", "old.csv", "none.json"]
)
def test_an_out_that_is_new_or_holds_results_is_written(tmp_path, name):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "none.json").write_text("[]\n")
    for old in ("old.json", "old.csv"):
        results.save([BIRDS], tmp_path / old)
    ledger = Ledger(None, tmp_path / name)
    assert ledger.add([BIRDS]) == []
    assert results.holds_results(tmp_path / name)
