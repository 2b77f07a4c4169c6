"""Without a network: nothing that is on this disk is fetched, when a model is loaded and when a run goes on."""

import socket
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import openslip
from interop.public import clip, open_clip, shaken
from openslip import toml
from openslip.training.train import train
from toys import ToySource, make_tiny_config
from training.runs import QUIET


@pytest.fixture
def cut(monkeypatch):
    """Cut the network: whoever connects to anything fails the test."""

    def refuse(self, address, *_):
        if self.family != getattr(socket, "AF_UNIX", None):
            pytest.fail(f"{address} is connected to")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name is looked up"))


@pytest.mark.filterwarnings("ignore")
def test_models_of_open_clip_and_transformers(cut, tmp_path) -> None:
    for name, make in {"open_clip": open_clip(), "transformers": clip()}.items():
        (tmp_path / name).mkdir()
        made = make(tmp_path / name)
        assert openslip.load(made.spec).encode_text("a").shape == (1, 24)


def test_a_run_that_starts_from_timms_weights_is_loaded_and_goes_on(cut, tmp_path) -> None:
    """The file that it started from is gone by then."""
    weights = tmp_path / "weights.safetensors"
    save_file(shaken(timm.create_model("test_resnet", num_classes=7)).state_dict(), weights)
    spec = f"timm:test_resnet@{weights}"
    config = replace(make_tiny_config(epochs=1), init=spec)
    config = replace(config, views=replace(config.views, size=32))
    run = train(config, ToySource(), tmp_path / "run", console=QUIET)
    weights.unlink()
    assert toml.load(tmp_path / "run" / "config.toml").model.image.name == "test_resnet"
    encoder = openslip.load(tmp_path / "run")
    assert encoder.encode_image(torch.zeros(1, 3, 32, 32)).shape[0] == 1
    longer = replace(config, checkpoint=replace(config.checkpoint, keep=3))
    train(longer, ToySource(), tmp_path / "run", resume=True, console=QUIET)
    assert run is not None
