from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openslip.data.labelled import Labelled, open_labelled
from openslip.errors import DataError
from openslip.report import load_run, write_report
from openslip.report.answered import Task, tasks
from openslip.report.rows import rows
from openslip.report.samples import Samples, chosen, reopened, samples
from report_fakes import measure, write_run


@pytest.fixture
def pictures(tmp_path: Path) -> Labelled:
    """30 pictures of three classes, no two alike but for one copy."""
    for k in range(30):
        folder = tmp_path / "birds" / "test" / f"kind {k % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        colour = (8 * (k if k != 7 else 4), 40 * (k % 3), 90)
        Image.new("RGB", (150, 120), colour).save(folder / f"{k:02}.png")
    return open_labelled(str(tmp_path / "birds")).splits["test"]


def asked(folder: Path, data: Labelled, sure: bool = True) -> Task:
    """Return the task that two runs have been measured in."""
    for seed, loss in enumerate(("clip", "simclr")):
        if not (folder / loss).exists():
            write_run(folder / loss, loss)
        measure(folder / loss, seed, data=data, sure=sure)
    named = {row.label: row for row in rows([load_run(folder / loss) for loss in ("clip", "simclr")])}
    (task,), _ = tasks(named, dict.fromkeys(named, "c0"))
    return task


def shown(task: Task, each: int = 4) -> Samples:
    (found,) = samples([task], each)
    assert found is not None
    return found


def test_the_surest_wrong_and_the_least_sure_right_are_shown(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures)
    answers = task.said[-1].answers
    surest = {bytes(digest): float(p) for digest, p in zip(answers.digests, answers.probabilities[:, 0])}
    wrong = [surest[d] for d, rank in zip(answers.digests, answers.ranks) if rank > 1]
    fine = [surest[d] for d, rank in zip(answers.digests, answers.ranks) if rank == 1]
    found = shown(task)
    assert found.missing == ""
    shares = [[sample.reading.answers[0].share for sample in kind] for *_, kind in found.kinds]
    assert shares[0] == sorted(set(wrong), reverse=True)[:4]
    assert shares[1] == sorted(set(fine))[:4]
    assert [len(kind) for *_, kind in found.kinds] == [4, 4, 4]
    assert [{sample.reading.right for sample in kind} for *_, kind in found.kinds[:2]] == [{False}, {True}]


def test_a_picture_is_that_which_was_measured_with_what_others_say_of_it(
    tmp_path: Path, pictures: Labelled
) -> None:
    task = asked(tmp_path, pictures)
    first = task.said[0].answers
    for *_, kind in shown(task).kinds:
        for sample in kind:
            _, green, _ = sample.reading.picture.pixels[0, 0].tolist()
            assert f"kind {green // 40}" == sample.reading.truth
            ((row, _, answer),) = sample.others
            assert row == "CLIP"
            same = [i for i in range(30) if pictures.class_names[pictures.labels[i]] == sample.reading.truth]
            said = {task.said[0].names[first.best[i, 0]] for i in same}
            assert answer.text in said
            assert sample.reading.truth is not None
            assert sample.reading.truth in sample.reading.picture.alt
            assert f"with {sample.reading.answers[0].percent}" in sample.reading.picture.alt


def test_a_copy_is_shown_once(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures)
    for _, _, order in chosen(task.said[-1]):
        digests = [task.said[-1].answers.digests[i] for i in order]
        assert len(digests) == len(set(digests))


def test_without_probabilities_the_furthest_from_right_is_shown(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures, sure=False)
    found = shown(task)
    assert [title for title, *_ in found.kinds] == ["Furthest from right", "Drawn at random"]
    ranks = task.said[-1].answers.ranks
    assert [sample.reading.rank for sample in found.kinds[0][2]] == sorted(ranks[ranks > 1], reverse=True)[:4]
    assert all(sample.reading.answers[0].share is None for sample in found.kinds[0][2])


def test_other_pictures_at_their_place_are_not_shown(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures)
    files = sorted((tmp_path / "birds").rglob("*.png"))
    for file in files[:10]:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file)
    found = shown(task, 12)
    assert "left out" in found.missing
    assert all(sample.reading.picture.pixels.any() for *_, kind in found.kinds for sample in kind)
    for file in files:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file)
    found = shown(task)
    assert found.kinds == []
    assert "no longer what was measured" in found.missing


def test_pictures_that_are_gone_are_said_to_be(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures)
    shutil.rmtree(tmp_path / "birds")
    assert "cannot be opened" in shown(task).missing
    assert shown(task).kinds == ()
    runs = [load_run(tmp_path / loss) for loss in ("clip", "simclr")]
    html = write_report(tmp_path / "r.html", runs, title="x").read_text()
    assert "No picture is shown" in html
    assert samples([task], 0) == [None]


def test_the_first_task_on_some_data_has_their_pictures(tmp_path: Path, pictures: Labelled) -> None:
    task = asked(tmp_path, pictures)
    first, second = samples([task, task], 4)
    assert first is not None
    assert second is None


def test_nothing_is_fetched(tmp_path: Path, pictures: Labelled) -> None:
    result = asked(tmp_path, pictures).said[0].result
    with pytest.raises(DataError, match="downloads nothing"):
        reopened(replace(result, data="https://example.org/birds"))
    with pytest.raises(DataError, match="cannot be opened"):
        reopened(replace(result, split="some other"))
    with pytest.raises(DataError, match="does not say"):
        reopened(replace(result, data=""))


def test_data_of_another_column_and_without_splits_are_opened_as_they_were(
    tmp_path: Path, pictures: Labelled
) -> None:
    table = tmp_path / "birds" / "table.csv"
    files = sorted((tmp_path / "birds").rglob("*.png"))
    rows = [f"{file.relative_to(table.parent)},{k % 2},{k % 5}" for k, file in enumerate(files)]
    table.write_text("\n".join(["file_name,sex,age", *rows]))
    opened = open_labelled(str(table), label_column="age")
    result = replace(asked(tmp_path, pictures).said[0].result, data=opened.location, split="all")
    assert reopened(result).labels.tolist() == [k % 5 for k in range(30)]
    part = reopened(replace(result, split="test"))
    assert part.labels.tolist() == opened.split("test").labels.tolist()


def test_the_page_has_the_pictures_with_their_answers(tmp_path: Path, pictures: Labelled) -> None:
    asked(tmp_path, pictures)
    runs = [load_run(tmp_path / loss) for loss in ("clip", "simclr")]
    html = write_report(tmp_path / "r.html", runs, title="x", examples=2).read_text()
    assert html.count("<img ") == 6
    assert "Surest and wrong" in html
    assert 'alt="kind ' in html
    without = write_report(tmp_path / "r.html", runs, title="x", examples=0).read_text()
    assert "<img " not in without
