"""Pre-trained image towers see pictures as their weights were trained with: from the start to a loaded model."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

import openslip
from openslip import toml
from openslip.cli import main
from openslip.cli import train as command
from openslip.config import IMAGENET_MEAN, IMAGENET_STD, Config
from openslip.errors import ConfigError
from openslip.models import pretrained
from openslip.training.saving import checkpoint
from openslip.training.train import train
from toys import ToySource, make_tiny_config

CLIP = "vit_base_patch32_clip_quickgelu_224.openai"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
HALF = (0.5, 0.5, 0.5)


def with_tower(name: str, *, begins_with_weights: bool = True, **views: object) -> Config:
    config = make_tiny_config(epochs=1)
    image = replace(config.model.image, name=name, pretrained=begins_with_weights, drop_path=0.0)
    return replace(
        config, model=replace(config.model, image=image), views=replace(config.views, size=32, **views)
    )


@pytest.fixture
def tower(tmp_path: Path) -> str:
    """A folder with the weights of a small tower that saw its pictures with a mean of their own."""
    folder = tmp_path / "tower"
    folder.mkdir()
    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=7)
    save_file(model.state_dict(), folder / "model.safetensors")
    stated = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "fc", "num_classes": 7}
    stated |= {"input_size": [3, 160, 160], "first_conv": "conv1.0", "pool_size": [5, 5]}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": stated})
    )
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        (CLIP, CLIP_MEAN, (0.26862954, 0.26130258, 0.27577711)),
        ("vit_tiny_patch16_224.augreg_in21k", HALF, HALF),
        ("resnet18.a1_in1k", IMAGENET_MEAN, IMAGENET_STD),
        ("test_vit", HALF, HALF),
    ],
)
def test_mean_and_deviation_are_those_of_timm(name: str, mean: tuple, std: tuple) -> None:
    views = pretrained.normalised(with_tower(name)).views
    assert (views.mean, views.std) == (mean, std)
    for other in (
        with_tower(name, begins_with_weights=False),
        with_tower("vit"),
        with_tower("no such tower"),
    ):
        assert pretrained.normalised(other) is other


def test_others_are_refused_and_those_of_the_weights_are_taken(tower: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"views\.mean is not what.*0\.1 0\.1 0\.1, where theirs is 0\.5 0\.5 0\.5.*--views\.mean 0\.5 0\.5 0\.5",
    ):
        pretrained.normalised(with_tower("test_vit", mean=(0.1, 0.1, 0.1)))
    with pytest.raises(ConfigError, match=r"views\.std"):
        pretrained.normalised(with_tower(CLIP, std=HALF))
    with pytest.raises(ConfigError, match=r"views\.mean.*0\.485 0\.456 0\.406, where"):
        pretrained.normalised(with_tower(CLIP), ["mean"])  # typed, and the default by chance
    rounded = with_tower(CLIP, mean=(0.4815, 0.4578, 0.4082))
    assert pretrained.normalised(rounded).views.mean == (0.4815, 0.4578, 0.4082)
    assert pretrained.normalised(rounded).views.std != IMAGENET_STD
    assert pretrained.normalised(with_tower(tower)).views.std == (0.4, 0.5, 0.6)
    with pytest.raises(ConfigError, match=f"not known.*Did you mean '{CLIP}'"):
        pretrained.normalised(with_tower("vit_base_patch32_clip_quickgelu_224.openia"))
    with pytest.raises(ConfigError, match="not known"):
        pretrained.normalised(with_tower("local-dir:/gone"))


def test_a_model_that_is_created_preprocesses_as_its_weights_expect(tower: str) -> None:
    encoder = openslip.create(with_tower(tower))
    white = encoder.preprocess(np.full((32, 32, 3), 255, np.uint8))
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]))
    assert encoder.config.views.mean == (0.1, 0.2, 0.3)


def test_a_run_begins_goes_on_and_loads_with_them(tower: str, tmp_path: Path) -> None:
    """And says so; what it trained with is in its configuration and in the header of its weights."""
    config, out, said = with_tower(tower), tmp_path / "run", io.StringIO()
    train(config, ToySource(), out, console=Console(file=said, width=1000))
    assert (
        "normalised as these weights were trained with: mean 0.1 0.2 0.3, deviation 0.4 0.5 0.6"
        in said.getvalue()
    )
    assert toml.load(out / "config.toml").views.mean == (0.1, 0.2, 0.3)
    longer = replace(config, checkpoint=replace(config.checkpoint, keep=1))
    train(longer, ToySource(), out, resume=True, console=Console(file=said, width=1000))
    encoder = openslip.load(out)
    assert (encoder.config.views.mean, encoder.config.views.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    (tmp_path / "tower").rename(tmp_path / "gone")
    (weights,) = checkpoint.list_checkpoints(out / "checkpoints")
    picture = np.full((40, 40, 3), 90, np.uint8)
    for given in (out, weights, weights / "model.safetensors"):
        again = openslip.load(given)
        assert again.config.model.image.name == "test_resnet"
        assert torch.equal(again.encode_image(picture), encoder.encode_image(picture))


def test_a_run_of_an_earlier_version_goes_on_as_it_began(tower: str, tmp_path: Path) -> None:
    """With ImageNet's mean, that is: half a run with another one would be neither."""
    config, out = with_tower(tower), tmp_path / "run"
    run = train(config, ToySource(), out, console=Console(file=io.StringIO()))
    began = replace(run.config, views=config.views)
    (out / "config.toml").write_text(toml.dumps(began))
    train(config, ToySource(), out, resume=True, console=Console(file=io.StringIO()))
    assert pretrained.as_in_run(config, began) == config
    assert pretrained.as_in_run(config, run.config).views.mean == (0.1, 0.2, 0.3)
    other = replace(config, model=replace(config.model, image=replace(config.model.image, name="test_vit")))
    assert pretrained.as_in_run(other, run.config) == other


def test_the_command_line_takes_them_and_refuses_others(tower: str, tmp_path: Path, capsys) -> None:
    words = ["scenes-tiny", "--data.train", "scenes:train:64", "--model.image.name", tower]
    words += ["--model.image.pretrained", "--out", str(tmp_path / "run")]
    options = command.resolve(words)
    assert command._normalised(options, words).views.mean == (0.1, 0.2, 0.3)
    for typed in (["--views.mean", "0.485", "0.456", "0.406"], ["--views.std", "1", "1", "1"]):
        assert main(["train", *words, *typed]) == 1
        assert f"slip: {typed[0][2:]} is not what the pre-trained weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
