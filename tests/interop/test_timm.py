"""timm's image towers: by name, of a folder, of a file."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import openslip
from interop.public import shaken
from openslip.errors import CheckpointError
from openslip.interop import hub, read

NAME, SIZE = "test_resnet", 64


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return shaken(timm.create_model(NAME, num_classes=7))


@pytest.fixture
def weights(model, tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def same(encoder, model) -> bool:
    images = torch.randn(2, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    return torch.equal(encoder.encode_image(images, normalize=False), features)


def test_weights_in_a_file_and_what_they_are_of(model, weights, tmp_path) -> None:
    found = read(f"timm:{NAME}@{weights}")
    known = timm.get_pretrained_cfg(NAME)
    assert known is not None
    assert found.config.model.image.name == NAME
    assert (found.config.views.size, found.config.views.mean) == (known.input_size[1], known.mean)
    assert found.config.views.interpolation == known.interpolation
    assert {*found.unused} == {"fc.weight", "fc.bias"}
    assert not found.has_text
    assert "takes the middle 95 % of a picture's short side" in " ".join(found.notes)
    assert same(openslip.load(f"timm:{NAME}@{weights}"), model)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "a.pth.tar")
    assert same(openslip.load(f"timm:{NAME}@{tmp_path / 'a.pth.tar'}"), model)


def test_a_file_is_recognised_by_its_name_and_that_is_said(model, weights, caplog) -> None:
    for name in (f"{NAME}.safetensors", f"{NAME}.r160_in1k.safetensors"):
        shutil.copy(weights, weights.with_name(name))
        assert same(openslip.load(weights.with_name(name)), model)
        assert f"is taken for timm's {NAME}, by its name" in caplog.text
    with pytest.raises(
        CheckpointError, match=rf"image model of timm.*Name its architecture: timm:NAME@{weights}"
    ):
        openslip.load(weights)
    shutil.copy(weights, weights.with_name("test_vit.safetensors"))
    with pytest.raises(CheckpointError, match=r"missing.*unexpected.*image model of timm"):
        openslip.load(weights.with_name("test_vit.safetensors"))


def test_a_folder_as_timm_writes_it(model, weights, tmp_path) -> None:
    stated = {
        "input_size": [3, 96, 96],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "crop_mode": "squash",
    }
    stated |= {"interpolation": "bilinear", "classifier": "fc"}
    config: dict[str, Any] = {"architecture": NAME, "pretrained_cfg": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for spec in (f"timm:{tmp_path}", f"timm:local-dir:{tmp_path}", str(tmp_path), str(weights)):
        encoder = openslip.load(spec)
        views = encoder.config.views
        assert (views.size, views.mean, views.interpolation, views.fit) == (
            96, (0.1, 0.2, 0.3), "bilinear", "squash",
        )  # fmt: skip
        assert same(encoder, model)
    config["model_args"] = {"num_classes": 7, "width": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="other options than timm's.*width"):
        read(tmp_path)


@pytest.mark.parametrize("odd", ["x", -1, [], 10**9, None])
def test_values_of_any_kind_are_refused_in_words(weights, tmp_path, odd) -> None:
    """Or read, where they are as good as another."""
    stated = {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config = {"architecture": NAME, "pretrained_cfg": stated, "model_args": {}}
    changes = [config | {key: odd} for key in config]
    changes += [
        config | {"pretrained_cfg": stated | {key: odd}} for key in [*stated, "classifier", "crop_mode"]
    ]
    changes += [config | {"model_args": {key: odd}} for key in ("img_size", "global_pool")]
    for change in changes:
        (tmp_path / "config.json").write_text(json.dumps(change))
        with contextlib.suppress(CheckpointError):
            read(tmp_path)


def test_published_weights_come_from_the_hub(model, weights, monkeypatch) -> None:
    asked = []

    def fetch(name, files, *, optional=False):
        asked.append((name, *files))
        return weights

    monkeypatch.setattr(hub, "fetch", fetch)
    for spec in (f"timm:{NAME}", f"timm:{NAME}.r160_in1k", f"timm:{NAME}/r160_in1k"):
        assert same(openslip.load(spec), model)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors", "pytorch_model.bin")] * 3


@pytest.mark.parametrize("name", ["vit_small_patch16_224.augreg_in21k", "flexivit_base.1200ep_in1k"])
def test_weights_that_their_authors_keep_in_another_format_come_from_the_hub(monkeypatch, name) -> None:
    """timm's table has an address of .npz files for them as well, which the hub's copies go before."""
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda *args, **_: asked.append(args))
    with pytest.raises(CheckpointError, match="timm has no weights of this model"):  # as this hub has none
        read(f"timm:{name}")
    assert asked == [(f"timm/{name}", ["model.safetensors", "pytorch_model.bin"])]


def test_a_file_that_says_what_it_is_of_needs_no_name(model, weights, tmp_path) -> None:
    """A config.json beside it says so, or its own name."""
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    assert same(openslip.load(f"timm:{tmp_path / 'model.safetensors'}"), model)
    named = tmp_path / "named" / f"{NAME}.safetensors"
    named.parent.mkdir()
    shutil.copy(weights, named)
    assert same(openslip.load(f"timm:{named}"), model)
    other = named.rename(named.with_name("weights.safetensors"))
    with pytest.raises(CheckpointError, match=f"no config.json beside it.*timm:NAME@{other}"):
        read(f"timm:{other}")


def test_old_files_without_counters_of_batches(model, tmp_path) -> None:
    kept = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(kept, tmp_path / "old.safetensors")
    assert same(openslip.load(f"timm:{NAME}@{tmp_path / 'old.safetensors'}"), model)


def test_weights_of_a_models_authors_are_converted_as_timm_does(tmp_path) -> None:
    """Those of a ViT stand in a table of their own, beside other things."""
    model = shaken(timm.create_model("test_vit", num_classes=7))
    save_file(
        {f"model.{name}": value for name, value in model.state_dict().items()}, tmp_path / "a.safetensors"
    )
    torch.save({"model": model.state_dict()}, tmp_path / "a.pt")
    encoder = openslip.load(f"timm:test_vit@{tmp_path / 'a.pt'}")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.allclose(encoder.encode_image(images, normalize=False), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet99", "no such model.*'resnet50'"),
        ("test_resnet.nothing", "no weights of test_resnet with this tag.*r160_in1k"),
        ("test_vit/nothing", "no weights of test_vit with this tag"),
    ],
)
def test_names_that_timm_has_not(name, told) -> None:
    with pytest.raises(CheckpointError, match=told):
        read(f"timm:{name}")


def test_another_architecture_says_what_the_file_holds(weights) -> None:
    with pytest.raises(CheckpointError, match=r"missing.*unexpected.*The file holds an image model of timm"):
        read(f"timm:test_vit@{weights}")


def test_what_a_file_holds_is_told_by_its_own_names(tmp_path) -> None:
    """timm takes the image tower out of a CLIP's weights and renames its entries before they are compared."""
    sizes = {
        "visual.class_embedding": (8,), "visual.positional_embedding": (5, 8), "visual.conv1.weight": (8, 3, 16, 16),
        "visual.ln_pre.weight": (8,), "visual.ln_post.weight": (8,), "visual.proj": (8, 4),
        "transformer.resblocks.0.ln_1.weight": (8,),
    }  # fmt: skip
    save_file({name: torch.zeros(size) for name, size in sizes.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match="The file holds a CLIP of OpenAI or open_clip"):
        read(f"timm:test_vit@{tmp_path / 'clip.safetensors'}")
