from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openslip.report import load_run
from openslip.report.charts import Line, thin
from openslip.report.curves import evaluation_charts, training_charts, training_note
from openslip.report.rows import rows
from openslip.report.runs import Run
from report_fakes import make_config, write_run

BATCH = 8


def log(steps: list[float], every: int) -> list[dict]:
    """Return the lines that a run writes: means over the finite steps since the line before, the last step included."""
    lines, window, lost = [], [], 0
    for step, loss in enumerate(steps, start=1):
        if math.isfinite(loss):
            window.append(loss)
        else:
            lost += 1
        if step % every == 0 or step == len(steps):
            line: dict[str, float] = {"step": step, "position": step * BATCH, "nonfinite": lost}
            if window:
                line["loss"] = line["clip_loss"] = math.fsum(window) / len(window)
            lines.append(line)
            window = []
    return lines


def run_of(folder: Path, lines: list[dict]) -> Run:
    """Return a run with these lines of a log."""
    if not folder.exists():
        write_run(folder, config=make_config("clip"))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(folder)


def clip_line(run: Run) -> Line:
    (chart,) = training_charts({row.label: row for row in rows([run])}, {"CLIP": "c0"})[:1]
    (line,) = chart.lines
    return line


finite = st.floats(-5, 5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    steps=st.lists(st.one_of(finite, finite, st.just(math.nan)), min_size=1, max_size=80),
    every=st.integers(1, 12),
)
def test_a_curve_is_the_mean_over_the_steps(tmp_path: Path, steps: list[float], every: int) -> None:
    """The slow twin: the steps themselves, each with the same say."""
    known = [loss for loss in steps if math.isfinite(loss)]
    if not known:
        return
    line = clip_line(run_of(tmp_path / "run", log(steps, every)))
    drawn = [thin(piece) for piece in line.pieces()]
    assert sum(point.weight for piece in drawn for point in piece) == len(known)
    for piece in drawn:
        begin = 0.0
        for point in piece:  # each point is the mean of the steps since the point before
            last = round(point.x / BATCH)
            first = round(begin / BATCH) if begin else last
            if begin:
                part = [loss for loss in steps[first:last] if math.isfinite(loss)]
                assert point.y == pytest.approx(math.fsum(part) / len(part))
            begin = point.x
        weights = [point.weight for point in piece]
        usual = sorted(line.weights)[len(line.weights) // 2]
        assert len(piece) == 1 or min(weights) >= min(usual / 2, 1)


def test_the_last_step_does_not_bend_the_curve(tmp_path: Path) -> None:
    line = clip_line(run_of(tmp_path / "run", log([1.0] * 100 + [9.0], every=10)))
    assert line.weights[-1] == 1
    (piece,) = (thin(piece) for piece in line.pieces())
    assert len(piece) == 10
    assert piece[-1].y == pytest.approx((10 * 1.0 + 9.0) / 11)


def test_a_run_that_diverges_ends_where_it_did(tmp_path: Path) -> None:
    line = clip_line(run_of(tmp_path / "run", log([1.0] * 40 + [math.nan] * 60, every=10)))
    assert line.x[-1] == 100 * BATCH
    assert [len(piece) for piece in line.pieces()] == [4]


def test_steps_without_self_supervision_make_no_gap(tmp_path: Path) -> None:
    lines = [
        {"step": step, "position": step * BATCH, "loss": 1.0, "clip_loss": 1.0}
        | ({"simclr_loss": 2.0} if step % 2 else {})
        for step in range(1, 9)
    ]
    run = run_of(write_run(tmp_path / "run"), lines)
    charts = training_charts({"SLIP": rows([run])[0]}, {"SLIP": "c0"})
    ssl = next(chart for chart in charts if chart.title == "Self-supervised loss")
    assert [len(piece) for piece in ssl.lines[0].pieces()] == [4]


def test_seeds_are_lines_of_one_label(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path / f"{seed}", "clip", seed=seed)) for seed in range(3)]
    table = {row.label: row for row in rows(runs)}
    for charts in (training_charts(table, {"CLIP": "c0"}), evaluation_charts(table, {"CLIP": "c0"})):
        assert charts
        for chart in charts:
            assert [line.label for line in chart.lines] == ["CLIP"] * 3
    assert "Faint" not in training_note(table)
    assert "a line each" in training_note(table)


