"""Runs from a model as SigLIP's: its tokenizer travels with its weights, and texts are padded to the context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import openslip
from openslip.config import Config, ImageTowerConfig, ModelConfig, TextTowerConfig, ViewsConfig
from openslip.data.own_tokenizer import OwnTokenizer, from_json
from openslip.errors import CheckpointError, DataError
from openslip.models import Model
from openslip.models.weights import Origin, Pretrained
from openslip.training.saving.tensors import read_tensors
from openslip.training.signals import Interrupted
from openslip.training.train import train
from toys import ToySource, make_tiny_config, with_loss
from training.runs import QUIET, interrupt_after, same, weights


@pytest.fixture(scope="module")
def siglip() -> Pretrained:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(["a photo of the red green blue square circle"], special)
    data = from_json(tokenizer.to_str(), pad="</s>", ends=(None, "</s>"))
    text = TextTowerConfig(
        width=16,
        depth=2,
        heads=2,
        context=8,
        vocabulary=20,
        tokenizer=len(data),
        activation="gelu_tanh",
        bidirectional=True,
        pool="last",
        norm_eps=1e-6,
        projection_bias=True,
    )
    image = ImageTowerConfig(patch=8, width=16, depth=2, heads=2, mlp=40, activation="gelu_tanh")
    image = replace(image, pool="attention", class_tokens=0, unprojected=True)
    views = ViewsConfig(size=16, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", fit="squash")
    config = Config(model=ModelConfig(image=image, text=text, embed_dim=16), views=views)
    torch.manual_seed(0)
    model = Model(config.model, 16, text=True, shared=True)
    model.get_buffer("text_tower.tokenizer").copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return Pretrained(config, model.state_dict(), Origin("theirs", "a test"))


def _config() -> Config:
    return with_loss(make_tiny_config(epochs=1), "clip + 1.0 * simclr")


def test_a_run_trains_resumes_and_loads_with_the_tokenizer_of_its_weights(
    siglip: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(_config(), ToySource(), tmp_path / "whole", init=siglip, console=QUIET)
    given = siglip.weights["text_tower.tokenizer"]
    assert torch.equal(weights(whole)["text_tower.tokenizer"], given)
    assert not torch.equal(weights(whole)["text_projection_bias"], siglip.weights["text_projection_bias"])

    encoder = openslip.load(whole.path)
    assert isinstance(encoder.tokenizer, OwnTokenizer)
    assert encoder.tokenizer is encoder.tokenizer
    assert encoder.tokenize("the red square").shape == (1, 8)
    assert encoder.encode_text(["the red square", "a circle"]).shape == (2, 16)
    copied = read_tensors(sorted(whole.checkpoints.glob("step-*"))[-1] / "model.safetensors")
    assert torch.equal(copied["text_tower.tokenizer"], given)

    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(_config(), ToySource(), tmp_path / "parts", init=siglip, console=QUIET)
    parts = train(_config(), ToySource(), tmp_path / "parts", init=siglip, resume=True, console=QUIET)
    assert same(weights(whole), weights(parts))


def test_the_bag_of_words_leaves_out_the_special_tokens_of_the_tokenizer_that_reads(
    siglip: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run goes on, which reads no start; and CLIP's where there is no text tower to bring others."""
    config = with_loss(make_tiny_config(epochs=1), "clip + words")
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(config, ToySource(), tmp_path / "run", init=siglip, console=QUIET)
    run = train(config, ToySource(), tmp_path / "run", init=siglip, resume=True, console=QUIET)
    state = read_tensors(sorted(run.checkpoints.glob("step-*"))[-1] / "model.safetensors")
    assert state["objective.words.special"].tolist() == [1, -1, -1]
    assert state["objective.words.captions"] == 64
    assert state["objective.words.captions_with"].shape == (20,)
    assert state["objective.words.captions_with"][1] == 0 < state["objective.words.captions_with"].sum()

    monkeypatch.undo()  # else this run would be interrupted as well
    config = with_loss(make_tiny_config(epochs=1), "words")
    run = train(config, ToySource(), tmp_path / "alone", init=siglip, console=QUIET)
    state = read_tensors(sorted(run.checkpoints.glob("step-*"))[-1] / "model.safetensors")
    assert state["objective.words.special"].tolist() == [0, 49_406, 49_407]
    assert state["objective.words.captions_with"].shape == (49_408,)


def test_token_ids_are_checked_against_the_models_own_vocabulary(siglip: Pretrained, tmp_path: Path) -> None:
    run = train(_config(), ToySource(), tmp_path / "run", init=siglip, console=QUIET)
    encoder = openslip.load(run.path)
    texts = ["the red square", "a circle"]
    torch.testing.assert_close(encoder.encode_text(encoder.tokenize(texts)), encoder.encode_text(texts))
    with pytest.raises(DataError, match="below 20, 8 a text"):
        encoder.encode_text(encoder.tokenize(texts)[:, :5])
    with pytest.raises(DataError, match="below 20"):
        encoder.encode_text(torch.full((1, 8), 20))


def test_a_model_without_its_tokenizers_bytes_says_so(siglip: Pretrained) -> None:
    encoder = openslip.Encoder.from_config(siglip.config)
    with pytest.raises(CheckpointError, match="tokenizer is empty"):
        encoder.encode_text("a circle")
