from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from openslip.evaluation import Result
from openslip.evaluation.scores import Score
from openslip.report import comparison, load_run, scoreboard
from openslip.report.rows import rows
from openslip.report.table import Column, columns, describe, headline
from report_fakes import result, write_run


def test_best_is_of_the_metric_s_direction() -> None:
    low, high = Score(3.0, 2.0, 4.0, None, 1, (9,)), Score(12.0, 10.0, 14.0, None, 1, (9,))
    ranks = Column("retrieval:x/text_median_rank", "", "", "", {"a": high, "b": low})
    assert ranks.best() == "b"
    assert Column("retrieval:x/text_recall@1", "", "", "", {"a": high, "b": low}).best() == "a"
    assert Column("geometry:x/image_uniformity", "", "", "", {"a": high, "b": low}).best() == "b"
    assert Column("geometry:x/modality_gap", "", "", "", {"a": high, "b": low}).best() is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("zeroshot:scenes/top1", ("Zero-shot", "scenes", "top-1")),
        ("zeroshot:scenes:heldout/mean_per_class", ("Zero-shot", "scenes, held out", "mean per class")),
        (
            "retrieval:/data/flickr-test-*.tar/text_recall@10",
            ("Retrieval", "flickr-test-*", "picture → text recall@10"),
        ),
        ("retrieval/image_recall@5", ("Retrieval", "", "text → picture recall@5")),
        ("knn:C:\\pictures\\birds/top5", ("k-NN", "birds", "top-5")),
        ("tasting:soup/salt_left", ("tasting", "soup", "salt left")),
    ],
)
def test_names_read_as_people_say_them(key: str, words: tuple[str, str, str]) -> None:
    assert describe(key) == words


def test_one_metric_stands_for_its_task() -> None:
    keys = [
        "z:a/top1",
        "z:a/top5",
        "r:b/text_recall@1",
        "r:b/text_recall@10",
        "r:b/image_recall@10",
        "own:c/x",
        "own:c/y",
    ]
    assert headline(keys) == ["z:a/top1", "r:b/text_recall@10", "r:b/image_recall@10", "own:c/x"]
    assert headline(["z:a/mean_per_class", "z:a/top1", "loss"]) == ["z:a/mean_per_class", "loss"]


def test_numbers_that_are_no_shares_are_not_percent(tmp_path: Path) -> None:
    values = {"alignment": 0.8, "image_uniformity": -2.5, "modality_gap": 1.25}
    runs = []
    for loss, more in (("clip", 0.0), ("simclr", 1.0)):
        keys = [(f"g{k}:x/{metric}", value + more) for k, (metric, value) in enumerate(values.items())]
        runs.append(load_run(write_run(tmp_path / loss, loss, [result(key, value) for key, value in keys])))
    table = rows(runs)
    names = {row.label: row for row in table}
    shown = scoreboard.table(names, dict.fromkeys(names, "c0"))
    first = shown.lines[0][2]
    assert [(cell.value, cell.unit, cell.bar is None) for cell in first] == [
        ("0.800", "", True), ("-2.50", "", True), ("1.25", "", True),
    ]  # fmt: skip
    assert [column.best() for column in shown.columns] == ["CLIP", "CLIP", None]
    assert "Percent, or as it is" in comparison(runs)
    alone = scoreboard.table(dict([*names.items()][:1]), dict.fromkeys(names, "c0"))
    assert [cell.bar for cell in alone.lines[0][2]] == [None] * 3
    assert alone.scale == ""


def test_comparison_is_aligned_marked_and_complete(tmp_path: Path) -> None:
    clip = [result("zeroshot:scenes/top1", 0.4), result("knn:scenes/top1", 0.5)]
    slip = [result("zeroshot:scenes/top1", 0.41), result("knn:scenes/top1", 0.6, count=90) | {"skipped": 10}]
    runs = [
        load_run(write_run(tmp_path / "c", "clip", clip)),
        load_run(write_run(tmp_path / "m", "simclr", [result("knn:scenes/top1", 0.3)])),
        load_run(write_run(tmp_path / "s", results=slip)),
    ]
    lines = comparison(runs, width=100).splitlines()
    assert lines[4:8] == [
        "CLIP    40.0  (39.0–41.0)  50.0  (49.0–51.0)",
        "SimCLR  –                  30.0  (29.0–31.0)",
        "SLIP    41.0  (40.0–42.0)  60.0* (59.0–61.0)",
        "n       100                100 / 100 / 90",
    ]
    assert lines[0].split() == ["Zero-shot", "k-NN"]


