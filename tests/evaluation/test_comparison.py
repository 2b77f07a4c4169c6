from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from measured_fakes import TOP1, measured, run_folder
from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import results
from openslip.evaluation.compare import compare
from openslip.evaluation.comparison import by_chance, compare_models
from openslip.evaluation.measured import open_models


def models(*words):
    return open_models([*map(str, words)])[0]


def keep(run, found):
    results.keep(found, run / "results.json")


@pytest.fixture
def pair(tmp_path):
    """Two runs, measured on different days."""
    runs = [run_folder(tmp_path / name, found=()) for name in "ab"]
    for seed, run in enumerate(runs):
        keep(run, [*measured(seed), *measured(seed + 5, task="knn:birds")])
    return runs


def test_what_is_on_disk_compares_as_in_memory(pair) -> None:
    found = compare_models(*models(*pair), everything=True)
    in_memory = compare(*([*measured(seed), *measured(seed + 5, task="knn:birds")] for seed in (0, 1)))
    assert list(found.differences) == in_memory
    assert not any(one.unpaired for one in found.differences)
    assert not found.notes
    assert "Intervals are for other samples" in found.meaning
    first = compare_models(*models(*pair)).differences
    assert [(one.after.task, one.after.metric) for one in first] == [
        ("zeroshot:birds", "top1"),
        ("knn:birds", "top1"),
    ]


def test_data_that_have_moved_are_the_same_in_whatever_order(pair, tmp_path) -> None:
    moved = run_folder(tmp_path / "moved", found=())
    rows = np.random.default_rng(0).permutation(60)
    found = []
    for result in measured(1):
        assert result.outcomes is not None
        found.append(replace(result, data="/elsewhere", outcomes=result.outcomes.rows(rows), answers=None))
    keep(moved, found)
    one, other = (compare_models(*models(pair[0], run)).differences[0] for run in (pair[1], moved))
    assert not other.unpaired
    assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))


def test_what_is_measured_otherwise_is_left_out_and_said(pair) -> None:
    others = [
        *measured(2, task="linear:birds"),
        *measured(3, prompts="other"),
        *measured(4, content="others", data="/others", task="knn:birds", settings="k=5"),
    ]
    keep(pair[1], others)
    found = compare_models(*models(*pair))
    assert len(found.differences) == 2
    (note,) = found.notes
    assert note.startswith("Left out, only in b: linear:birds, zeroshot:birds, knn:birds (")
    assert note.endswith(f"({len(others)} numbers).")


def test_other_pictures_at_the_same_place_are_compared_unpaired(tmp_path) -> None:
    runs = [run_folder(tmp_path / name, found=()) for name in "ab"]
    for run, content in zip(runs, ("old", "new")):
        keep(run, measured(content=content))
    (one,) = compare_models(*models(*runs)).differences
    assert "different pictures" in one.unpaired
    keep(runs[1], measured(content="old"))
    (one,) = compare_models(*models(*runs)).differences
    assert not one.unpaired


def test_damaged_outcomes_are_said_and_not_paired(pair) -> None:
    for file in (pair[0] / "outcomes").iterdir():
        file.write_bytes(b"PK damaged")
    found = compare_models(*models(*pair))
    assert [one.unpaired for one in found.differences] == ["the outcomes of single samples are not known"] * 2
    assert len(found.notes) == 2
    assert all("is not used: it is damaged" in note for note in found.notes)


def test_results_of_earlier_versions_are_compared_where_they_may_be_of_the_same(tmp_path) -> None:
    old = replace(TOP1, data="", content="", checkpoint="")
    runs = [
        run_folder(tmp_path / name, found=(result,))
        for name, result in (("a", old), ("b", replace(old, value=0.7)), ("c", replace(old, count=99)))
    ]
    assert compare_models(*models(*runs[:2])).differences[0].value == pytest.approx(0.2)
    with pytest.raises(EvaluationError, match="no measurement in common"):
        compare_models(*models(runs[0], runs[2]))


def test_nothing_in_common_names_what_there_is_and_a_way(tmp_path) -> None:
    one = run_folder(tmp_path / "a", found=(TOP1, replace(TOP1, task="zeroshot:birds")))
    other = run_folder(tmp_path / "b", found=(replace(TOP1, task="knn:cats", data="/cats"),))
    none = run_folder(tmp_path / "c", found=())
    with pytest.raises(EvaluationError) as told:
        compare_models(*models(one, other))
    assert "a: knn:birds, zeroshot:birds; b: knn:cats" in str(told.value)
    assert f"`slip evaluate {other} knn:/d` measures b as well" in str(told.value)
    with pytest.raises(EvaluationError) as told:
        compare_models(*models(none, one))
    assert f"`slip evaluate {none} knn:/d` measures c as well" in str(told.value)
    (file := tmp_path / "file.json").write_text("[]")
    with pytest.raises(EvaluationError) as told:
        compare_models(*models(one, file))
    assert "`slip evaluate MODEL knn:/d` measures file as well" in str(told.value)  # a file is not the model


def test_seeds_are_groups(tmp_path) -> None:
    for name in "ab":
        for seed in range(3):
            found = measured(10 * (name == "b") + seed)
            if (name, seed) != ("b", 2):
                found += measured(20 + seed, task="knn:birds")
            keep(run_folder(tmp_path / f"{name}-{seed}", seed, found=(), epochs=2 + (name == "b")), found)
    sides = models(tmp_path / "a-*", tmp_path / "b-*")
    found = compare_models(*sides)
    assert [one.seeds for one in found.differences] == [(3, 3), (3, 2)]
    assert found.notes == ["b: some of its 3 seeds are missing: knn:birds top1 of 2."]
    assert "Welch's t" in found.meaning
    together = compare_models(*sides, by_seed=True)
    assert [one.seeds for one in together.differences] == [(3, 3), (2, 2)]
    assert "equal seeds" in together.meaning
    row = together.rows()[0]
    assert (row["model"], row["against"], row["seeds"], row["by_seed"]) == ("b", "a", 3, True)
    assert row["covers"] == "seeds and samples"
    assert row["difference"] == pytest.approx(
        np.mean([measured(10 + s)[0].value for s in range(3)])
        - np.mean([measured(s)[0].value for s in range(3)])
    )
    alone = models(tmp_path / "a-0", tmp_path / "b-*")
    assert "One side is a single run" in compare_models(*alone).meaning
    with pytest.raises(ConfigError, match="same seeds"):
        compare_models(*alone, by_seed=True)


def test_what_chance_decides() -> None:
    assert by_chance(1) == ""
    assert "Of 20 comparisons of equal models, 1 would" in by_chance(20)
    assert "about 3 would" in by_chance(60)
    assert "0.25 would" in by_chance(5)
