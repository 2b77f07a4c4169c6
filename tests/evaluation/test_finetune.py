"""Finetuning as an evaluator: it learns, resumes bit for bit, and says what it cannot use."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from openslip.config import Config, ImageTowerConfig, ModelConfig, ViewsConfig
from openslip.data.labelled import load_labelled
from openslip.encoder import Encoder
from openslip.errors import CheckpointError, ConfigError, DataError, EvaluationError
from openslip.evaluation.finetune import Finetune, FinetuneRecipe, run, state
from openslip.evaluation.finetune.data import seeded, train_loader
from openslip.evaluation.finetune.state import fingerprint
from openslip.training.saving import checkpoint, lock, tensors

SMALL = FinetuneRecipe(
    name="test", epochs=3, warmup_epochs=1, batch=8, lr=0.2, layer_decay=0.9, drop_path=0.2, scale=(0.5, 1.0)
)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "dark_blue": (20, 30, 180)}


@pytest.fixture
def encoder() -> Encoder:
    config = Config(
        views=ViewsConfig(size=16),
        model=ModelConfig(image=ImageTowerConfig(patch=8, width=32, depth=2, heads=2)),
    )
    config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, loss="simclr"))
    with seeded(0):
        return Encoder.from_config(config)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Noisy pictures of one colour a class: 12 to train, 6 to test of each of three."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = np.array(colour) + generator.integers(-20, 20, (20, 24, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def finetune(pictures: Path, folder: Path | None = None, **options) -> Finetune:
    return Finetune(
        str(pictures), folder=folder, recipe=options.pop("recipe", SMALL), precision="fp32", **options
    )


def final_state(folder: Path) -> dict[str, bytes]:
    (last,) = folder.glob("step-*")
    return {p.name: p.read_bytes() for p in last.iterdir()}


def test_it_learns_and_leaves_the_encoder_as_it_was(encoder, pictures):
    encoder.model.train()
    before, generator = fingerprint(encoder.model), torch.get_rng_state()
    recipe = dataclasses.replace(
        SMALL, epochs=12, mix_probability=0.0, rand_augment="", erasing=0.0, drop_path=0.0
    )
    with torch.inference_mode():
        results = finetune(pictures, recipe=recipe).evaluate(encoder)
    top1, per_class, *_ = results
    assert (top1.task, top1.metric, per_class.metric) == ("finetune:pictures", "top1", "mean_per_class")
    assert top1.value > 0.9
    assert top1.count == 18
    assert top1.low < top1.value <= top1.high
    assert fingerprint(encoder.model) == before
    assert encoder.model.training
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kill_at", [3, 4, 5, 11])
def test_killed_and_resumed_equals_uninterrupted(encoder, pictures, tmp_path, monkeypatch, kill_at):
    """Four steps an epoch: killed before the first state, at an epoch's end, in the middle, near the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = finetune(pictures, whole).evaluate(encoder)
    step, calls = run.Trainer.step, iter(range(1000))

    def killed_step(trainer, batch):
        if next(calls) == kill_at:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run.Trainer, "step", killed_step)
        with pytest.raises(KeyboardInterrupt):
            finetune(pictures, killed).evaluate(encoder)
    (killed / ".writing-step-00000099").mkdir()  # what a kill in the middle of writing leaves behind
    torch.rand(5), random.random()
    assert finetune(pictures, killed).evaluate(encoder) == expected
    assert final_state(killed) == final_state(whole)


def test_a_finished_folder_is_only_measured_again(encoder, pictures, tmp_path, monkeypatch):
    expected = finetune(pictures, tmp_path / "run").evaluate(encoder)
    monkeypatch.setattr(run, "train_loader", None)
    assert finetune(pictures, tmp_path / "run").evaluate(encoder) == expected


def test_micro_batches_make_the_same_step(encoder, pictures, tmp_path):
    recipe = dataclasses.replace(SMALL, drop_path=0.0, clip_grad=1.0, epochs=1)
    for name, micro_batch in (("whole", 0), ("parts", 3)):
        finetune(pictures, tmp_path / name, recipe=recipe, micro_batch=micro_batch).evaluate(encoder)
    whole, parts = (
        checkpoint.read_tensors(tmp_path / n / "step-00000004/model.safetensors") for n in ("whole", "parts")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-4, rtol=1e-4, msg=name)


