"""Models of the hub, fetched by its own library from a stand-in of the hub's HTTP interface."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import openslip
from interop.public import clip, open_clip, shaken
from openslip.errors import CheckpointError
from openslip.interop import read


def same(one: str, other: str | Path) -> bool:
    a, b = (openslip.load(spec) for spec in (one, other))
    size = a.config.views.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.equal(a.encode_image(images), b.encode_image(images))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["transformers", "open_clip", "timm"])
def test_a_model_is_fetched_once(hub, tmp_path, library) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if library == "timm":
        model = shaken(timm.create_model("test_resnet", num_classes=7))
        timm.models.save_for_hf(model, folder, safe_serialization=True)
    else:
        {"transformers": clip, "open_clip": open_clip}[library]()(folder)
    hub.repositories["owner/name"] = folder
    assert same("hf:owner/name", folder)
    fetched = [request for request in hub.asked if request.startswith("GET")]
    assert any(request.endswith(".safetensors") for request in fetched)
    assert not any(request.endswith(".bin") for request in fetched)  # what may hold code is not even fetched
    digests = read("hf:owner/name@main").origin.files.values()
    assert any(
        hashlib.sha256(file.read_bytes()).hexdigest() in digests for file in folder.glob("*.safetensors")
    )
    hub.asked.clear()
    assert same("hf:owner/name", folder)
    assert not any(request.startswith("GET") for request in hub.asked)
    hub.close()
    assert same("hf:owner/name", folder)


def test_what_the_hub_refuses(hub, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    hub.repositories |= {"owner/name": tmp_path / "model", "owner/gated": tmp_path / "model"}
    hub.gated.add("owner/gated")
    for spec, told in {
        "hf:owner/other": "no such model, or does not show it to you.*hf auth login",
        "hf:owner/gated": "accepted its terms",
        "hf:owner/name@v2": "no such revision",
        "hf:owner/name": "owner/name",
    }.items():
        with pytest.raises(CheckpointError, match=told):
            read(spec)


def test_a_file_that_is_cut_short_is_no_model(hub, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    clip()(folder)
    hub.repositories["owner/name"] = folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        read("hf:owner/name")


def test_weights_without_a_description(hub, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    hub.repositories["owner/name"] = folder
    with pytest.raises(CheckpointError, match="another architecture or project.*It has 1 entry: x"):
        read("hf:owner/name")
