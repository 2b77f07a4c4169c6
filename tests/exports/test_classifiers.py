"""Finetuned classifiers in every format: tried in the format's own library, with their names, crop and card."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import openslip
from finetunings import config_of, finetuned
from openslip import exports
from openslip.cli import export as command
from openslip.errors import CheckpointError, ConfigError, ExportError
from openslip.evaluation import results
from openslip.exports import FORMATS
from openslip.exports.classifiers import FORMATS as OF_CLASSIFIERS
from openslip.exports.classifiers.timm import of_timm
from openslip.interop import finetuned as reading

NAMES = ("dark blue", "green", "red")
TOWERS = {
    "plain": {},
    "clip": {"activation": "quick_gelu", "pre_norm": True, "norm_eps": 1e-5},
    "mean": {"pool": "mean"},
    "timm": {"name": "test_resnet"},
}
OTHERS = {"head.fc": "test_convnext", "classifier": "test_efficientnet", "head": "test_vit"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Path]:
    """States of finetunings, by the kind of their image tower."""
    return {
        name: finetuned(tmp_path_factory.mktemp(name), config_of(**image)) for name, image in TOWERS.items()
    }


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return noise.resize((90, 60), Image.Resampling.BICUBIC)


def used(lines: str, result: str) -> Any:
    """Run the lines that an export tells, with a `picture`; return what they call `result`."""
    known = {"picture": picture()}
    exec(lines, known)
    return known[result]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", OF_CLASSIFIERS)
@pytest.mark.parametrize("name", TOWERS)
def test_out_and_used(kept, name, to, tmp_path, capsys) -> None:
    """The lines that are printed give the probabilities of the classifier, of a picture that is cropped."""
    done = exports.export(kept[name], to, tmp_path / "there")
    assert done.trial.image < (1e-6 if to != "onnx" else 1e-5)
    assert done.trial.picture is not None
    assert done.trial.picture <= (2.01 if to == "huggingface" else 1e-4)
    assert os.listdir(tmp_path) == ["there"]
    expected = openslip.FinetunedClassifier(kept[name])(picture())[0]
    lines, near = done.usage, 1e-5
    if to == "openslip":
        lines = lines.replace('["a.jpg", "b.jpg"]', "picture")
        found = used(lines, "probabilities")[0]
    elif to == "huggingface":
        listed = used(f"{lines}\nfound = classify(picture)", "found")
        scores = {one["label"]: one["score"] for one in listed}
        found, near = [scores[name] for name in NAMES], 5e-3
    else:
        found = torch.as_tensor(used(lines, "probabilities")).flatten()
        assert capsys.readouterr().out.strip().endswith(NAMES[int(expected.argmax())])
    assert list(map(float, found)) == pytest.approx(expected.tolist(), abs=near)


@pytest.mark.filterwarnings("ignore")
def test_what_is_written(kept, tmp_path) -> None:
    """Names and crop go along; transformers' own class where it fits, else timm's, which timm reads as well."""
    for to in OF_CLASSIFIERS:
        exports.export(kept["plain"], to, tmp_path / to)
    described = json.loads((tmp_path / "timm/config.json").read_text())
    assert described["label_names"] == list(NAMES)
    assert described["num_classes"] == 3
    assert described["pretrained_cfg"]["crop_pct"] == 0.8
    assert described["pretrained_cfg"]["interpolation"] == "bicubic"
    described = json.loads((tmp_path / "huggingface/config.json").read_text())
    assert described["architectures"] == ["ViTForImageClassification"]
    assert described["id2label"] == {"0": "dark blue", "1": "green", "2": "red"}
    described = json.loads((tmp_path / "onnx/openslip.json").read_text())
    assert described["names"] == list(NAMES)
    assert (described["image"]["size"], described["image"]["resize"]) == (32, 40)
    assert sorted(os.listdir(tmp_path / "openslip")) == ["README.md", "model.safetensors"]
    done = exports.export(kept["timm"], "huggingface", tmp_path / "wrapped")
    assert "timm must be installed" in done.notes[0]
    import timm

    assert timm.create_model(f"local-dir:{tmp_path / 'wrapped'}", pretrained=True).num_classes == 3


@pytest.mark.filterwarnings("ignore")
def test_our_own_format_is_read_and_leaves_again(kept, tmp_path) -> None:
    first = exports.export(kept["plain"], "openslip", tmp_path / "first").place
    second = exports.export(first, "openslip", tmp_path / "second").place
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    ours, again = openslip.FinetunedClassifier(kept["plain"]), openslip.FinetunedClassifier(second)
    assert (again.names, again.recipe) == (ours.names, ours.recipe)
    assert torch.equal(again(picture()), ours(picture()))
    exports.export(first / "model.safetensors", "timm", tmp_path / "third")
    with pytest.raises(CheckpointError, match="openslip.FinetunedClassifier"):
        openslip.load(first)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", OTHERS)
def test_heads_go_where_timm_has_them(tmp_path, place) -> None:
    kept = finetuned(tmp_path, config_of(name=OTHERS[place]))
    _, state = of_timm(openslip.FinetunedClassifier(kept))
    assert (
        state[f"{place}.weight"].numel() == state[f"{place}.bias"].numel() * state[f"{place}.weight"].shape[1]
    )
    for to in ("timm", "huggingface"):
        assert exports.export(kept, to, tmp_path / to).trial.image < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_a_vit_of_other_numbers(tmp_path) -> None:
    kept = finetuned(tmp_path, config_of(activation="gelu_tanh", mlp=40, norm_eps=1e-5))
    assert exports.export(kept, "huggingface", tmp_path / "there").trial.image < 1e-6


def test_half_precision(kept, tmp_path) -> None:
    done = exports.export(kept["plain"], "onnx", tmp_path / "there", fp16=True)
    assert 0 < done.trial.image < 1e-2
    assert "probabilities differ" in done.notes[0]


def test_what_is_refused_before_anything_is_written(kept, tmp_path) -> None:
    for to in FORMATS:
        if to not in OF_CLASSIFIERS:
            with pytest.raises(ExportError, match=r"finetuned classifier.*Use one of timm, huggingface"):
                exports.export(kept["plain"], to, tmp_path / "there.pt")
    with pytest.raises(ConfigError, match="no such option.*layout"):
        exports.export(kept["plain"], "onnx", tmp_path / "there", layout="immich")
    with pytest.raises(ConfigError, match="not a run"):
        exports.export(kept["plain"], "timm", tmp_path / "there", which="best")
    (tmp_path / "unfinished").mkdir()
    shutil.copy(kept["plain"] / "finetune.json", tmp_path / "unfinished")
    with pytest.raises(CheckpointError, match="no complete epoch"):
        exports.export(tmp_path / "unfinished", "timm", tmp_path / "there")
    assert os.listdir(tmp_path) == ["unfinished"]


def test_a_library_that_gives_other_logits_is_noticed(kept, tmp_path, monkeypatch) -> None:
    from openslip.exports.classifiers import timm as module

    write = module.write_folder

    def doubled(place, settings, state):
        write(place, settings, state | {"head.weight": 2 * state["head.weight"]})

    monkeypatch.setattr(module, "write_folder", doubled)
    with pytest.raises(ExportError, match="not the same in its own library.*logits within"):
        exports.export(kept["plain"], "timm", tmp_path / "there")
    assert os.listdir(tmp_path) == []


def test_the_card(kept, tmp_path) -> None:
    (tmp_path / "notes.md").write_text("For **paint**.\n")
    exports.export(kept["plain"], "openslip", tmp_path / "there", license="MIT", notes=tmp_path / "notes.md")
    _, front, text = (tmp_path / "there/README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] == "openslip"
    assert front["license"] == "mit"
    (top1,) = [one for one in results.read(kept["plain"] / "results.json") if one.metric == "top1"]
    for words in (
        "For **paint**.",
        'openslip.FinetunedClassifier("there")',
        "The classes: dark blue, green, red.",
        "finetuned on 24 labelled pictures of colours, by the recipe test: 2 epochs in batches of 8, seed 0.",
        "trained before with the loss `clip + 1.0 * simclr`",
        f"| finetune:colours | top1 | {top1.value:.1%} | {100 * top1.low:.1f} – {100 * top1.high:.1f} | 9 |",
        "the middle 80 % of the short side",
        "A picture of none of the classes",
        "under the licence mit",
    ):
        assert words in text, words
    own = [str(Path.home()), os.getcwd(), str(kept["plain"]), str(tmp_path)]
    assert not [place for place in own if place in text]


def test_a_card_without_results(kept, tmp_path) -> None:
    away = shutil.copytree(kept["plain"], tmp_path / "away")
    (away / "results.json").unlink()
    exports.export(away, "openslip", tmp_path / "there")
    text = (tmp_path / "there/README.md").read_text()
    assert "How good the classifier is, is not known here." in text
    assert "What it was trained on before is not known here." in text


def test_the_command(kept, tmp_path, capsys) -> None:
    command.main([str(kept["plain"]), "--to", "openslip", "--out", str(tmp_path / "there")])
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'there'}: as openslip" in said
    assert "logits equal" in said
    assert "openslip.FinetunedClassifier" in said
    assert reading.is_one(tmp_path / "there")


def test_the_docs_show_the_lines_that_are_printed() -> None:
    from openslip.exports.classifiers import huggingface, timm

    docs = Path(__file__).parents[2] / "docs" / "export.md"
    section = docs.read_text().partition("\n## A finetuned classifier\n")[2].partition("\n## ")[0]
    for lines, place in ((timm.USAGE, "photos-timm"), (huggingface.USAGE, "photos-transformers")):
        assert f"```python\n{lines.replace('PLACE', place)}\n```" in section
