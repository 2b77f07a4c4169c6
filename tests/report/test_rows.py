from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from openslip.report import load_run
from openslip.report.rows import LONGEST, rows, shortened_apart
from openslip.report.runs import Run
from report_fakes import make_config, write_run


def run(folder: Path, name: str, loss: str = "clip", **options) -> Run:
    return load_run(write_run(folder / name, loss, **options))


def shown(*runs: Run) -> list[tuple[str, list[int]]]:
    return [(row.label, row.seeds) for row in rows(runs)]


def test_rows_are_told_apart_by_method_then_folder_then_number(tmp_path: Path) -> None:
    losses = {"a": "clip", "b": "simclr", "c": "0.5*simclr + clip", "d": "clip", "e": "clip + 2 * mine:Loss"}
    runs = {name: run(tmp_path, name, loss) for name, loss in losses.items()}
    assert [row.label for row in rows([runs[name] for name in "abc"])] == ["CLIP", "SimCLR", "SLIP"]
    assert [row.label for row in rows([runs["a"], runs["d"]])] == ["a", "d"]
    assert [row.label for row in rows([runs["a"], runs["a"]])] == ["a (1)", "a (2)"]
    assert runs["e"].method == "clip + 2 * mine:Loss"


def test_seeds_of_one_configuration_are_one_row(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, f"{loss}-{seed}", loss, seed=seed) for seed in (3, 4) for loss in ("clip", "simclr")
    ]
    assert shown(*runs) == [("CLIP", [3, 4]), ("SimCLR", [3, 4])]


def test_a_copy_of_a_run_is_no_other_seed(tmp_path: Path) -> None:
    one, two, copy = (run(tmp_path, name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("copy", 1)))
    assert [row.seeds for row in rows([one, two, copy])] == [[1, 2], [1]]


def test_what_weights_depend_on_keeps_runs_apart(tmp_path: Path) -> None:
    base = make_config("clip")
    others = [
        replace(base, optimizer=replace(base.optimizer, lr=base.optimizer.lr * 2)),
        replace(base, training=replace(base.training, batch=4)),
        replace(base, views=replace(base.views, size=64)),
        replace(base, data=replace(base.data, train="elsewhere")),
        replace(base, model=replace(base.model, image=replace(base.model.image, depth=3))),
    ]
    first = run(tmp_path, "first", config=base)
    for number, config in enumerate(others):
        config = replace(config, training=replace(config.training, seed=7))
        assert len(rows([first, run(tmp_path, f"other-{number}", config=config)])) == 2
    half = run(tmp_path, "half", steps=10, seed=7)
    assert len(rows([first, half])) == 2  # not as far


def test_what_weights_do_not_depend_on_does_not(tmp_path: Path) -> None:
    base = make_config("clip", seed=7)
    others = [
        replace(base, name="another name"),
        replace(base, data=replace(base.data, workers=3)),
        replace(base, training=replace(base.training, log_every=5, device="cpu")),
        replace(base, evaluation=replace(base.evaluation, tasks=("knn:scenes",))),
    ]
    first = run(tmp_path, "first")
    for number, config in enumerate(others):
        assert len(rows([first, run(tmp_path, f"other-{number}", config=config)])) == 1


def test_data_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    def of(name: str, seed: int, samples: dict[str, str], train: str = "here") -> Run:
        config = make_config("clip", seed=seed)
        folder = write_run(tmp_path / name, config=replace(config, data=replace(config.data, train=train)))
        part = {"name": train, "records": 2, "share": 2, "block": 1, "samples": samples}
        (folder / "data.json").write_text(json.dumps({"train": [part]}))
        return load_run(folder)

    one = of("one", 1, {"0": "aa", "1": "bb"})
    moved = of("moved", 2, {"0": "aa", "1": "bb"}, train="there")
    other = of("other", 3, {"0": "aa", "1": "cc"})
    unknown = run(tmp_path, "unknown", seed=4)
    assert [row.seeds for row in rows([one, moved, other, unknown])] == [[1, 2], [3], [4]]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("wide-seed1", "wide-seed2"), "wide"),
        (("wide_s1", "wide_s2"), "wide"),
        (("clips-0", "clips-1"), "clips"),
        (("wide10", "wide11"), "wide"),
        (("vit16-1", "vit16-2"), "vit16"),
        (("1", "2"), "1"),
        (("seed1", "seed2"), "seed1"),
    ],
)
def test_rows_of_seeds_are_called_what_their_folders_have_in_common(
    tmp_path: Path, names, label: str
) -> None:
    runs = [run(tmp_path, name, seed=seed) for seed, name in enumerate(names)]
    other = run(
        tmp_path,
        "other",
        seed=9,
        config=replace(make_config("clip"), views=replace(make_config().views, size=64)),
    )
    assert [row.label for row in rows([*runs, other])] == [label, "other"]


def test_long_names_keep_what_tells_them_apart() -> None:
    names = [f"my-experiment-with-a-long-name-lr{lr}-batch-size-256-epochs-40" for lr in (0.1, 0.01)]
    assert shortened_apart(names) == ["…lr0.1…", "…lr0.01…"]
    assert shortened_apart(["short", "names"]) == ["short", "names"]
    alone = shortened_apart(["x" * 100])
    assert len(alone[0]) == LONGEST
    same = ["y" * 100, "y" * 100]
    assert len(set(shortened_apart(same))) == 1
    middle = ["a" * 50 + name + "b" * 50 for name in ("one", "two")]
    assert len(set(shortened_apart(middle))) == 2  # long, rather than alike
