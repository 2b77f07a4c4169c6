"""Model cards: what they say of runs and of other weights, and what they keep to themselves."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import openslip
from exports.models import model_of, saved
from openslip import recipes
from openslip.errors import ConfigError
from openslip.exports import card, export
from openslip.training.saving import metadata
from report_fakes import result, write_run

SECRET = "/home/alice/secret"
TUNED = replace(
    recipes.get("finetune"),
    model=model_of().model,
    views=replace(recipes.get("finetune").views, size=32),
    init="open_clip:ViT-B-32/laion2b",
    data=replace(recipes.get("finetune").data, train=f"{SECRET}/pairs.csv + hf:owner/set", val="10%"),
    objective=replace(
        recipes.get("finetune").objective,
        loss="clip + 1.0 * distil",
        options={"distil": {"teacher": f"{SECRET}/teacher.safetensors"}},
    ),
    training=replace(recipes.get("finetune").training, epochs=3, batch=8),
)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that started from a model of the hub, with two checkpoints' worth of results; its places are secret."""
    results = [
        result("retrieval:val/text_recall@10", 0.5, count=90, checkpoint="step-00000020"),
        result("zeroshot:birds/top1", 0.25, data="hf:owner/birds", split="test", checkpoint="step-00000020"),
        result("knn:photos/top1", 0.75, data=f"{SECRET}/photos", checkpoint="step-00000020"),
        result("knn:other/top1", 0.99, data=f"{SECRET}/other", checkpoint="step-00000010"),
    ]
    folder = write_run(tmp_path / "run", config=TUNED, results=results)
    encoder = openslip.create(replace(TUNED, init=""))
    at = folder / "checkpoints/step-00000020"
    at.mkdir(parents=True)
    metadata.write_model(at / "model.safetensors", encoder.model.state_dict(), TUNED)
    state = {"step": 20, "position": 160, "counts": {"skipped": 3, "nonfinite": 0}}
    (at / "state.json").write_text(json.dumps(state))
    part = {"share": 100, "block": 1, "samples": {}}
    data = {
        "train": [
            part | {"name": f"{SECRET}/pairs.csv", "records": 100},
            part | {"name": "hf:owner/set", "records": 1900},
        ],
        "held_out": [{"records": 200, "total": 2000, "digest": "0" * 8}],
    }
    (folder / "data.json").write_text(json.dumps(data))
    cached = f"{SECRET}/.cache/hub/models--laion--some-clip/snapshots/0123/open_clip_model.safetensors"
    init = {
        "spec": "open_clip:ViT-B-32/laion2b", "format": "open_clip", "files": {cached: "ab" * 32},
        "taken": ["image_tower.trunk.pos_embed"], "fresh": ["text_tower.norm.weight"], "unused": {},
    }  # fmt: skip
    (folder / "init.json").write_text(json.dumps(init))
    (folder / "fixed.json").write_text(json.dumps({"distil": {"spec": f"{SECRET}/teacher.safetensors"}}))
    return folder


def written(model: Path, place: Path, **options) -> tuple[dict, str]:
    """Return the front matter and the text of the card that an export gets."""
    export(model, "openslip", place, **options)
    _, front, text = (place / card.NAME).read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_run_says_all_that_it_knows(run, tmp_path) -> None:
    (tmp_path / "notes.md").write_text("For birds of **Europe**.\n")
    front, text = written(run, tmp_path / "there", license="CC-BY-4.0", notes=tmp_path / "notes.md")
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "openslip"
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    assert front["base_model"] == "laion/some-clip"
    assert front["datasets"] == ["owner/set"]
    assert front["tags"] == ["openslip", "clip", "distil"]
    (index,) = front["model-index"]  # of four results one is on a set that the hub has
    (listed,) = index["results"]
    assert listed["dataset"] == {"type": "owner/birds", "name": "birds", "split": "test"}
    assert [(metric["type"], metric["value"]) for metric in listed["metrics"]] == [("accuracy", 0.25)]
    for words in (
        "For birds of **Europe**.",
        'openslip.load("there")',
        "ViT, patch 8, width 16",
        "| pairs.csv | 100 |\n| owner/set | 1,900 |",
        "Training started from open_clip:ViT-B-32/laion2b (open_clip): image tower. Started at random: text tower.",
        f"open_clip_model.safetensors has the SHA-256 {'ab' * 32}",
        "The objective distil learns from teacher.safetensors.",
        "The model saw 160 samples in 20 steps of 8.",
        "200 of 2,000 records were held out",
        "Another record took the place of an unusable one 3 times",
        "| training.epochs | 3 | 10 |",
        "| objective.loss | clip + 1.0 * distil | clip + 0.3 * simclr |",
        "| retrieval:val | text_recall@10 | 50.0% | 49.0 – 51.0 | 90 |",
        "| zeroshot:birds | top1 | 25.0% | 24.0 – 26.0 | 100 | split test |",
        "| knn:photos | top1 | 75.0% |",
        "trained on 2,000 records, which are few",
        "beyond what its start knew",
        "The records of `val` were held out",
        "under the licence cc-by-4.0",
        "The weights come from `laion/some-clip`, a model of the hub",
    ):
        assert words in text, words
    assert "99.0%" not in text  # of another checkpoint
    assert "model.image.width" not in text  # which came with the start


