from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openslip.config import Config, ObjectiveConfig, OptimizerConfig, TowerRateConfig, ViewConfig
from openslip.report.description import _duration, configuration, course, data_name, operations, view
from openslip.report.rows import Row
from openslip.report.runs import Run
from toys import tuned


def test_a_view_says_what_is_left_out_of_it() -> None:
    words = view(ViewConfig(size=32, drop_tokens=0.5, flip=0.5))
    assert (
        words
        == "a crop of 50%–100% of the picture, at 32 px, 50% of the tokens dropped in training, flipped 50%"
    )
    assert view(ViewConfig()) == "a crop of 50%–100% of the picture"


def test_how_often_there_is_self_supervision_is_said() -> None:
    run = Run("run", Path("run"), Config())
    always = configuration(Row("", (run,)))["Self-supervised views"]
    scheduled = replace(run, config=Config(objective=ObjectiveConfig(ssl_every=2, ssl_share=0.25)))
    words = configuration(Row("", (scheduled,)))["Self-supervised views"]
    assert words == f"{always}; of 25% of each batch; on one step of 2"
    late = replace(run, config=Config(objective=ObjectiveConfig(ssl_from=0.8)))
    words = configuration(Row("", (late,)))["Self-supervised views"]
    assert words == f"{always}; after 80% of the steps"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("scenes:train:4000", "scenes"),
        ("/data/scenes/", "scenes"),
        ("cc3m/{00000..00331}.tar", "cc3m/{00000..00331}.tar"),
        ("cc3m/a-*.tar", "a-*.tar"),
        ("https://user:key@host/a/b.tar?sig=1", "b.tar"),
        ("hf:owner/name", "owner/name"),
        ("a.csv + 0.5 * b/*.tar + c", "3 sources"),
        ("C:\\pictures\\birds", "birds"),
        ("", ""),
    ],
)
def test_what_data_are_called_in_a_sentence(spec: str, name: str) -> None:
    assert data_name(spec) == name


def test_times_read_as_people_say_them() -> None:
    times = [_duration(seconds) for seconds in (0.4, 59, 60, 200, 3599, 3600, 90_000)]
    assert times == ["0 s", "59 s", "1 min 0 s", "3 min 20 s", "59 min 59 s", "1 h 0 min", "1 d 1 h"]


def test_what_a_run_has_cost_is_said_as_far_as_its_log_says() -> None:
    line = {"position": 8000, "samples_per_second": 100.0, "tflops": 0.5, "memory_gib": 3.14}
    said = course(Run("run", Path("run"), Config(), metrics=(line,)))
    # 0.5e12 operations a second at 100 samples a second are 5e9 a sample, of 8,000 samples.
    assert (said["Operations of rank 0"], said["Memory of rank 0, most"]) == ("40 TFLOP", "3.1 GiB")
    assert said["Time in steps"] == "1 min 20 s"
    del line["tflops"], line["memory_gib"]
    said = course(Run("run", Path("run"), Config(), metrics=(line,)))
    assert {said["Operations of rank 0"], said["Memory of rank 0, most"]} == {"–"}


def test_what_a_loss_does_not_use_is_not_said() -> None:
    def topics(loss: str, **data: Any) -> set[str]:
        config = Config(objective=ObjectiveConfig(loss=loss), data=replace(Config().data, **data))
        return set(configuration(Row("", (Run("run", Path("run"), config),))))

    text, paired, twice, pictures = (
        *("Text tower", "View that goes with the caption", "Self-supervised views"),
        "Pictures of the self-supervised views",
    )
    assert topics("clip", ssl="b") & {text, paired, twice, pictures} == {text, paired}
    assert topics("simclr", ssl="b") & {text, paired, twice, pictures} == {twice, pictures}
    assert topics("clip + simclr") & {text, paired, twice, pictures} == {text, paired, twice}
    for unknown in ("mine:Loss", "simclr + mine:Loss", ""):
        assert topics(unknown, ssl="b") >= {text, paired, twice, pictures}
    assert {"Options of clip", "Options of simclr"} <= topics("clip + simclr")


def test_options_of_an_objective_are_those_that_it_was_trained_with() -> None:
    def options(loss: str) -> dict[str, str]:
        objective = ObjectiveConfig(loss=loss, options={"simclr": {"temperature": 0.2}, "mine": {"x": 1}})
        words = configuration(Row("", (Run("run", Path("run"), Config(objective=objective)),)))
        return {topic: text for topic, text in words.items() if topic.startswith("Options")}

    found = options("0.5 * simclr + mine:Loss")
    assert found.keys() == {"Options of simclr"}
    assert found["Options of simclr"].startswith("temperature 0.2; ")
    assert options("mine:Loss") == {}


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({}, None),
        ({"image": "all", "text": "1"}, "image tower; first 1 block of the text tower"),
        ({"image": "-2"}, "image tower except for its last 2 blocks"),
        ({"text": "all", "lora": (0, 8)}, "text tower, with adapters of rank 8"),
    ],
)
def test_what_of_the_towers_stays_as_it_is(tuning: dict, words: str | None) -> None:
    row = Row("", (Run("run", Path("run"), tuned(Config(), **tuning)),))
    assert configuration(row).get("Frozen") == words


def test_rates_of_their_own_are_said_of_what_learns() -> None:
    optimizer = OptimizerConfig(
        image=TowerRateConfig(layer_decay=0.7), text=TowerRateConfig(lr=1e-4), fresh_lr=1e-3
    )
    config = replace(tuned(Config(), image="all"), optimizer=optimizer)
    words = configuration(Row("", (Run("run", Path("run"), config),)))["Optimiser"]
    assert words.endswith("; text tower 0.0001, weights that the start lacks 0.001")
    words = configuration(Row("", (Run("run", Path("run"), replace(config, model=Config().model)),)))
    assert "; image tower times 0.7 from layer to layer, " in words["Optimiser"]


@pytest.mark.parametrize(("count", "text"), [(None, "–"), (2.94e15, "2.94 P"), (12.0, "12"), (1e9, "1 G")])
def test_operations(count, text) -> None:
    assert operations(count) == text