def test_workers_do_not_change_the_batches(encoder, pictures):
    labelled = load_labelled(str(pictures), "train")
    options = {"batch": 8, "seed": 0, "epochs": range(1, 3)}
    here, there = (
        list(train_loader(labelled, SMALL, encoder.config.views, workers=workers, **options))
        for workers in (0, 1)
    )
    assert len(here) == len(there) == 8
    for a, b in zip(here, there):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_damaged_images_are_left_out_and_counted(encoder, pictures):
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            (pictures / split / "red" / f"{i}.png").write_bytes(b"no picture")
    top1, *_ = finetune(pictures).evaluate(encoder)
    assert (top1.count, top1.skipped) == (16, 2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_of_damaged_images_alone_is_an_error_with_the_reason(encoder, pictures, split):
    for path in (pictures / split).glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the .* images could be used.*zero bytes"):
        finetune(pictures).evaluate(encoder)


# What it refuses


def folders(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.is_dir())


def test_different_finetunings_keep_their_states_side_by_side(
    encoder, pictures, tmp_path, monkeypatch, caplog
):
    """Of another recipe, another seed, another model: each has its own, and goes on from it."""
    folder = tmp_path / "kept" / "pictures"
    finetune(pictures, folder).evaluate(encoder)
    first = final_state(folder)
    finetune(pictures, folder, recipe=dataclasses.replace(SMALL, lr=0.1)).evaluate(encoder)
    assert "recipe.lr (0.2 there, 0.1 here)" in caplog.text
    finetune(pictures, folder, seed=1).evaluate(encoder)
    assert "seed (0 there, 1 here)" in caplog.text
    with torch.no_grad():
        encoder.model.image_tower.trunk.cls_token.add_(1)  # type: ignore[union-attr]
    expected = finetune(pictures, folder).evaluate(encoder)
    assert final_state(folder) == first
    names = folders(folder.parent)
    assert names[0] == "pictures"
    assert len(names) == 4
    assert all(re.fullmatch("pictures-[0-9a-f]{8}", name) for name in names[1:])
    monkeypatch.setattr(run, "train_loader", None)
    assert finetune(pictures, folder).evaluate(encoder) == expected


def test_other_pictures_under_the_same_names_are_finetuned_on_anew(encoder, pictures, tmp_path):
    """The same number, classes and labels, at the same place: only the bytes of the pictures tell."""
    folder = tmp_path / "kept" / "pictures"
    before = finetune(pictures, folder).evaluate(encoder)
    for path in pictures.glob("*/*/*.png"):
        with Image.open(path) as image:
            inverted = ImageOps.invert(image.convert("RGB"))
        inverted.save(path)
    expected = finetune(pictures).evaluate(encoder)
    after = finetune(pictures, folder).evaluate(encoder)
    assert after == expected
    assert after[0].identity != before[0].identity
    assert after[0].data == before[0].data
    assert len(folders(folder.parent)) == 2


def test_pictures_that_were_moved_are_the_same(encoder, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "kept" / "pictures"
    before = finetune(pictures, folder).evaluate(encoder)
    moved = pictures.rename(tmp_path / "moved")
    monkeypatch.setattr(run, "train_loader", None)
    after = finetune(moved, folder).evaluate(encoder)
    assert [(r.value, r.content) for r in after] == [(r.value, r.content) for r in before]


def test_a_state_of_an_earlier_version_is_left_and_said(encoder, pictures, tmp_path, caplog):
    folder = tmp_path / "kept" / "pictures"
    finetune(pictures, folder).evaluate(encoder)
    kept, description = final_state(folder), json.loads((folder / "finetune.json").read_text())
    for new in ("pictures", "mean", "std"):
        del description[new]
    (folder / "finetune.json").write_text(json.dumps(description))
    finetune(pictures, folder).evaluate(encoder)
    assert "did not note the pictures" in caplog.text
    assert final_state(folder) == kept
    assert len(folders(folder.parent)) == 2


def test_where_nothing_can_be_written_nothing_is_kept_and_it_is_said(encoder, pictures, tmp_path, caplog):
    (tmp_path / "file").touch()
    expected = finetune(pictures).evaluate(encoder)
    assert finetune(pictures, tmp_path / "file" / "pictures").evaluate(encoder) == expected
    assert "the state of the finetuning is not kept" in caplog.text


def test_a_finished_state_in_a_folder_that_is_only_read_is_used(encoder, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    expected = finetune(pictures, folder).evaluate(encoder)
    monkeypatch.setattr(state, "_writable", lambda folder: False)
    with monkeypatch.context() as patch:
        patch.setattr(run, "train_loader", None)
        assert finetune(pictures, folder).evaluate(encoder) == expected
    (last,) = folder.glob("step-*")
    shutil.rmtree(last)
    assert finetune(pictures, folder).evaluate(encoder) == expected
    assert not list(folder.glob("step-*"))


def test_a_second_process_is_told_to_wait(encoder, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    finetune(pictures, folder).evaluate(encoder)
    with lock.held(folder), monkeypatch.context() as patch:
        patch.setattr(state.lock, "held", partial(lock.held, patience=0.0))
        with pytest.raises(
            ConfigError, match=r"Another process works on finetune:pictures.*same command goes on"
        ):
            finetune(pictures, folder).evaluate(encoder)


def test_a_damaged_state_is_an_error_that_says_what_to_do(encoder, pictures, tmp_path):
    folder = tmp_path / "run"
    finetune(pictures, folder).evaluate(encoder)
    (weights,) = folder.glob("step-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be read.*Remove the folder.*starts over"):
        finetune(pictures, folder).evaluate(encoder)
    (folder / "finetune.json").write_text("{")
    finetune(pictures, folder).evaluate(encoder)
    (own,) = (path for path in tmp_path.glob("run-*"))
    (own / "finetune.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read.*Remove the folder"):
        finetune(pictures, folder).evaluate(encoder)


def test_a_full_disk_leaves_the_last_epochs_state(encoder, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write, calls = tensors.write_tensors, iter(range(100))

    def full(path, *arguments):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        write(path, *arguments)

    monkeypatch.setattr(tensors, "write_tensors", full)
    with pytest.raises(CheckpointError, match=r"No space left.*run the same command again"):
        finetune(pictures, folder).evaluate(encoder)
    assert [p.name for p in folder.glob("step-*")] == ["step-00000004"]


def test_one_class_is_refused(encoder, pictures):
    for name in ("green", "dark_blue"):
        for path in (pictures / "train" / name).iterdir():
            path.unlink()
    with pytest.raises(DataError, match="all of one class"):
        finetune(pictures).evaluate(encoder)


def test_splits_that_do_not_fit_are_refused(pictures):
    train, test = (load_labelled(str(pictures), split) for split in ("train", "test"))
    for changed, message in (
        (dataclasses.replace(test, class_names=("red", "green", "violet")), "different classes"),
        (dataclasses.replace(test, labels=test.labels[:-1]), "one label for each image"),
        (dataclasses.replace(test, labels=test.labels + 1), "without a class name"),
        (dataclasses.replace(test, labels=test.labels[:0], images=()), "no images"),
    ):
        with pytest.raises(DataError, match=message):
            run.check(train, changed)


def test_divergence_is_an_error_and_the_state_before_it_is_kept(encoder, pictures, tmp_path, monkeypatch):
    step, calls = run.Trainer.step, iter(range(1000))
    monkeypatch.setattr(
        run.Trainer, "step", lambda t, b: step(t, b) * (math.nan if next(calls) == 5 else 1.0)
    )
    with pytest.raises(EvaluationError, match=r"diverged.*epoch 2"):
        finetune(pictures, tmp_path / "run").evaluate(encoder)
    assert [p.name for p in (tmp_path / "run").glob("step-*")] == ["step-00000004"]
