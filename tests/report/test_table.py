from __future__ import annotations

from pathlib import Path

import pytest
from report_fakes import result, write_run

from slip.evaluation import Result
from slip.report import comparison, load_run
from slip.report.table import Column, columns, describe, headline


def column(key: str = "knn:scenes/top1", **values: tuple[float, float, float]) -> Column:
    task, _, metric = key.rpartition("/")
    results = {
        name: Result(task, metric, value, 100, low, high) for name, (value, low, high) in values.items()
    }
    return Column(key, "", "", "", results)


def test_best_is_said_only_when_clear_of_all_others() -> None:
    assert column(a=(0.5, 0.4, 0.6), b=(0.8, 0.7, 0.9)).best() == "b"
    assert column(a=(0.7, 0.6, 0.8), b=(0.8, 0.75, 0.9)).best() is None
    assert column(a=(0.7, 0.6, 0.7), b=(0.8, 0.7, 0.9)).best() is None  # touching is not clear
    # The second is clear, the third reaches higher because it was measured on fewer samples.
    assert column(a=(0.9, 0.85, 0.95), b=(0.8, 0.79, 0.81), c=(0.7, 0.4, 0.88)).best() is None


def test_best_needs_someone_to_compare_with() -> None:
    assert column(a=(0.9, 0.85, 0.95)).best() is None
    assert column(a=(0.9, 0.85, 0.95), b=(float("nan"), 0.0, 0.0)).best() is None


def test_of_ranks_the_lowest_is_best() -> None:
    ranks = column("retrieval:x/text_median_rank", a=(12.0, 10.0, 14.0), b=(3.0, 2.0, 4.0))
    assert ranks.ranking() == ["b", "a"]
    assert ranks.best() == "b"


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
    assert headline(keys) == ["z:a/top1", "r:b/text_recall@10", "r:b/image_recall@10", "own:c/x", "own:c/y"]


def test_comparison_is_aligned_marked_and_complete(tmp_path: Path) -> None:
    clip = [result("zeroshot:scenes/top1", 0.4), result("knn:scenes/top1", 0.5)]
    slip = [result("zeroshot:scenes/top1", 0.41), result("knn:scenes/top1", 0.6, count=90)]
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


def test_comparison_wraps_into_blocks_that_fit(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "c", results=[result(f"knn:set{i}/top1", 0.5) for i in range(7)]))
    text = comparison([run], width=60)
    assert max(map(len, text.splitlines()[:-1])) <= 60
    assert all(f"set{i}" in text for i in range(7))
    assert text.count("SLIP") > 1


def test_comparison_without_results(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "c"))
    assert comparison([run]) == "No results yet."
    assert columns([run]) == []
