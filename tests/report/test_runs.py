from __future__ import annotations

import json
from pathlib import Path

import pytest

from openslip.errors import CheckpointError
from openslip.report import load_run
from report_fakes import result, write_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "a", results=[result("knn:scenes/top1", 0.5)]))
    assert (run.name, run.method, run.done, run.damaged) == ("a", "SLIP", 1.0, 0)
    assert len(run.metrics) == 20
    assert run.last["position"] == 160
    assert [line["evaluation"] for line in run.evaluations] == [
        {"zeroshot:scenes/top1": 0.25},
        {"zeroshot:scenes/top1": 0.5},
    ]
    assert run.results[0].key == "knn:scenes/top1"
    assert run.versions["torch"] == "2.99"


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for name in ("metrics.jsonl", "versions.json"):
        (folder / name).unlink()
    run = load_run(folder)
    assert (run.metrics, run.results, run.versions, run.done) == ((), (), {}, None)


def test_half_lines_are_counted_and_rewritten_positions_replaced(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=3)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "posi{"broken\n\xff\xfe\n[1]\n\n')
        file.write(b'{"step": 2, "position": 16, "epoch": 0.2, "loss": 9.0}\n{"step": 4, "posit')
    run = load_run(folder)
    assert [line["position"] for line in run.metrics] == [8, 16, 24]
    assert run.metrics[1]["loss"] == 9.0
    assert run.damaged == 4


@pytest.mark.parametrize("text", ["{", "[1]", '[{"task": "a"}]', '{"a": 1}', "3"])
def test_results_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "results.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"results\.json"):
        load_run(folder)


def test_a_folder_that_is_no_run_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.toml"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_run(tmp_path / "nowhere")


def test_the_runs_in_a_folder_and_around_a_place_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").touch()
    with pytest.raises(CheckpointError, match=r"no config\.toml.*`slip report \S*runs/a \S*runs/b`"):
        load_run(tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"It is a file.*`slip report \S*runs/a`"):
        load_run(tmp_path / "runs" / "a" / "config.toml")
    with pytest.raises(CheckpointError, match=r"`slip report \S*runs/a`"):
        load_run(tmp_path / "runs" / "a" / "checkpoints")


def test_a_configuration_with_an_unknown_key(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "config.toml").write_text("nmae = 'x'\n")
    with pytest.raises(CheckpointError, match="Did you mean 'name'"):
        load_run(folder)


def test_the_log_says_how_far_and_how_long(tmp_path: Path) -> None:
    whole, half = load_run(write_run(tmp_path / "a")), load_run(write_run(tmp_path / "b", steps=19))
    assert (whole.complete, half.complete) == (True, False)
    assert whole.seconds == pytest.approx(160 / 100)
    assert load_run(write_run(tmp_path / "c", steps=0)).seconds is None


def test_a_long_run_that_is_nearly_through_is_not_complete(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=1)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": 9995, "position": 79960, "progress": 0.9995}) + "\n"
    )
    assert not load_run(folder).complete


@pytest.mark.parametrize("text", ["[", "[]", '{"train": [{}]}', '{"train": 3}', "{}"])
def test_what_tells_the_data_apart_may_be_damaged(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "data.json").write_text(text)
    assert not load_run(folder).data


def test_numbers_that_are_not_finite_do_not_stop_the_reading(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", steps=2)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, "position": 24, "epoch": 0.3, "loss": float("nan")}) + "\n")
    assert load_run(folder).last["position"] == 24