def test_geometry_has_charts_of_its_own_scale(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    uniformity = {10: -1.5, 20: -2.25}
    lines = [
        {"step": step, "position": step * 8, "evaluation": {
            "geometry:pairs/alignment": 1.0 / step, "geometry:pairs/image_uniformity": value,
            "geometry:pairs/text_uniformity": value, "geometry:pairs/logit_scale": 14.0 + step,
        }}
        for step, value in uniformity.items()
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = {row.label: row for row in rows([load_run(run)])}
    charts = evaluation_charts(table, dict.fromkeys(table, "c0"))
    assert [(chart.title, chart.note) for chart in charts] == [
        ("Geometry, pairs", "alignment"),
        ("Geometry, pairs", "uniformity of pictures"),
    ]
    axis = [text for _, text in charts[1].figure().grid]
    assert axis[0] == "-2.40"
    assert not any("%" in text for text in axis)


def levels(runs: list[Run]) -> dict[str, list[float]]:
    """Return the marks of each chart, over samples seen, of these runs."""
    table = {row.label: row for row in rows(runs)}
    charts = training_charts(table, dict.fromkeys(table, "c0"))
    return {chart.title: [level for _, level in chart.levels] for chart in charts}


def test_chance_is_over_the_rows_that_are_contrasted(tmp_path: Path) -> None:
    both = {
        "step": 1,
        "position": 8,
        "loss": 1.0,
        "clip_loss": 1.0,
        "clip_acc": 0.5,
        "simclr_loss": 1,
        "simclr_acc": 1,
    }
    runs = {}
    for name, batch, share in (("all", 8, 1.0), ("half", 8, 0.5), ("large", 16, 1.0), ("one", 1, 1.0)):
        config = make_config()
        config = replace(
            config,
            training=replace(config.training, batch=batch),
            objective=replace(config.objective, ssl_share=share),
        )
        runs[name] = run_of(write_run(tmp_path / name, config=config), [both])
    image_text, image_text_acc = "Image–text loss", "Image–text accuracy"
    ssl, ssl_acc = "Self-supervised loss", "Self-supervised accuracy"
    assert levels([runs["all"]]) == {
        image_text: [math.log(8)], image_text_acc: [1 / 8], ssl: [math.log(15)], ssl_acc: [1 / 15]
    }  # fmt: skip
    assert levels([runs["half"]])[ssl] == [math.log(7)]
    assert levels([runs["all"], runs["half"]]) == {
        image_text: [math.log(8)], image_text_acc: [1 / 8], ssl: [], ssl_acc: []
    }  # fmt: skip
    assert levels([runs["all"], runs["large"]]) == {image_text: [], image_text_acc: [], ssl: [], ssl_acc: []}
    assert levels([runs["one"]])[image_text] == []


def test_a_log_without_terms_shows_the_loss(tmp_path: Path) -> None:
    assert levels([run_of(tmp_path / "run", [{"step": 1, "position": 8, "loss": 1.0}])]) == {"Loss": []}


def test_curves_of_one_title_are_told_apart(tmp_path: Path) -> None:
    runs = [
        run_of(
            write_run(tmp_path / name, name), [{"step": 1, "position": 8, "loss": 1.0, f"{name}_loss": 1.0}]
        )
        for name in ("simclr", "byol")
    ]
    assert [*levels(runs)] == ["Self-supervised loss (simclr)", "Self-supervised loss (byol)"]
    assert [*levels(runs[:1])] == ["Self-supervised loss"]
