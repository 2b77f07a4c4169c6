"""Outputs of models that do not change: kept ones train as those that are computed at every step."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from openslip.config import Config
from openslip.data.record import Batch, Record, Source
from openslip.data.sources.mixture import Mixture
from openslip.errors import ConfigError, DataError, TrainingError
from openslip.models import Model
from openslip.models.inputs import Inputs
from openslip.needs import TEXT
from openslip.objectives import parse
from openslip.processes import Processes
from openslip.training import keep_pass, kept_features, trainer
from openslip.training.fixed import read_fixed
from openslip.training.saving import feature_files
from openslip.training.saving.run import RunFolder, read_lines
from openslip.training.signals import Interrupted
from openslip.training.student import build_student
from openslip.training.train import train
from toys import ToySource, make_tiny_config, toy_model, with_loss, with_saved_teacher
from training.runs import QUIET, TIMING, Killed, interrupt_after, same, weights

PICTURES = ToySource(13, silent=frozenset(range(13)), broken=frozenset({5}), name="pictures")
HARD = ToySource(24, broken=frozenset({3, 20}), silent=frozenset({9}))


def frozen(
    loss: str = "clip",
    epochs: int = 1,
    *,
    image: str = "all",
    text_tower: str = "none",
    micro_batch: int = 0,
    **options,
) -> Config:
    """Return the configuration of a run whose features are kept for so many epochs of views; options: of the loss."""
    config = make_tiny_config(epochs=3, keep_features=epochs, micro_batch=micro_batch)
    config = with_loss(config, loss, **options)
    model = replace(
        config.model,
        image=replace(config.model.image, freeze=image),
        text=replace(config.model.text, freeze=text_tower),
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
    original = keep_pass.Pass.run

    def run(self: keep_pass.Pass) -> kept_features.KeptFeatures:
        found = original(self)
        online = replace(found.kept, undrawn=frozenset(), records={}, views=found.kept.views - {TEXT})
        nothing: Any = dict.fromkeys(found.arrays)
        return kept_features.KeptFeatures(nothing, online)

    def inputs(self: trainer.Trainer, batch: Batch) -> Inputs:
        arrays, self.kept.arrays = self.kept.arrays, {}
        made = original_inputs(self, batch)
        self.kept.arrays = arrays
        student = self.state.parallel.student.eval()
        there = [o for o in arrays if o.view == TEXT or o.view in made.views]
        found = {}
        for output in there:
            model = student.fixed.models[student.fixed.spec(output.by)] if output.by else student.model
            with torch.no_grad():
                found[output.key] = model.features(made, [output.need])[output.need].half().float()
        student.train()
        return replace(made, kept=found)

    original_inputs = trainer.Trainer._inputs
    monkeypatch.setattr(keep_pass.Pass, "run", run)
    monkeypatch.setattr(trainer.Trainer, "_inputs", inputs)


@dataclass(frozen=True)
class Case:
    name: str
    config: Config
    source: Source = HARD
    ssl: Source | None = None

    def train(self, out: Path, **options) -> RunFolder:
        config = with_saved_teacher(self.config, out.parent / "teacher")
        return train(config, self.source, out, ssl=self.ssl, console=QUIET, **options)


CASES = [
    Case("clip", frozen()),
    Case("two epochs of views", frozen(epochs=2)),
    Case("slip", frozen("clip + 1.0 * simclr", epochs=2)),
    Case("rare, some rows", rarely(frozen("clip + 1.0 * simclr", epochs=2))),
    Case("own pictures", rarely(frozen("clip + 1.0 * simclr", epochs=2)), ssl=PICTURES),
    Case("teacher", frozen("clip + byol")),
    Case("micro-batches", frozen("clip + 1.0 * simclr", micro_batch=3)),
    Case("classes", frozen(positives="labels")),
    Case("text", frozen(image="none", text_tower="all")),
    Case("both towers", frozen("clip + 1.0 * simclr", epochs=2, text_tower="all", micro_batch=3)),
    Case(
        "mixture",
        frozen(epochs=2),
        Mixture([HARD, ToySource(20, name="few"), ToySource(30, name="rare")], (1, 2, 0.5)),
    ),
    Case("loader", replace(frozen(), data=replace(frozen().data, augment="loader"))),
    Case("distil", frozen("clip + distil", 2, image="none")),
    Case("distil alone, in parts", frozen("distil", 2, image="none", micro_batch=3)),
    Case(
        "distil, rare", rarely(frozen("clip + distil", image="none", views="ssl", text=False)), ssl=PICTURES
    ),
    Case("distil and frozen", frozen("clip + distil + byol", text_tower="all")),
]


def every_case(*quick: str) -> pytest.MarkDecorator:
    """All cases; those that are not named are slow, for they take three seconds each."""
    assert set(quick) <= {case.name for case in CASES}
    cases = [pytest.param(c, marks=() if c.name in quick else pytest.mark.slow, id=c.name) for c in CASES]
    return pytest.mark.parametrize("case", cases)


@pytest.mark.usefixtures("counted")
@every_case("slip", "own pictures", "mixture", "both towers", "classes", "distil, rare")
def test_kept_features_train_as_those_of_the_same_views(tmp_path, monkeypatch, case: Case) -> None:
    run = case.train(tmp_path / "kept")
    computed_at_every_step(monkeypatch)
    online = case.train(tmp_path / "online")
    assert (run.path / "skipped.jsonl").read_text() == (online.path / "skipped.jsonl").read_text()
    assert (run.path / "counts.json").read_text() == (online.path / "counts.json").read_text()
    for line, expected in zip(lines(run), lines(online), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


@every_case("rare, some rows", "teacher", "text", "distil")
def test_a_run_that_is_interrupted_ends_the_same(tmp_path, monkeypatch, case: Case) -> None:
    whole = case.train(tmp_path / "whole")
    interrupt_after(monkeypatch, 7)
    with pytest.raises(Interrupted, match="after step 7"):
        case.train(tmp_path / "parts")
    parts = case.train(tmp_path / "parts", resume=True)
    assert same(weights(whole), weights(parts))
    assert lines(whole) == lines(parts)


def test_no_tower_runs_and_no_record_is_read_after_the_pass(tmp_path, monkeypatch) -> None:
    reads: list[int] = []
    original = ToySource.__getitem__

    def read(self: ToySource, index: int) -> Record:
        reads.append(index)
        return original(self, index)

    def stop_counting(self: trainer.Trainer) -> None:
        reads.clear()
        tower = self.state.parallel.student.model.image_tower
        monkeypatch.setattr(tower, "forward", lambda *_, **__: pytest.fail("the tower ran"))
        take_steps(self)

    take_steps = trainer.Trainer._take_steps
    monkeypatch.setattr(ToySource, "__getitem__", read)
    monkeypatch.setattr(trainer.Trainer, "_take_steps", stop_counting)
    Case("", frozen("clip + 1.0 * simclr")).train(tmp_path / "run")
    assert reads == []


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(feature_files, "BLOCK", 5)
    monkeypatch.setattr(keep_pass, "SETTLE_SECONDS", 0.0)


def kept_bytes(run: RunFolder) -> dict[str, bytes]:
    folder = run.path / feature_files.FOLDER
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*"))}


def stop_in_block(monkeypatch, block: int, stop: Callable[[], None]) -> list[int]:
    """Call `stop` when a pass computes that block; return which blocks are computed, as they are."""
    computed: list[int] = []
    original = keep_pass.Pass._of_pictures

    def of_pictures(self: keep_pass.Pass, files: feature_files.FeatureFiles, blocks: Sequence[int]):
        made = original(self, files, blocks)
        for number in blocks:
            if number == block:
                stop()
            computed.append(number)
            yield next(made)

    monkeypatch.setattr(keep_pass.Pass, "_of_pictures", of_pictures)
    return computed


def kill() -> None:
    raise Killed


@pytest.mark.usefixtures("small_blocks")
def test_a_pass_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    case = Case("", frozen(epochs=2))
    whole = case.train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in_block(patch, 7, kill)
        with pytest.raises(Killed):
            case.train(tmp_path / "parts")
    with open(tmp_path / "parts" / feature_files.FOLDER / "train" / "image.feature.npy", "ab") as file:
        file.write(b"half a block")
    computed = stop_in_block(monkeypatch, -1, kill)
    parts = case.train(tmp_path / "parts")  # without --resume: nothing has been learned
    assert computed == [7, 8, 9]
    assert kept_bytes(parts) == kept_bytes(whole)
    assert same(weights(parts), weights(whole))


@pytest.mark.usefixtures("small_blocks")
def test_a_pass_that_is_asked_to_stop_keeps_what_it_has(tmp_path, monkeypatch) -> None:
    case = Case("", frozen(text_tower="all"))
    with monkeypatch.context() as patch:
        stop_in_block(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"computed; 15 of 24 rows are kept.*--resume") as stopped:
            case.train(tmp_path / "run")
    assert stopped.value.status == 128 + signal.SIGTERM
    computed = stop_in_block(monkeypatch, -1, kill)
    case.train(tmp_path / "run", resume=True)
    assert computed == [3, 4]


@pytest.mark.usefixtures("small_blocks")
def test_a_resumed_run_computes_again_what_is_lost_or_of_others(tmp_path, monkeypatch) -> None:
    said = io.StringIO()
    case = Case("", frozen())
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(Interrupted):
            case.train(tmp_path / "run")
    before = kept_bytes(RunFolder(tmp_path / "run"))
    folder = Path(feature_files.FOLDER) / "train"
    about = json.loads((tmp_path / "run" / folder / "about.json").read_text())
    about["of"]["weights"]["image.feature"] = "another tower's"
    damages = {
        "with other weights": ("about.json", json.dumps(about)),
        "about.json cannot be read": ("about.json", "{"),
        "image.feature.npy is incomplete": ("image.feature.npy", "short"),
    }
    for number, (words, (name, content)) in enumerate(damages.items()):
        again = shutil.copytree(tmp_path / "run", tmp_path / f"again-{number}")
        (again / folder / name).write_text(content)
        run = train(case.config, case.source, again, resume=True, console=Console(file=said, width=400))
        assert words in said.getvalue()
        assert kept_bytes(run) == before


def test_another_run_goes_on_from_a_copy_of_the_features(tmp_path, monkeypatch) -> None:
    case = Case("", frozen())
    run = case.train(tmp_path / "run")
    shutil.copytree(run.path / feature_files.FOLDER, tmp_path / "other" / feature_files.FOLDER)
    computed = stop_in_block(monkeypatch, -1, kill)
    faster = replace(case.config, optimizer=replace(case.config.optimizer, lr=1e-2))
    other = Case("", faster).train(tmp_path / "other")
    assert computed == []
    assert kept_bytes(other) == kept_bytes(run)


def test_a_budget_of_time_is_for_steps_alone(tmp_path, monkeypatch) -> None:
    config = frozen()
    config = replace(config, training=replace(config.training, budget="2s"))
    computed = stop_in_block(monkeypatch, -1, kill)
    run = Case("", config).train(tmp_path / "run")
    assert computed == [0]
    assert read_lines(run.path / "metrics.jsonl")[-1]["progress"] == 1


def test_a_run_that_is_done_computes_nothing_again(tmp_path) -> None:
    case = Case("", frozen())
    run = case.train(tmp_path / "run")
    shutil.rmtree(run.path / feature_files.FOLDER)
    case.train(run.path, resume=True)
    assert not (run.path / feature_files.FOLDER).exists()


@dataclass(eq=False)
class Fickle(ToySource):
    """Gives another picture each time."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        assert isinstance(record.image, np.ndarray)
        noise = np.random.default_rng().integers(0, 256, record.image.shape, dtype=np.uint8)
        return replace(record, image=noise)


