"""Whole runs on two processes: options that decide what a step does leave the metrics that one process has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from distributed.ranks import run_on
from openslip.config import Config, TowerRateConfig
from openslip.training.saving.run import read_lines
from openslip.training.train import train
from toys import CASES, ToySource, case_name, make_tiny_config, tuned, with_loss, with_saved_teacher

QUIET = Console(quiet=True)


def every_second_step(config: Config) -> Config:
    return replace(config, objective=replace(config.objective, ssl_every=2))


def late(config: Config) -> Config:
    return replace(config, objective=replace(config.objective, ssl_from=0.5))


def half_of_the_rows(config: Config) -> Config:
    return replace(config, objective=replace(config.objective, ssl_share=0.5))


def recomputed(config: Config) -> Config:
    return replace(config, training=replace(config.training, checkpoint_activations="full"))


def recomputed_shards(config: Config) -> Config:
    return recomputed(replace(config, training=replace(config.training, parallel="fsdp")))


def adapted(config: Config) -> Config:
    """Adapters and frozen blocks, with rates of their own."""
    rates = replace(config.optimizer, image=TowerRateConfig(lr=1e-2, layer_decay=0.5))
    return tuned(replace(config, optimizer=rates), text="-1", lora=(4, 0))


def adapted_shards(config: Config) -> Config:
    return recomputed_shards(adapted(config))


def losses(config: Config, out: Path) -> list[dict[str, float]]:
    run = train(config, ToySource(), out, console=QUIET)
    return [
        {name: value for name, value in line.items() if "loss" in name or name == "grad_norm"}
        for line in read_lines(run.path / "metrics.jsonl")
    ]


def losses_of_each(configs: dict[str, Config], out: Path) -> dict[str, list[dict[str, float]]]:
    return {name: losses(config, out / str(number)) for number, (name, config) in enumerate(configs.items())}


CHANGES = (every_second_step, late, half_of_the_rows, recomputed, recomputed_shards, adapted, adapted_shards)
CONFIGS = {change.__name__: change(make_tiny_config(epochs=0.75, batch=8)) for change in CHANGES}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict[str, list[dict[str, float]]]:
    """The losses of every changed run on two processes, which are started once."""
    return run_on(2, losses_of_each, CONFIGS, tmp_path_factory.mktemp("two"))[0]


@pytest.mark.parametrize("change", CONFIGS)
def test_two_processes_are_one(tmp_path, of_two, change: str) -> None:
    alone = losses(CONFIGS[change], tmp_path / "one")
    assert len(alone) > 1
    for line, expected in zip(of_two[change], alone, strict=True):
        assert line == pytest.approx(expected, rel=1e-3)


def test_every_objective_trains_alike_on_two_processes(tmp_path) -> None:
    tiny = make_tiny_config(epochs=0.75, batch=8)
    configs = {
        f"{loss}, {case_name(options)}": with_saved_teacher(
            with_loss(tiny, loss, **options), tmp_path / "teacher"
        )
        for loss, options in CASES
    }
    alone = losses_of_each(configs, tmp_path / "one")
    found = run_on(2, losses_of_each, configs, tmp_path / "two")
    for loss, lines in alone.items():
        assert len(lines) > 1
        for line, expected in zip(found[0][loss], lines, strict=True):
            assert line == pytest.approx(expected, rel=1e-3), loss
