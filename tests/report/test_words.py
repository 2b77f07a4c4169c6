from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slip.config import Config, ObjectiveConfig, ViewConfig
from slip.report.runs import Run
from slip.report.words import configuration, view


def test_a_view_says_what_is_left_out_of_it() -> None:
    words = view(ViewConfig(size=32, drop_tokens=0.5, flip=0.5))
    assert (
        words
        == "a crop of 50%–100% of the picture, at 32 px, 50% of the tokens dropped in training, flipped 50%"
    )
    assert view(ViewConfig()) == "a crop of 50%–100% of the picture"


def test_how_often_there_is_self_supervision_is_said() -> None:
    run = Run("run", Path("run"), Config())
    always = configuration(run)["Self-supervised views"]
    scheduled = replace(run, config=Config(objective=ObjectiveConfig(ssl_every=2, ssl_share=0.25)))
    words = configuration(scheduled)["Self-supervised views"]
    assert words == f"{always}; of 25% of each batch; on one step of 2"
