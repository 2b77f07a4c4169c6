"""Starting from somebody's weights: what is taken over, what is put in, what is said and noted."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import openslip
from openslip.config import Config, ImageTowerConfig, ModelConfig, TextTowerConfig, ViewsConfig
from openslip.errors import CheckpointError, ConfigError
from openslip.models.weights import Origin, Pretrained
from openslip.training import start
from openslip.training.saving import checkpoint
from openslip.training.saving.tensors import read_tensors
from openslip.training.signals import Interrupted
from openslip.training.student import stored_state
from openslip.training.train import train
from openslip.training.trainer import Trainer
from toys import RECORDS, ToySource, make_student, make_tiny_config, with_loss

HALF = (0.5, 0.5, 0.5)
THEIRS = Config(
    model=ModelConfig(
        image=ImageTowerConfig(patch=4, width=24, depth=1, heads=2),
        text=TextTowerConfig(width=8, depth=1, heads=2, context=9),
        embed_dim=6,
    ),
    views=ViewsConfig(size=8, mean=HALF, std=HALF),
)


def somebodys(parts: tuple[str, ...] = (), without: tuple[str, ...] = (), loss: str = "clip") -> Pretrained:
    """Return the weights of a small model; parts: those of its names that begin so, all by default."""
    config = with_loss(replace(make_tiny_config(), model=THEIRS.model, views=THEIRS.views), loss)
    state = stored_state(make_student(config, torch.float32))
    weights = {
        name: tensor.clone() + 1
        for name, tensor in state.items()
        if (not parts or name.startswith(parts)) and not (without and name.startswith(without))
    }
    unused = {"classifier.weight": "a classifier"}
    return Pretrained(THEIRS, weights, Origin("their.pt", "a test"), unused, ("a note",))


def sized(**views: Any) -> Config:
    config = make_tiny_config(epochs=1)
    return replace(config, views=replace(config.views, size=0, **views))


def run_from(
    found: Pretrained | None, out: Path, config: Config, **options: Any
) -> tuple[dict[str, Tensor], str]:
    """Train; return the weights that a run begins with or ends with, and what was told."""
    told = io.StringIO()
    run = train(config, ToySource(), out, init=found, console=Console(file=told, width=500), **options)
    last = sorted(run.checkpoints.glob("step-*"))[-1]
    return read_tensors(last / "model.safetensors"), told.getvalue()


def test_towers_and_preprocessing_are_those_of_the_weights() -> None:
    config = sized()
    trained = replace(config.model.image, freeze="all", drop_path=0.1)
    config = replace(config, model=replace(config.model, image=trained))
    adopted = start.adopted(config, somebodys())
    assert adopted.model.image == replace(THEIRS.model.image, freeze="all", drop_path=0.1)
    assert (adopted.model.text, adopted.model.embed_dim) == (THEIRS.model.text, 6)
    assert (adopted.views.size, adopted.views.mean, adopted.views.std) == (8, HALF, HALF)
    assert start.adopted(adopted, somebodys()) == adopted


def test_an_image_tower_alone_leaves_the_text_tower_to_the_configuration() -> None:
    config = sized()
    adopted = start.adopted(config, somebodys(("image_tower.",)))
    assert adopted.model.image.width == 24
    assert (adopted.model.text, adopted.model.embed_dim) == (config.model.text, config.model.embed_dim)


def test_a_size_that_is_asked_for_stays() -> None:
    config = make_tiny_config()
    assert start.adopted(config, somebodys()).views.size == config.views.size


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("model.image.width", {}),
        ("model.embed_dim", {}),
        ("model.text.depth", {}),
        ("views.mean", {}),
        ("", {"std": (0.1, 0.2, 0.3)}),
        ("", {"interpolation": "bicubic"}),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(key: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=r"their\.pt.*Leave"):
        start.adopted(sized(**changes), somebodys(), {key})
    if key:
        assert start.adopted(sized(), somebodys(), {"model.image.patch_size"})


def test_sizes_of_a_tower_of_timm_are_refused_in_its_words() -> None:
    model = replace(THEIRS.model, image=ImageTowerConfig(name="resnet18"))
    found = replace(somebodys(), config=replace(THEIRS, model=model))
    with pytest.raises(ConfigError, match=r"model.image.width.*resnet18 of their.pt.*timm defines the sizes"):
        start.adopted(sized(), found, {"model.image.width"})
    assert start.adopted(sized(), found, {"model.image.drop_path"}).model.image.name == "resnet18"


def test_a_shorter_context_may_be_asked_for() -> None:
    config = sized()
    config = replace(config, model=replace(config.model, text=replace(config.model.text, context=5)))
    adopted = start.adopted(config, somebodys(), {"model.text.context"})
    assert adopted.model.text.context == 5
    assert start.adopted(adopted, somebodys()) == adopted
    assert start.adopted(sized(), somebodys()).model.text.context == 9
    with pytest.raises(ConfigError, match=r"--model\.text\.context does not fit.*12, and their\.pt has 9"):
        start.adopted(sized(), somebodys(), {"model.text.context"})


def filled(found: Pretrained, loss: str = "clip + 1.0 * simclr"):
    config = start.adopted(with_loss(sized(), loss), found)
    student = make_student(config, torch.float32)
    before = {name: tensor.clone() for name, tensor in stored_state(student).items()}
    started = start.fill(student, found)
    return before, stored_state(student), started


def test_weights_are_put_in_and_the_rest_is_fresh() -> None:
    found = somebodys()
    before, after, started = filled(found)
    assert set(started.taken) == set(found.weights)
    assert all(torch.equal(after[name], found.weights[name]) for name in started.taken)
    assert set(started.fresh) == {name for name in before if name.startswith("objective.simclr.head.")}
    assert all(torch.equal(after[name], before[name]) for name in started.fresh)
    assert started.unused == {"classifier.weight": "a classifier"}


def test_heads_of_the_objective_come_along_where_they_fit() -> None:
    found = somebodys(loss="clip + 1.0 * simclr")
    _, after, started = filled(found)
    assert not started.fresh
    assert all(torch.equal(after[name], tensor) for name, tensor in found.weights.items())
    other = {
        name: t[:3] if name == "objective.simclr.head.layer1.weight" else t
        for name, t in found.weights.items()
    }
    before, after, started = filled(replace(found, weights=other))
    head = {name for name in before if name.startswith("objective.simclr.head.")}
    assert set(started.fresh) == head <= set(started.unused)
    assert "another head of simclr: objective.simclr.head.layer1.weight is (3," in started.unused[min(head)]
    assert all(torch.equal(after[name], before[name]) for name in head)


def test_what_is_kept_by_record_does_not_come_along() -> None:
    """Even where there are as many records, they may be others."""
    name, found = "objective.clip.estimates", somebodys()
    found = replace(found, weights={**found.weights, name: torch.zeros(RECORDS, 2)})
    config = start.adopted(with_loss(sized(), "clip", negatives="global"), found)
    student = make_student(config, torch.float32)
    started = start.fill(student, found)
    assert (stored_state(student)[name] == -torch.inf).all()
    assert name not in (*started.taken, *started.fresh)
    assert started.unused[name] == "it is of the records those weights were trained on"


def test_parts_that_the_objective_does_not_take_are_named() -> None:
    _, _, started = filled(somebodys(), "simclr")
    assert {"text_projection", "logit_scale", "text_tower.norm.weight"} <= set(started.unused)
    assert all(name.startswith("image_tower.") for name in started.taken)


def test_a_part_that_is_there_in_part_is_refused() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"their\.pt.*1 tensors of the image_tower are missing: image_tower\.trunk\.norm\.b",
    ):
        filled(somebodys(without=("image_tower.trunk.norm.bias",)))
    found = somebodys()
    wide = {
        name: tensor.repeat(2) if name == "text_tower.norm.weight" else tensor
        for name, tensor in found.weights.items()
    }
    with pytest.raises(CheckpointError, match=r"text_tower\.norm\.weight is \(16,\), and should be \(8,\)"):
        filled(replace(found, weights=wide))


def test_a_run_starts_from_them_says_so_and_notes_it(tmp_path: Path) -> None:
    found, config = somebodys(), sized()
    still = replace(config, optimizer=replace(config.optimizer, lr=0.0, lr_start=0.0, lr_end=0.0))
    weights, told = run_from(found, tmp_path / "run", still)
    assert all(
        torch.equal(weights[name], tensor) for name, tensor in found.weights.items() if name != "logit_scale"
    )
    for words in ("their.pt (a test): image tower, ", "fresh, because these weights have none: head of simclr",
                  "not used: classifier.weight (a classifier)", "8 px, mean 0.5 0.5 0.5", "a note"):  # fmt: skip
        assert words in told
    _, told = run_from(found, tmp_path / "larger", replace(still, views=replace(still.views, size=16)))
    assert "16 px (the weights were trained with 8), mean" in told
    noted = json.loads((tmp_path / "run/init.json").read_text())
    assert noted["spec"] == "their.pt"
    assert set(noted["taken"]) == set(found.weights)
    loaded = openslip.load(tmp_path / "run")
    assert (loaded.config.model, loaded.config.views.mean) == (start.adopted(config, found).model, HALF)
    # What leaves this machine with the weights does not say where they came from.
    header = checkpoint.path_of(tmp_path / "run/checkpoints", 8) / "model.safetensors"
    assert b"their.pt" not in header.read_bytes()


def test_a_rate_for_random_weights_is_warned_of(tmp_path: Path) -> None:
    config = sized()
    _, told = run_from(somebodys(), tmp_path / "fast", config)
    assert "the image tower learns at 0.003 and the text tower learns at 0.003, which may undo" in told
    slow = replace(config, optimizer=replace(config.optimizer, lr=1e-5, fresh_lr=1e-3))
    _, told = run_from(somebodys(), tmp_path / "slow", slow)
    assert "may undo" not in told


def test_a_run_goes_on_without_them(tmp_path: Path) -> None:
    whole, _ = run_from(somebodys(), tmp_path / "whole", sized())
    config = replace(sized(), init="their.pt")
    run_from(somebodys(), tmp_path / "run", config)
    checkpoint.remove(tmp_path / "run/checkpoints", 8)
    (tmp_path / "run/results.json").unlink(missing_ok=True)
    weights, told = run_from(None, tmp_path / "run", config, resume=True)
    assert "continuing from step 5" in told
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    with pytest.raises(
        ConfigError, match=r"goes on from its own weights.*other\.pt; the run started from their\.pt"
    ):
        run_from(replace(somebodys(), origin=Origin("other.pt", "")), tmp_path / "run", sized(), resume=True)


def begun(config: Config, out: Path, monkeypatch: pytest.MonkeyPatch, *, saved: bool) -> None:
    """Leave a run that has not taken a step; saved: its step 0, as a run with a budget of time does."""

    def end(self: Trainer) -> None:
        if saved:
            self.state.save()
        raise Interrupted("ended")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", end)
        with pytest.raises(Interrupted):
            run_from(somebodys(), out, config)
    assert (out / "config.toml").exists()
    assert any((out / "checkpoints").glob("step-*")) == saved


def test_a_run_without_a_checkpoint_notes_the_weights_that_it_starts_from_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(sized(), tmp_path / "run", monkeypatch, saved=False)
    note = tmp_path / "run" / "init.json"
    before = note.read_text()
    _, told = run_from(somebodys(), tmp_path / "run", sized(), resume=True)
    assert "has changed since" not in told
    assert note.read_text() == before
    begun(sized(), tmp_path / "again", monkeypatch, saved=False)
    other = replace(somebodys(), origin=Origin("their.pt", "another test"))
    _, told = run_from(other, tmp_path / "again", sized(), resume=True)
    assert "their.pt has changed since the run was begun" in told
    assert json.loads((tmp_path / "again" / "init.json").read_text())["format"] == "another test"


def test_a_run_that_has_learned_nothing_starts_from_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(sized(), tmp_path / "run", monkeypatch, saved=True)
    other = replace(somebodys(), origin=Origin("other.pt", ""))
    _, told = run_from(other, tmp_path / "run", sized(), resume=True)
    assert "other.pt" in told
    assert json.loads((tmp_path / "run" / "init.json").read_text())["spec"] == "other.pt"


def test_a_run_that_goes_on_preserves_the_weights_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be no more on any disk."""
    config = replace(with_loss(sized(), "clip + preserve"), init="")
    begun(config, tmp_path / "run", monkeypatch, saved=True)
    run_from(somebodys(), tmp_path / "run", config, resume=True)


def test_without_weights_the_size_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tiny: views\.size 0, .* without --init\'.*--init open_clip:.*small-data"
    ):
        run_from(None, tmp_path / "run", sized())
