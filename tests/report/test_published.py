from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from openslip.data.labelled.imagenet import clip_names
from openslip.evaluation import Result
from openslip.evaluation.outcomes import Answers
from openslip.evaluation.published import PUBLISHED, agrees
from openslip.report.answered import Said, task
from openslip.report.published import beside
from openslip.report.render import render

SEVEN = (
    "itap of a {}. | a bad photo of the {}. | a origami {}. | a photo of the large {}. | a {} in a video game. | "
    "art of the {}. | a photo of the small {}."
)


def said(task: str = "zeroshot:imagenet", **facts: object) -> Said:
    """What a run said that was measured as the paper measured, but for some facts."""
    labels = np.arange(50_000) % 1000
    answers = Answers(
        labels, np.ones(50_000, int), labels[:, None], np.full((50_000, 1), np.nan, np.float32),
        np.arange(50_000), (b"",) * 50_000, clip_names(),
    )  # fmt: skip
    settings = "" if task.startswith("zeroshot") else "preset=paper"
    result = Result(task, "top1", 0.4, 50_000, 0.396, 0.404, prompts=SEVEN, settings=settings)
    return Said("Mine", "c0", ", seed 1", replace(result, **facts), answers)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["zeroshot", "linear", "finetune"])
def test_a_measurement_by_the_paper_s_protocol_stands_beside_its_numbers(protocol: str) -> None:
    one = said(f"{protocol}:imagenet")
    assert agrees(one.result, one.answers) == protocol
    found = beside([task([one])])
    assert found is not None
    assert found.own == [("Mine", "c0", ", seed 1", ["40.0 (39.6–40.4)"])]
    numbers = [getattr(row, protocol) for row in PUBLISHED]
    assert [float(row[-1][0]) for row in found.paper] == [number for number in numbers if number is not None]
    assert "42.8" in render("published.html.j2", published=found) or protocol != "zeroshot"


@pytest.mark.parametrize(
    "facts",
    [
        {"prompts": "imagenet"},
        {"metric": "mean_per_class"},
        {"count": 49_999},
        {"settings": "seed=1"},
        {"task": "linear:imagenet", "settings": ""},
        {"task": "knn:imagenet"},
    ],
)
def test_what_was_measured_otherwise_does_not(facts: dict[str, object]) -> None:
    one = said(**facts)  # type: ignore[arg-type]
    assert agrees(one.result, one.answers) == ""
    assert agrees(said().result, None) == ""


def test_other_data_do_not() -> None:
    one = said()
    names = tuple(f"{name} of glass" for name in clip_names())
    assert agrees(one.result, replace(one.answers, class_names=names)) == ""
    labels = np.where(one.answers.labels == 3, 4, one.answers.labels)
    assert agrees(one.result, replace(one.answers, labels=labels)) == ""
    assert beside([]) is None
