"""Finetuned classifiers are read from what a finetuning keeps, also when copied away, or refused in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import openslip
from finetunings import RECIPE, config_of, finetuned, without_header
from openslip.errors import CheckpointError
from openslip.evaluation.finetune import Finetune
from openslip.interop import finetuned as module


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return finetuned(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def kept(whole, tmp_path) -> Path:
    """A copy of the run with its finetuning, to be changed."""
    shutil.copytree(whole.parent.parent, tmp_path / "run")
    return tmp_path / "run" / "finetune" / "colours"


def weights_in(kept: Path) -> Path:
    (found,) = kept.glob("step-*/model.safetensors")
    return found


@pytest.mark.parametrize("earlier", [False, True])
def test_the_weights_and_what_they_are_of(kept, earlier) -> None:
    if earlier:
        without_header(kept)
    found = module.read(kept)
    assert found.names == ("dark blue", "green", "red")
    assert found.recipe == RECIPE
    assert found.config.model == config_of().model
    assert found.about["images"] == 24
    for name, value in load_file(weights_in(kept)).items():
        assert torch.equal(found.classifier.state_dict()[name], value), name
    assert not any(part.training for part in found.model.modules())


def test_a_copy_needs_no_run(kept, tmp_path) -> None:
    away = tmp_path / "away"
    shutil.copytree(kept, away)
    expected = module.read(kept).classifier.state_dict()
    shutil.rmtree(kept.parent.parent)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(weights_in(away), alone)
    for place in (away, weights_in(away).parent, weights_in(away), alone):
        found = module.read(place)
        assert len(found.names) == 3
        assert all(
            torch.equal(value, expected[name]) for name, value in found.classifier.state_dict().items()
        )


def test_a_copy_of_an_earlier_version_wants_its_configuration(kept, tmp_path) -> None:
    away = shutil.copytree(without_header(kept), tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"config.toml is missing.*earlier version.*Copy config.toml"):
        module.read(away)
    shutil.copy(kept.parent.parent / "config.toml", away)
    assert len(module.read(away).names) == 3
    text = (away / "config.toml").read_text().replace("size = 32", "size = 16")
    (away / "config.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"not of the model.*size 16, in the finetuning 32"):
        module.read(away)


def test_earlier_states_are_gone_on_from(tmp_path, whole) -> None:
    """The header is no part of what two finetunings must share."""
    kept = tmp_path / "run" / "finetune" / "colours"
    shutil.copytree(whole.parent.parent, tmp_path / "run")
    without_header(kept)
    data = whole.parent.parent.parent / "colours"
    torch.manual_seed(0)
    encoder = openslip.create(config_of())
    Finetune(str(data), folder=kept, recipe=RECIPE, precision="fp32").evaluate(encoder)
    assert [path.name for path in kept.parent.iterdir()] == ["colours"]


@pytest.mark.parametrize("earlier", [False, True])
def test_an_unfinished_one_is_refused(tmp_path, earlier) -> None:
    kept = finetuned(tmp_path, recipe=replace(RECIPE, epochs=1))
    if earlier:
        without_header(kept)
        (state,) = kept.glob("step-*/state.json")
        state.write_text(json.dumps(json.loads(state.read_text()) | {"losses": []}))
        told = "0 of 1 epochs"
    else:
        weights = weights_in(kept)
        tensors = load_file(weights)
        (text,) = module.metadata.read_header(weights)[1].values()
        about = json.loads(text)
        about["recipe"]["epochs"] = 7
        save_file(tensors, tmp_path / "model.safetensors", {module.metadata.CLASSIFIER: json.dumps(about)})
        kept, told = tmp_path / "model.safetensors", "1 of 7 epochs"
    with pytest.raises(CheckpointError, match=f"not complete.*{told}.*slip evaluate RUN"):
        module.read(kept)


def test_no_epoch_is_complete(kept) -> None:
    shutil.rmtree(weights_in(kept).parent)
    with pytest.raises(CheckpointError, match="no complete epoch yet"):
        module.read(kept)


def test_what_is_no_classifier(kept, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no finetuned classifier.*neither finetune.json nor"):
        module.read(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"no finetuned classifier.*no such file"):
        module.read(tmp_path / "nowhere")
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of a finetuned classifier"):
        module.read(tmp_path / "other.safetensors")


def test_a_damaged_file(kept, tmp_path) -> None:
    weights = weights_in(kept)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged.*finetune again"):
        module.read(kept)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(weights, alone)
    with pytest.raises(CheckpointError, match=r"alone\.safetensors"):
        module.read(alone)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda about: about["classes"].append("more"), "another number of classes.*4 names, 3 rows"),
        (lambda about: about.update(classes=[]), "cannot be read.*not named"),
        (lambda about: about.update(images="many"), "cannot be read.*not all whole numbers"),
        (lambda about: about.pop("recipe"), "cannot be read.*recipe"),
        (lambda about: about["recipe"].update(crop=-1), "cannot be read.*crop"),
        (lambda about: about["recipe"].update(interpolation="odd"), "cannot be read.*odd"),
        (lambda about: about.update(config="[views"), "configuration.*cannot be used"),
        (lambda about: about.update(config="name = 'x'\n[views]\nsize = 32\n"), "not those of a classifier"),
    ],
)
def test_a_header_of_something_else(kept, tmp_path, change, told) -> None:
    (text,) = module.metadata.read_header(weights_in(kept))[1].values()
    about = json.loads(text)
    change(about)
    for name in ("mean", "std", "size"):
        about.pop(name, None)
    place = tmp_path / "model.safetensors"
    save_file(load_file(weights_in(kept)), place, {module.metadata.CLASSIFIER: json.dumps(about)})
    with pytest.raises(CheckpointError, match=f"(?s){told}"):
        module.read(place)


@pytest.mark.parametrize("earlier", [False, True])
def test_it_is_no_model_for_embeddings(kept, earlier) -> None:
    if earlier:
        without_header(kept)
    for place in (kept, weights_in(kept).parent, weights_in(kept)):
        assert module.is_one(place)
        with pytest.raises(CheckpointError, match=r"a finetuned classifier.*openslip.FinetunedClassifier"):
            openslip.load(place)
    assert not module.is_one(kept.parent.parent)
