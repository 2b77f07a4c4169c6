"""Every protocol gives the same numbers, bit for bit, however many processes share the pictures."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from distributed.ranks import run_on
from evaluation_fakes import COLORS, color_folder, picture, png
from openslip.encoder import Encoder
from openslip.errors import DataError, EvaluationError, SlipError
from openslip.evaluation import suite
from openslip.evaluation.finetune import Finetune
from openslip.evaluation.knn import Knn
from openslip.processes import joined
from openslip.training.saving.run import read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from searched import tiny_model
from toys import ToySource, make_tiny_config


def labelled(folder: Path) -> str:
    """Write 26 pictures of four classes, one of them damaged."""
    root = color_folder(folder, {"red": 4, "green": 3, "blue": 4, "gold": 2})
    (root / "train" / "red" / "001.png").write_bytes(b"damaged")
    return str(root)


def captioned(folder: Path) -> str:
    """Write 13 pictures with one to three captions, of which some are equal."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows = []
    for number in range(13):
        color = list(COLORS)[number % len(COLORS)]
        (folder / f"{number}.png").write_bytes(png(picture(color, rng)))
        rows += [(f"{number}.png", f"a {color} thing {n if n else ''}") for n in range(1 + number % 3)]
    with open(folder / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return str(folder / "pairs.csv")


def chosen(folder: Path) -> str:
    """Write 13 pictures with a right and a wrong caption, one picture damaged."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    rows = []
    for number in range(13):
        right, wrong = (list(COLORS)[(number + n) % len(COLORS)] for n in range(2))
        (folder / f"{number}.png").write_bytes(png(picture(right, rng)) if number != 5 else b"damaged")
        rows.append((f"{number}.png", f"a {right} thing", f"a {wrong} thing"))
    with open(folder / "choices.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "negative_caption"), *rows])
    return str(folder / "choices.csv")


def masked(folder: Path) -> str:
    """Write pictures with masks of two classes, 4 for training and 5 for the test."""
    rng = np.random.default_rng(3)
    for split, count in (("train", 4), ("test", 5)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((16, 16), np.uint8)
            mask[:, : 4 + 2 * number] = 1
            pixels = np.where(mask[..., None] == 1, 200, 40) + rng.integers(0, 20, (16, 16, 3))
            (folder / "images" / split / f"{number}.png").write_bytes(png(pixels.astype(np.uint8)))
            (folder / "masks" / split / f"{number}.png").write_bytes(png(mask))
    (folder / "classes.txt").write_text("wall\ndoor\n")
    return str(folder)


DATA = {
    "retrieval": captioned,
    "geometry": captioned,
    "pairs": chosen,
    "segmentation": masked,
    "zeroshot-segmentation": masked,
}
"""What writes the data of a protocol; of all others it is `labelled`."""


ALONE = ("finetune", "mieb")
"""Protocols that the first process measures alone."""


def task_of(protocol: str, data: str) -> Any:
    kind = type(suite.parse_task(f"{protocol}:{data}"))
    several = is_dataclass(kind) and "batch_size" in {field.name for field in fields(kind)}
    return suite.parse_task(f"{protocol}:{data}", **({"batch_size": 3} if several else {}))


def measured(protocol: str, data: str) -> list[tuple[dict[str, Any], Any]]:
    """Return what one of the processes has: the results with what they were computed from."""
    with joined() as ranks:
        found = suite.run(tiny_model(), [task_of(protocol, data)], ranks=ranks)
    return [(asdict(result), result.outcomes and result.outcomes.values) for result in found]


@pytest.mark.parametrize("protocol", [name for name in suite.PROTOCOLS if name not in ALONE])
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_numbers_are_those_of_one_process(protocol: str, world: int, tmp_path: Path) -> None:
    data = DATA.get(protocol, labelled)(tmp_path / "data")
    (alone,) = run_on(1, measured, protocol, data)
    first, *others = run_on(world, measured, protocol, data)
    assert others == [[]] * (world - 1)
    assert len(first) == len(alone) > 0
    for (told, values), (expected, expected_values) in zip(first, alone):
        np.testing.assert_equal(told, expected)
        np.testing.assert_array_equal(values, expected_values)


def encoded_by(data: str) -> int:
    """Return how many pictures this process's model has seen."""
    model, seen = tiny_model(), 0

    def count(module: Any, inputs: Any) -> None:
        nonlocal seen
        seen += len(inputs[0])

    model.model.image_tower.register_forward_pre_hook(count)
    with joined() as ranks:
        suite.run(model, [Knn(data, batch_size=3)], ranks=ranks)
    return seen


def test_each_picture_is_computed_once(tmp_path: Path) -> None:
    assert run_on(1, encoded_by, labelled(tmp_path / "data")) == [25]
    each = run_on(2, encoded_by, str(tmp_path / "data"))
    assert sum(each) == 25
    assert min(each) >= 7


class Failing(Knn):
    """Cannot read its data on one of the processes."""

    def share(self, encoder: Encoder) -> None:
        if torch.distributed.get_rank() == 1:
            raise DataError("The disk is gone")
        super().share(encoder)


def outcomes_of_failing(data: str, raising: bool) -> list[str]:
    said: list[str] = []
    with joined() as ranks:
        try:
            suite.run(
                tiny_model(),
                [Failing(data, batch_size=3), Knn(data, k=3, batch_size=3)],
                ranks=ranks,
                on_task=None if raising else lambda done: said.append(f"{done.name}: {done.error or 'fine'}"),
            )
        except SlipError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def test_a_task_that_fails_on_one_process_fails_on_all_and_the_next_goes_on(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data")
    first, second = run_on(2, outcomes_of_failing, data, False)
    assert len(first) == 2
    assert "another process" in first[0].lower()
    assert first[1].endswith("fine")
    assert second == []
    first, second = run_on(2, outcomes_of_failing, data, True)
    assert "another process" in first[0].lower()
    assert "The disk is gone" in second[0]


class Broken(Knn):
    def evaluate(self, encoder: Encoder) -> Any:
        raise EvaluationError("This cannot be measured")


def broken(data: str) -> str:
    with joined() as ranks:
        try:
            suite.run(tiny_model(), [Broken(data, batch_size=3)], ranks=ranks)
        except EvaluationError as error:
            return str(error)
    return ""


def test_what_fails_on_the_first_process_ends_all(tmp_path: Path) -> None:
    first, second = run_on(2, broken, labelled(tmp_path / "data"))
    assert "This cannot be measured" in first
    assert "failed on the first process" in second


def test_finetuning_is_done_by_the_first_process_alone() -> None:
    assert Finetune.measured_on == ()


def measured_while_training(folder: Path, data: str, stop: bool) -> tuple[str, int]:
    """Train while all processes measure, one of them perhaps asked to stop meanwhile; return how it ended, and how many
    pictures this process's part of all evaluations was."""
    seen = 0

    class Counted(Knn):
        def share(self, encoder: Encoder) -> None:
            nonlocal seen

            def count(module: Any, inputs: Any) -> None:
                nonlocal seen
                seen += len(inputs[0])

            handle = encoder.model.image_tower.register_forward_pre_hook(count)
            if stop and torch.distributed.get_rank() == 1 and seen == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            super().share(encoder)
            handle.remove()

    tasks = suite.Suite([Counted(data, batch_size=3), f"linear:{data} every 2"])
    try:
        config, quiet = make_tiny_config(epochs=3), Console(quiet=True)
        train(config, ToySource(), folder / "run", evaluate=tasks, resume=True, console=quiet)
    except Interrupted as error:
        return str(error), seen
    return "done", seen


def test_a_run_is_measured_by_all_of_its_processes_at_each_tasks_cadence(tmp_path: Path) -> None:
    data = labelled(tmp_path / "colors")
    ended = run_on(2, measured_while_training, tmp_path, data, False)
    assert [how for how, _ in ended] == ["done", "done"]
    assert sum(count for _, count in ended) == 3 * 25
    assert min(count for _, count in ended) >= 3 * 7
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "evaluation" in line]
    assert [next(iter(line["evaluation"])).split("/")[0] for line in lines] == ["knn:colors"] * 3
    assert [any(key.startswith("linear") for key in line["evaluation"]) for line in lines] == [
        False,
        True,
        True,
    ]
    assert {result.task for result in suite.read(tmp_path / "run" / "results.json")} == {
        "knn:colors",
        "linear:colors",
    }


def test_who_is_asked_to_stop_while_all_measure_stops_all_and_the_run_goes_on(tmp_path: Path) -> None:
    data = labelled(tmp_path / "colors")
    ended = run_on(2, measured_while_training, tmp_path, data, True)
    assert all("step 8 of 24" in how for how, _ in ended), ended
    assert run_on(2, measured_while_training, tmp_path, data, False)[0][0] == "done"
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "evaluation" in line]
    assert [line["step"] for line in lines] == [8, 16, 24]