def test_nothing_of_the_machine_goes_along(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-mine")
    _, text = written(run, tmp_path / "there")
    own = ["alice", "secret", str(Path.home()), os.getcwd(), str(tmp_path), "host-of-mine", ".cache"]
    assert not [place for place in own if place in text]


def test_another_checkpoint_has_no_results(run, tmp_path) -> None:
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results[-1:]))
    front, text = written(run / "checkpoints/step-00000020", tmp_path / "there")
    assert "This checkpoint, step-00000020, was not measured" in text
    assert "step-00000010" in text
    assert "The model saw 160 samples" in text
    assert "model-index" not in front
    assert "No licence was given" in text


def test_weights_without_a_run(tmp_path) -> None:
    front, text = written(saved(model_of(), tmp_path), tmp_path / "there")
    assert "license" not in front
    assert "base_model" not in front
    assert "The weights are those of model.safetensors (openslip)." in text
    assert "trained with the loss `clip + 1.0 * simclr`" in text
    assert "is not known here" in text
    assert "How good the model is, is not known here" in text
    assert "held out" not in text


def test_a_mixed_model_says_of_what(tmp_path) -> None:
    config = model_of()
    weights = openslip.create(config).model.state_dict()
    metadata.write_model(tmp_path / "mixed.safetensors", weights, config, "Mixed by `slip mix`\nalpha: 0.5")
    _, text = written(tmp_path / "mixed.safetensors", tmp_path / "there")
    assert "- The file says of itself: alpha: 0.5." in text


def test_an_image_tower_alone(run, tmp_path) -> None:
    export(run, "timm", tmp_path / "there")
    text = (tmp_path / "there" / card.NAME).read_text()
    assert "pipeline_tag: image-feature-extraction" in text
    assert "features of 16 numbers" in text
    assert "| Text tower |" not in text
    assert 'timm.create_model("local-dir:there"' in text
    assert "- timm has the image tower's features: the projection" in text


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("/home/alice/runs/mine", "mine"),
        ("../alice/mine/", "mine"),
        (r"C:\Users\alice\mine.pt", "mine.pt"),
        ("hf:owner/name@v2", "hf:owner/name@v2"),
        ("hf:/home/alice/mine", "hf:mine"),
        ("timm:resnet18@/home/alice/a.pth", "timm:resnet18@a.pth"),
        ("open_clip:ViT-B-32/laion2b", "open_clip:ViT-B-32/laion2b"),
        ("slip-vit-b16-yfcc15m-25ep", "slip-vit-b16-yfcc15m-25ep"),
    ],
)
def test_what_a_card_calls_a_model(spec, told) -> None:
    assert card.bare_spec(spec) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clip + 0.5 * my/losses.py:Mine", "clip + 0.5 * losses.py:Mine"),
        ("knn:/data/birds", "knn:birds"),
        ("zeroshot:hf:owner/name", "zeroshot:hf:owner/name"),
        ("k=5, file=~/a/b.csv", "k=5, file=b.csv"),
        ("scenes:test:100", "scenes:test:100"),
    ],
)
def test_the_last_parts_of_paths(text, told) -> None:
    assert card.last_parts(text) == told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b <i> [c] &amp; d", r"a \| b \<i> \[c] \&amp; d"),
        ("see /home/alice/x.csv and C:/a/b", "see x.csv and b"),
        ("https://a.org/b/c, 1/2 and either/or", "https://a.org/b/c, 1/2 and either/or"),
        ("two\nlines\x1b", "two lines\\x1b"),
    ],
)
def test_what_is_printed_is_plain(text, shown) -> None:
    assert card._plain(text) == shown


def test_licences() -> None:
    assert card.Wanted.given("MIT").license == "mit"
    with pytest.raises(ConfigError, match="not the identifier"):
        card.Wanted.given("my own: words")