def test_a_source_that_changes_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="records differ when they are read again.*--training.keep-features"):
        Case("", frozen(), Fickle(24)).train(tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (frozen(image="none"), "no tower is frozen, and no model is fixed.*--model.image.freeze all"),
        (frozen(image="-1"), "no tower is frozen, and no model is fixed"),
        (frozen(epochs=-1), "keep-features must be at least 0"),
    ],
)
def test_bad_settings(tmp_path, config: Config, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Case("", config).train(tmp_path / "run")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_features.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(ConfigError, match=r"no room for the features.*Lower --training\.keep-features"):
        Case("", frozen()).train(tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_features_beyond_fp16_are_refused(tmp_path, monkeypatch) -> None:
    def huge(self: keep_pass.Pass, inputs: Inputs, outputs: Sequence[kept_features.Output]):
        return {output.key: torch.full((len(inputs), output.width), 1e6) for output in outputs}

    monkeypatch.setattr(keep_pass.Pass, "_made", huge)
    with pytest.raises(TrainingError, match=r"not finite in fp16.*at most 1e\+06"):
        Case("", frozen()).train(tmp_path / "run")


def test_the_plan_says_what_is_kept_and_where_that_does_no_good(tmp_path) -> None:
    said = io.StringIO()
    config = frozen(epochs=3)
    train(config, HARD, tmp_path / "run", console=Console(file=said, width=400))
    plan = " ".join(said.getvalue().split())
    assert "features of image by the frozen tower: 72 × 16 in fp16" in plan
    assert "image repeats after 3 epochs" in plan
    assert "keep_features 3 is at least the run's number of epochs, 3: no view repeats" in plan


def test_an_image_tower_alone_is_kept_by_its_feature() -> None:
    def read(spec: str) -> tuple[Model, Config]:
        model, own = toy_model(spec)
        model.text_tower = model.text_projection = model.logit_scale = model.image_projection = None
        return model, own

    config = frozen("distil", image="none", text=False)
    loss = parse(config.objective)
    student = build_student(config, loss, fixed=read_fixed(config, loss, Processes(), read))
    (output,) = kept_features.keeping(config, student, ssl=False).outputs
    assert (output.by, output.view, output.width) == ("distil", "image@24", 12)
