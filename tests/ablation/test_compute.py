from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from openslip.ablation import compute
from openslip.ablation.grid import Grid, Variant
from openslip.config import ObjectiveConfig
from openslip.data.data import Data
from openslip.data.schedule import Schedule
from openslip.errors import ConfigError, DataError
from openslip.objectives import parse
from openslip.training.watching import speed
from toys import ToySource, make_tiny_config, with_loss

EACH = {"clip": 10.0, "clip + 1.0 * simclr": 25.0}


@pytest.fixture
def counts(monkeypatch) -> list[int]:
    """Operations of a sample by loss, and toys in the place of data; return the lengths that are counted with."""
    lengths: list[int] = []

    def each(config, loss, schedule, length):
        lengths.append(length)
        return EACH[config.objective.loss]

    monkeypatch.setattr(compute, "operations_per_sample", each)
    monkeypatch.setattr(compute.asked, "data_of", lambda *a, **o: (Data(ToySource()), ("toy", "")))
    return lengths


def grid_of(*variants: Variant) -> Grid:
    return Grid(Path("g.toml"), variants, (0,), Path("runs"))


def variants(**training):
    config = make_tiny_config(**training)
    slip = Variant("slip", config, {})
    clip = Variant("clip", with_loss(config, "clip"), {}, "slip")
    return slip, clip


def test_epochs_of_equal_compute_follow_from_the_operations_of_a_sample(counts) -> None:
    grid, costs = compute.planned(grid_of(*variants(epochs=2)))
    slip, clip = (variant.config.training for variant in grid.variants)
    assert (slip.epochs, clip.epochs) == (2, 5)  # 25 / 10 as many
    assert costs["slip"] == compute.Cost(128, 25.0, records=64)
    assert (costs["clip"].samples, costs["clip"].operations) == (320, costs["slip"].operations)


def test_a_budget_of_samples_stays_one(counts) -> None:
    grid, costs = compute.planned(grid_of(*variants(budget="200 samples")))
    assert grid.variants[1].config.training.budget == "500 samples"
    assert (costs["slip"].samples, costs["clip"].samples) == (200, 496)  # whole batches of 8


def test_a_length_that_nobody_knows_is_refused(counts) -> None:
    with pytest.raises(ConfigError, match=r"compute of slip.*slip is not known.*budget is a time"):
        compute.planned(grid_of(*variants(budget="2h")))
    slip, clip = variants()
    with pytest.raises(ConfigError, match="towers come with init"):
        compute.planned(grid_of(slip, replace(clip, config=replace(clip.config, init="timm:x"))))


def test_less_than_a_batch_is_refused(counts) -> None:
    with pytest.raises(ConfigError, match="budget is smaller than a batch of 8"):
        compute.planned(grid_of(variants(budget="7 samples")[0]))
    with pytest.raises(ConfigError, match="batch of 65 is larger than the 64 records"):
        compute.planned(grid_of(variants(batch=65)[0]))


def test_data_of_one_variant_that_are_gone_do_not_end_the_plan(counts, monkeypatch) -> None:
    def data_of(train, ssl, *_, **__):
        if train == "gone.csv":
            raise DataError("There is no such file", got=train)
        return Data(ToySource()), ("toy", "")

    monkeypatch.setattr(compute.asked, "data_of", data_of)
    slip, _ = variants(epochs=2)
    gone = replace(slip.config, data=replace(slip.config.data, train="gone.csv"))
    missing = Variant("missing", gone, {})
    _, costs = compute.planned(grid_of(slip, missing))
    assert costs["slip"].samples == 128
    assert costs["missing"].samples is None
    assert "cannot be trained: There is no such file. Got: 'gone.csv'" in costs["missing"].unknown
    with pytest.raises(DataError, match="no such file"):  # of all
        compute.planned(grid_of(missing))


def test_a_held_out_share_is_no_part_of_an_epoch(counts) -> None:
    slip, _ = variants(epochs=1)
    config = replace(slip.config, data=replace(slip.config.data, val="25%"))
    _, costs = compute.planned(grid_of(replace(slip, config=config)))
    assert (costs["slip"].samples, costs["slip"].about) == (48, True)


def test_the_longest_caption_of_a_batch_is_expected(counts) -> None:
    every = list(itertools.product([3, 5, 9], repeat=4))
    assert compute.expected_longest([9, 3, 5], 4) == round(mean(map(max, every)))
    assert compute.expected_longest([4], 100) == 4
    compute.planned(grid_of(variants()[0]))
    assert counts == [5]  # of start, three words and end


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(("every", "share", "start"), [(1, 1.0, 0), (3, 0.5, 0), (1, 1.0, 2), (2, 0.5, 4)])
def test_operations_of_a_sample_are_the_mean_of_the_steps(every, share, start) -> None:
    base, count = make_tiny_config(), 12
    often = {"ssl_every": every, "ssl_share": share, "ssl_from": start / count}
    config = replace(base, objective=replace(base.objective, loss=ObjectiveConfig().loss, **often))
    loss, schedule = parse(config.objective), Schedule(8, every, share, start)
    found = speed.operations_per_sample(config, loss, schedule, 7)
    steps = []
    for step in range(count):
        drawn = [view for view in loss.views if schedule.on(step) or not view.scheduled]
        rows = {view.name: schedule.rows if view.scheduled else 8 for view in drawn}
        kind = tuple((name, (count, 3, 16, 16)) for name, count in rows.items()), 8, ()
        steps.append(speed._count_step(config, loss, kind, 7))
    assert found == pytest.approx(mean(steps) / 8)
    assert found > 0
