"""Outputs of models that do not change: kept ones train as those that are computed at every step."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from openslip.config import Config
from openslip.data.kept import Kept
from openslip.data.record import Batch, Record, Source
from openslip.data.sources.mixture import Mixture
from openslip.errors import ConfigError, DataError, TrainingError
from openslip.models.inputs import Inputs
from openslip.needs import TEXT
from openslip.training import keeping as passes
from openslip.training import kept, trainer
from openslip.training.saving import features
from openslip.training.saving.run import RunFolder, read_lines
from openslip.training.signals import Interrupted
from openslip.training.train import train
from toys import ToySource, make_tiny_config, with_loss
from training.runs import QUIET, TIMING, Killed, interrupt_after, same, weights

PICTURES = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
HARD = ToySource(24, broken=frozenset({3, 20}), silent=frozenset({9}))


def frozen(
    loss: str = "clip", epochs: int = 1, *, image: str = "all", text: str = "none", **training
) -> Config:
    """Return the configuration of a run with frozen towers, whose features are kept for so many epochs of views."""
    config = with_loss(make_tiny_config(**{"epochs": 3, **training}, keep_features=epochs), loss)
    model = replace(
        config.model,
        image=replace(config.model.image, freeze=image),
        text=replace(config.model.text, freeze=text),
    )
    return replace(config, model=model, data=replace(config.data, max_skipped=0.5))


def rarely(config: Config) -> Config:
    return replace(config, objective=replace(config.objective, ssl_every=2, ssl_share=0.5))


def lines(run: RunFolder) -> list[dict]:
    """Return what a run logged that is no time."""
    return [
        {k: v for k, v in line.items() if k not in TIMING and not k.startswith("time_")}
        for line in read_lines(run.path / "metrics.jsonl")
    ]


def computed_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs draw all views and compute what is kept at every step, of the batch's own views, and round it to fp16.

    Nothing that was kept is used: neither features nor what the pass learned of the records.
    """
    original = passes.Pass.run

    def run(self: passes.Pass) -> kept.KeptFeatures:
        found = original(self)
        online = replace(found.kept, undrawn=frozenset(), records={}, views=found.kept.views - {TEXT})
        return kept.KeptFeatures(dict.fromkeys(found.arrays), online)

    def inputs(self: trainer.Trainer, batch: Batch) -> Inputs:
        arrays, self.kept.arrays = self.kept.arrays, {}
        made = original_inputs(self, batch)
        self.kept.arrays = arrays
        student = self.state.parallel.student.eval()
        there = [o for o in arrays if o.view == TEXT or o.view in made.views]
        with torch.no_grad():
            found = student.model.features(made, [output.need for output in there])
        student.train()
        return replace(made, kept={("", need): feature.half().float() for need, feature in found.items()})

    original_inputs = trainer.Trainer._inputs
    monkeypatch.setattr(passes.Pass, "run", run)
    monkeypatch.setattr(trainer.Trainer, "_inputs", inputs)


@dataclass(frozen=True)
class Case:
    name: str
    config: Config
    source: Source = HARD
    ssl: Source | None = None

    def train(self, out: Path, **options) -> RunFolder:
        return train(self.config, self.source, out, ssl=self.ssl, console=QUIET, **options)


CASES = [
    Case("clip", frozen()),
    Case("two epochs of views", frozen(epochs=2)),
    Case("slip", frozen("clip + 1.0 * simclr", epochs=2)),
    Case("rare, some rows", rarely(frozen("clip + 1.0 * simclr", epochs=2))),
    Case("own pictures", rarely(frozen("clip + 1.0 * simclr", epochs=2)), ssl=PICTURES),
    Case("teacher", frozen("clip + byol")),
    Case("micro-batches", frozen("clip + 1.0 * simclr", micro_batch=3)),
    Case("text", frozen(image="none", text="all")),
    Case("both towers", frozen("clip + 1.0 * simclr", epochs=2, text="all", micro_batch=3)),
    Case(
        "mixture",
        frozen(epochs=2),
        Mixture([HARD, ToySource(20, name="few"), ToySource(30, name="rare")], (1, 2, 0.5)),
    ),
    Case("loader", replace(frozen(), data=replace(frozen().data, augment="loader", workers=1))),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@EVERY_CASE
def test_kept_features_train_as_those_of_the_same_views(tmp_path, monkeypatch, case: Case) -> None:
    run = case.train(tmp_path / "kept")
    computed_at_every_step(monkeypatch)
    online = case.train(tmp_path / "online")
    assert (run.path / "skipped.jsonl").read_text() == (online.path / "skipped.jsonl").read_text()
    assert (run.path / "counts.json").read_text() == (online.path / "counts.json").read_text()
    for line, expected in zip(lines(run), lines(online), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


@EVERY_CASE
def test_a_run_that_is_interrupted_ends_the_same(tmp_path, monkeypatch, case: Case) -> None:
    whole = case.train(tmp_path / "whole")
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted, match="after step 7"):
        case.train(tmp_path / "parts")
    parts = case.train(tmp_path / "parts", resume=True)
    assert same(weights(whole), weights(parts))
    assert lines(whole) == lines(parts)
