from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openslip.evaluation.metrics import wilson
from openslip.evaluation.outcomes import Answers
from openslip.report import load_run, write_report
from openslip.report.answered import FEW, Said, Task, class_lines, confusions, matrix, reliability, tasks
from openslip.report.rows import rows
from report_fakes import measure, write_run


def two(folder: Path, **options: Any) -> tuple[list[Task], list[Answers]]:
    answers = []
    for seed, loss in enumerate(("clip", "simclr")):
        answers.append(measure(write_run(folder / loss, loss), seed, **options))
    named = {row.label: row for row in rows([load_run(folder / "clip"), load_run(folder / "simclr")])}
    found, troubles = tasks(named, dict.fromkeys(named, "c0"))
    assert troubles == []
    return found, answers


def test_every_class_has_its_share_and_interval(tmp_path: Path) -> None:
    (task,), answers = two(tmp_path)
    assert (task.title, task.count, task.empty) == ("Zero-shot on birds", 60, 0)
    assert [one.row for one in task.said] == ["CLIP", "SimCLR"]
    for line in task.all:
        label = int(line.name.removeprefix("kind "))
        for bar, said in zip(line.bars, answers):
            own = [rank == 1 for rank, of in zip(said.ranks, said.labels) if of == label]
            assert bar.value == pytest.approx(sum(own) / len(own))
            assert (bar.low, bar.high) == wilson(sum(own), len(own))
    assert len(task.hardest) == 3
    assert task.easiest == []
    middles = [sum(bar.low + bar.high for bar in line.bars) for line in task.hardest]
    assert middles == sorted(middles)


def test_of_many_classes_the_ends_are_shown_and_all_are_listed(tmp_path: Path) -> None:
    (task,), _ = two(tmp_path, classes=40, count=200)
    assert (len(task.hardest), len(task.easiest), len(task.all)) == (FEW, FEW, 40)
    assert not {line.name for line in task.hardest} & {line.name for line in task.easiest}
    assert task.matrices == []
    assert task.pairs


def test_a_class_without_pictures_is_counted_and_not_shown(tmp_path: Path) -> None:
    (task,), _ = two(tmp_path)
    one = task.said[0]
    rows_of = one.answers.labels != 1
    fewer = Answers(
        *(
            getattr(one.answers, name)[rows_of]
            for name in ("labels", "ranks", "best", "probabilities", "rows")
        ),
        digests=one.answers.digests[:40],
        class_names=one.answers.class_names,
    )
    lines = class_lines([replace(one, answers=fewer)])
    assert [line.name for line in lines] == ["kind 0", "kind 2"]


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    (task,), _ = two(tmp_path)
    one = task.said[0]
    alike = replace(one, answers=replace(one.answers, class_names=("crane", "owl", "crane")))
    assert [(line.name, line.count) for line in class_lines([alike])] == [
        ("crane", 20), ("owl", 20), ("crane (2)", 20),
    ]  # fmt: skip
    assert {pair.truth for pair in confusions([alike])} <= {"crane", "owl", "crane (2)"}


def test_pairs_are_counted_one_by_one(tmp_path: Path) -> None:
    (task,), answers = two(tmp_path, classes=5)
    counted: list[dict[tuple[int, int], int]] = [{}, {}]
    for found, said in zip(counted, answers):
        for label, rank, best in zip(said.labels.tolist(), said.ranks.tolist(), said.best.tolist()):
            if rank > 1:
                found[label, best[0]] = found.get((label, best[0]), 0) + 1
    pairs = confusions(task.said, most=100)
    assert len(pairs) == len({*counted[0], *counted[1]})
    for pair in pairs:
        key = int(pair.truth[-1]), int(pair.answer[-1])
        assert [count for count, _ in pair.counts] == [found.get(key, 0) for found in counted]
        assert [share for _, share in pair.counts] == [found.get(key, 0) / 12 for found in counted]
    most = [max(count for count, _ in pair.counts) for pair in pairs]
    assert most == sorted(most, reverse=True)
    table = matrix(task.said[0])
    assert [sum(shares) for _, shares in table.lines] == pytest.approx([1.0] * 5)
    assert table.lines[2][1][3] == counted[0].get((2, 3), 0) / 12


def test_a_tie_with_the_right_class_is_taken_for_the_other(tmp_path: Path) -> None:
    (task,), _ = two(tmp_path)
    tied = Answers(
        labels=np.array([0, 1]), ranks=np.array([2, 1]), best=np.array([[0, 1, 2], [1, 0, 2]]),
        probabilities=np.full((2, 3), np.nan, np.float32), rows=np.arange(2), digests=(b"", b""),
        class_names=("a", "b", "c"),
    )  # fmt: skip
    said: Said = replace(task.said[0], answers=tied)
    assert [(pair.truth, pair.answer) for pair in confusions([said])] == [("a", "b")]
    assert reliability(said) is None


def test_bars_of_certainty_are_the_shares_that_are_right(tmp_path: Path) -> None:
    (task,), answers = two(tmp_path, count=300)
    figure = task.reliability[0]
    sure, right = answers[0].probabilities[:, 0], answers[0].ranks == 1
    expected = []
    for k in range(10):
        within = (sure > k / 10) & (sure <= (k + 1) / 10)
        if within.any() and right[within].any():
            expected.append(100 * right[within].mean())
    assert [bar.height for bar in figure.bars] == pytest.approx(expected)
    assert "calibration error" in figure.note


def test_the_page_shows_the_classes_and_says_what_it_cannot_use(tmp_path: Path) -> None:
    two(tmp_path)
    runs = [load_run(tmp_path / name) for name in ("clip", "simclr")]
    html = write_report(tmp_path / "r.html", runs, title="x").read_text()
    assert "Zero-shot on birds, class by class" in html
    assert html.count('class="matrix') == 2
    (kept,) = (tmp_path / "clip" / "outcomes").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    html = write_report(tmp_path / "r.html", runs, title="x").read_text()
    assert html.count('class="matrix') == 1
    assert "is not used" in html
    kept.unlink()
    assert "is not used" not in write_report(tmp_path / "r.html", runs, title="x").read_text()


def test_a_page_of_many_classes_stays_small(tmp_path: Path) -> None:
    two(tmp_path, classes=1000, count=2000)
    runs = [load_run(tmp_path / name) for name in ("clip", "simclr")]
    page = write_report(tmp_path / "r.html", runs, title="x").read_text()
    assert "All 1,000 classes" in page
    assert page.count('<th scope="row"><bdi class="caption">kind ') == 1000 + 3 * FEW
    assert len(page) < 400_000
