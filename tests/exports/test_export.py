"""Exports of every format, tried in the format's own library, and read back."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from PIL import Image

import openslip
from exports.cases import exported, farthest
from exports.models import MODELS, model_of, saved
from interop.public import CASES as PUBLIC
from openslip import exports as export
from openslip import recipes
from openslip.cli import export as command
from openslip.errors import ConfigError, ExportError
from openslip.exports import FORMATS
from openslip.exports.plan import TEXTS

NOT_READ = ("reference", "onnx", "torch_export")
"""Formats with tests of their own."""
REFUSED = {("plain", "open_clip"): "one activation for both towers.*--to huggingface"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", [to for to in FORMATS if to not in NOT_READ])
@pytest.mark.parametrize("name", MODELS)
def test_out_and_in_again(name, to, tmp_path) -> None:
    if told := REFUSED.get((name, to)):
        model = saved(MODELS[name], tmp_path)
        with pytest.raises(ExportError, match=told):
            export.export(model, to, tmp_path / "there")
        assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]
        return
    model, done = exported(name, to)
    place = done.place
    assert os.listdir(place.parent) == ["there"]
    assert done.trial.image < 1e-6
    assert done.trial.picture is not None
    assert done.trial.picture <= 1.01
    assert (done.trial.text is None) == (to == "timm")
    assert str(place) in done.usage
    assert "PLACE" not in done.usage
    ours, again = openslip.load(model), openslip.load(place)
    pictures = torch.randn(3, 3, ours.size, ours.size)
    torch.testing.assert_close(
        again.image_features(pictures), ours.image_features(pictures), rtol=0, atol=1e-5
    )
    views, own = again.config.views, ours.config.views
    for part in ("size", "mean", "std", "interpolation", "fit"):
        assert getattr(views, part) == getattr(own, part), part
    if to != "timm":
        torch.testing.assert_close(
            again.encode_image(pictures), ours.encode_image(pictures), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(again.encode_text(TEXTS), ours.encode_text(TEXTS), rtol=0, atol=1e-6)
        assert again.logit_scale == pytest.approx(ours.logit_scale)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["clip", "plain"])
def test_transformers_zero_shot_pipeline_gives_our_probabilities(name, tmp_path) -> None:
    from transformers import pipeline

    model = saved(MODELS[name], tmp_path)
    place = export.export(model, "huggingface", tmp_path / "there").place
    names = ["cat", "dog", "a tree"]
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    found = pipeline("zero-shot-image-classification", model=str(place))(picture, candidate_labels=names)
    ours = openslip.load(model)
    texts = ours.encode_text([f"This is a photo of {name}." for name in names])
    expected = (ours.logit_scale * ours.encode_image(picture) @ texts.T).softmax(1)[0]
    given = {one["label"]: one["score"] for one in found}
    assert [given[name] for name in names] == pytest.approx(expected.tolist(), abs=5e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: f"{case.library}: {case.architecture}")
def test_public_models_leave_again_or_are_refused_in_words(case, tmp_path) -> None:
    """A folder that is written has passed its trial; what a format has no place for is known before."""
    (tmp_path / "model").mkdir()
    spec = case.make(tmp_path / "model").spec
    refused = {
        to: refusal(spec, to, tmp_path / to)
        for to in FORMATS
        if to not in ("reference", "onnx", "torch_export")
    }
    ours = openslip.load(spec)
    pictures = torch.randn(2, 3, ours.size, ours.size, generator=torch.Generator().manual_seed(0))
    for to, told in refused.items():
        assert (tmp_path / to).exists() == (told == "")
        assert told == "" or "cannot hold this model" in told
        if not told:
            again = openslip.load(tmp_path / to)
            torch.testing.assert_close(
                again.image_features(pictures), ours.image_features(pictures), rtol=1e-4, atol=1e-5
            )
            if to != "timm" and ours.model.text_tower is not None:
                torch.testing.assert_close(
                    again.encode_text(TEXTS), ours.encode_text(TEXTS), rtol=0, atol=1e-6
                )
    assert refused["timm"] == ""


def refusal(spec: str, to: str, place: Path) -> str:
    """Return why a model is not exported; empty where it was."""
    try:
        export.export(spec, to, place)
    except ExportError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_the_papers_code_and_transformers_take_the_papers_model(tmp_path) -> None:
    recipe = recipes.get("slip-vit-s16-yfcc15m")
    model = saved(recipe, tmp_path)
    done = export.export(model, "reference", tmp_path / "there.pt")
    assert done.trial.image == done.trial.text == 0
    assert any("cuts off the end" in note for note in done.notes)
    checkpoint = torch.load(tmp_path / "there.pt", weights_only=False)  # which we wrote
    assert checkpoint["args"].model == "CLIP_VITS16"  # these weights have no head of SimCLR
    assert all(name.startswith("module.") for name in checkpoint["state_dict"])
    done = export.export(tmp_path / "there.pt", "huggingface", tmp_path / "folder")
    assert farthest(done) < 1e-6


def test_the_papers_code_has_few_models(tmp_path) -> None:
    with pytest.raises(
        ExportError, match=r"no model with model.image.patch 8.*views.size 32.*--to huggingface"
    ):
        export.export(saved(model_of(), tmp_path), "reference", tmp_path / "there.pt")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("to", "out", "told"),
    [
        ("timm", "model.safetensors", "take the place of something that is there"),
        ("timm", "there.safetensors", "is a folder, and this is the name of a file.*there"),
        ("reference", "there", "one file, whose name ends in .pt.*there.pt"),
        ("tim", "there", "no such format.*timm"),
    ],
)
def test_places_that_cannot_be(tmp_path, to, out, told) -> None:
    config = recipes.get("clip-vit-s16-yfcc15m") if to == "reference" else model_of()
    model = saved(config, tmp_path)
    with pytest.raises((ExportError, ConfigError), match=told):
        export.export(model, to, tmp_path / out)
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


def test_a_disk_without_room(tmp_path, monkeypatch) -> None:
    model = saved(model_of(), tmp_path)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ExportError, match=r"no room.*MB needed, 0 MB free"):
        export.export(model, "timm", tmp_path / "there")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


@pytest.mark.parametrize("how", ["other", "disk"])
def test_what_is_not_the_same_is_not_kept(tmp_path, monkeypatch, how) -> None:
    """Where the library computes something else, and where the disk is full in the middle."""
    from openslip.exports import timm

    model, load = saved(model_of(), tmp_path), timm._load

    def other(place):
        if how == "disk":
            raise OSError("No space left on device")
        consumer = load(place)
        return replace(consumer, image=lambda pictures: consumer.image(pictures) + 1e-3)

    monkeypatch.setattr(timm, "_load", other)
    with pytest.raises(
        ExportError, match="No space left" if how == "disk" else "not the same in its own library"
    ):
        export.export(model, "timm", tmp_path / "there")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("config", "to", "told"),
    [
        (
            replace(model_of(), objective=replace(model_of().objective, loss="simclr", options={})),
            "open_clip",
            "no text",
        ),
        (
            replace(model_of(), objective=replace(model_of().objective, loss="simclr", options={})),
            "huggingface",
            "no text",
        ),
        (model_of(text={"truncation": "reference"}), "open_clip", "truncation reference.*--to reference"),
        (model_of(text={"truncation": "reference"}), "huggingface", "truncation reference"),
        (model_of(text={"projection_bias": True}), "huggingface", "have a bias.*--to open_clip"),
        (model_of(image={"norm_eps": 1e-3}), "timm", "eps of 0.001"),
    ],
)
def test_what_a_format_has_no_place_for(tmp_path, config, to, told) -> None:
    with pytest.raises(ExportError, match=f"The format {to} cannot hold this model: .*{told}"):
        export.export(saved(config, tmp_path), to, tmp_path / "there")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


def test_another_major_version_is_said_before_anything_is_written(tmp_path, monkeypatch, caplog) -> None:
    from openslip.exports import plan, timm, trial

    for module in (plan, trial):
        monkeypatch.setattr(module, "version_of", lambda _: "99.1")
    monkeypatch.setattr(
        timm, "save_file", lambda *_, **__: pytest.fail("said by now") if not caplog.text else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        export.export(saved(model_of(), tmp_path), "timm", tmp_path / "there")
    assert "timm 99.1 is installed, but the export was written for version 1" in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", ["open_clip", "huggingface", "timm", "openslip"])
def test_the_lines_that_load_the_model_run(tmp_path, to) -> None:
    done = export.export(saved(MODELS["clip"], tmp_path), to, tmp_path / "there")
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    picture.save(tmp_path / "a.jpg")
    found = {"picture": picture}
    exec(done.usage.replace("a.jpg", str(tmp_path / "a.jpg")), found)
    assert {"image", "features", "outputs"} & found.keys()


def test_the_command_says_how_the_model_is_loaded(tmp_path, capsys) -> None:
    model, place = saved(model_of(), tmp_path), tmp_path / "there"
    command.main([str(model), "--to", "timm", "--out", str(place)])
    said = capsys.readouterr()
    assert "the projection to the space of texts is left out" in said.err
    assert said.out.startswith(f"wrote {place}: as timm 1.")
    variables: dict[str, Any] = {"picture": Image.new("RGB", (40, 30))}
    exec(said.out.partition("\n\n")[2], variables)
    assert variables["features"].shape == (1, 16)


def test_the_commands_formats_are_those_there_are() -> None:
    assert set(get_args(get_type_hints(command.Options)["to"])) == set(FORMATS)