def test_other_numbers_of_samples_are_other_data_and_nobody_is_ahead(tmp_path: Path) -> None:
    """Of results that do not say what they are of, as those of earlier versions."""
    runs = [
        load_run(write_run(tmp_path / "c", "clip", [result("knn:photos/top1", 0.5, count=1000)])),
        load_run(write_run(tmp_path / "s", results=[result("knn:photos/top1", 0.6, count=2000)])),
    ]
    found = columns(rows(runs))
    assert [column.count for column in found] == [1000, 2000]
    assert [column.best() for column in found] == [None, None]


def test_comparison_wraps_into_blocks_that_fit(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "c", results=[result(f"knn:set{i}/top1", 0.5) for i in range(7)]))
    text = comparison([run], width=60)
    assert max(map(len, text.splitlines()[:-1])) <= 60
    assert all(f"set{i}" in text for i in range(7))
    assert text.count("SLIP") > 1


def test_comparison_without_results(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "c"))
    assert comparison([run]) == "No results yet."
    assert columns(rows([run])) == []


def test_comparison_of_seeds_shows_their_mean_and_spread(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / f"{loss}{seed}", loss, [result("knn:x/top1", value)], seed=seed))
        for loss, values in (("clip", (0.40, 0.41, 0.42)), ("simclr", (0.50, 0.51, 0.52)))
        for seed, value in enumerate(values)
    ]
    text = comparison(runs, width=100)
    assert text.splitlines()[4:6] == [
        "CLIP, 3 seeds    41.0 ± 1.0  (38.3–43.7)",
        "SimCLR, 3 seeds  51.0 ± 1.0* (48.3–53.7)",
    ]
    assert "means over the seeds" in text
    assert "one seed" not in text


KEY = "zeroshot:birds/top1"


def named(folder: Path, *each: list[dict]) -> list[str]:
    """Return the columns of runs, each with some results, in words with the rows that they have."""
    runs = [
        replace(load_run(write_run(folder / name)), results=tuple(Result(**entry) for entry in results))
        for name, results in zip("abcdef", each)
    ]
    return [f"{column.dataset}: {' '.join(column.scores)}" for column in columns(rows(runs))]


def test_what_was_measured_on_other_data_is_another_column(tmp_path: Path) -> None:
    here, there = (result(KEY, 0.5, data=f"/{place}/birds") for place in ("here", "there"))
    assert named(tmp_path, [here], [there], [here]) == ["here/birds: a c", "there/birds: b"]


def test_data_that_have_moved_are_the_same_and_others_at_their_place_are_not(tmp_path: Path) -> None:
    old, moved, other = (
        result(KEY, 0.5, data=f"/{place}/birds", content=content)
        for place, content in (("here", "c1"), ("there", "c1"), ("here", "c2"))
    )
    assert named(tmp_path, [old], [moved], [other]) == ["birds, content c1: a b", "birds, content c2: c"]


def test_a_run_that_was_measured_twice_on_moved_data_is_one_measurement(tmp_path: Path) -> None:
    twice = [result(KEY, value, data=f"/{value}/birds", content="c1") for value in (0.4, 0.6)]
    assert named(tmp_path, twice) == ["birds: SLIP"]
    run = replace(load_run(tmp_path / "a"), results=tuple(Result(**entry) for entry in twice))
    (column,) = columns(rows([run]))
    assert (column.scores["SLIP"].value, column.scores["SLIP"].runs) == (0.6, 1)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"prompts": "a {}"}, {"prompts": "a/b {}"}, [", prompts a {}", ", prompts a/b {}"]),
        ({"split": "test"}, {"split": "all"}, [", test", ", all"]),
        ({"settings": "k=5"}, {}, [", k=5", ""]),
    ],
)
def test_what_was_measured_otherwise_is_another_column(tmp_path: Path, one, other, words) -> None:
    found = named(tmp_path, [result(KEY, 0.5, **one), result(KEY, 0.6, **other)])
    assert found == [f"birds{word}: SLIP" for word in words]


def test_measurements_of_older_checkpoints_are_columns_of_their_own(tmp_path: Path) -> None:
    steps = [result(KEY, step / 1000, checkpoint=f"step-{step:08}") for step in (7, 20, 13)]
    # Of the last step, 20, a run has a result that does not name it; the later of two measurements counts.
    found = named(tmp_path, [result(KEY, 0.9), *steps], [result(KEY, 0.5)], steps[:1])
    assert found == ["birds: a b c", "birds, step-00000007: a", "birds, step-00000013: a"]


def test_paths_that_end_alike_are_told_apart_by_their_tasks_where_nothing_else_is_known(
    tmp_path: Path,
) -> None:
    one, two = "knn:/one/birds/top1", "knn:/two/birds/top1"
    assert named(tmp_path, [result(one, 0.5), result(two, 0.5)]) == ["/one/birds: SLIP", "/two/birds: SLIP"]
