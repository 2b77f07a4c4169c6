"""Models to the hub and back, through a stand-in of the hub's HTTP interface."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import openslip
from exports.models import model_of, saved
from finetunings import finetuned
from interop.hub import TOKEN, Hub, names_in
from interop.public import CASES, clip
from openslip import cli
from openslip.errors import CheckpointError, ConfigError, ExportError
from openslip.exports.pull import pull
from openslip.exports.push import FOLDERS, push

CLIP = model_of(image={"activation": "quick_gelu", "pre_norm": True, "norm_eps": 1e-5})
"""A model that every format has a place for."""


@pytest.fixture
def model(tmp_path) -> Path:
    return saved(CLIP, tmp_path)


@pytest.fixture
def there(hub, monkeypatch) -> Hub:
    """The hub, with somebody logged in who may write to what is `owner`'s."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def features(spec: str | Path) -> torch.Tensor:
    encoder = openslip.load(spec)
    generator = torch.Generator().manual_seed(0)
    return encoder.image_features(torch.randn(2, 3, encoder.size, encoder.size, generator=generator))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", [to for to in FOLDERS if to != "onnx"])
def test_out_to_the_hub_and_in_again(there, model, tmp_path, to) -> None:
    shown = []
    done = push(model, "owner/mine", to=to, license="MIT", show=shown.append)
    assert done.url == f"{there.url}/owner/mine"
    (upload,) = shown
    stored = there.repositories["owner/mine"]
    assert {name for name, _ in upload.files} | {".gitattributes"} == {*names_in(stored)}
    assert all((stored / name).stat().st_size == size for name, size in upload.files)
    assert sum(path.endswith("/commit/main") for _, path, *_ in there.written) == 1
    torch.testing.assert_close(features("hf:owner/mine"), features(model), rtol=0, atol=1e-5)
    if to != "timm":
        ours, again = openslip.load(model), openslip.load("hf:owner/mine")
        texts = ["a red bicycle", ""]
        torch.testing.assert_close(again.encode_text(texts), ours.encode_text(texts), rtol=0, atol=1e-6)

    fetched = pull("hf:owner/mine", tmp_path / "mine")
    there.close()
    assert fetched.place == tmp_path / "mine"
    assert "README.md" in {name for name, _ in fetched.files}
    assert "parameters" in fetched.what
    torch.testing.assert_close(features(fetched.place), features("hf:owner/mine"), rtol=0, atol=0)


def test_graphs_are_used_from_the_hub_and_not_read(there, model) -> None:
    push(model, "owner/mine", to="onnx")
    assert names_in(there.repositories["owner/mine"]) == [
        ".gitattributes",
        "README.md",
        "image.onnx",
        "openslip.json",
        "text.onnx",
        "tokenizer.json",
    ]
    card = (there.repositories["owner/mine"] / "README.md").read_text()
    assert "openslip.load" not in card
    with pytest.raises(CheckpointError, match=r"as graphs.*onnxruntime"):
        openslip.load("hf:owner/mine")
    push(model, "owner/mine", to="openslip", replace=True)
    assert names_in(there.repositories["owner/mine"]) == [".gitattributes", "README.md", "model.safetensors"]


@pytest.mark.filterwarnings("ignore")
def test_a_finetuned_classifier(there, tmp_path) -> None:
    kept = finetuned(tmp_path)
    expected = openslip.FinetunedClassifier(kept)
    push(kept, "owner/mine", to="openslip")
    card = (there.repositories["owner/mine"] / "README.md").read_text()
    assert 'openslip.FinetunedClassifier("hf:owner/mine")' in card
    found = openslip.FinetunedClassifier("hf:owner/mine")
    pictures = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(pictures), expected(pictures))
    with pytest.raises(CheckpointError, match=r"finetuned classifier.*openslip.FinetunedClassifier"):
        openslip.load("hf:owner/mine")
    push(kept, "owner/theirs", to="huggingface")
    card = (there.repositories["owner/theirs"] / "README.md").read_text()
    assert 'pipeline("image-classification", model="owner/theirs")' in card
    assert "pipeline_tag: image-classification" in card
    with pytest.raises(CheckpointError, match="not the weights of a finetuned classifier"):
        openslip.FinetunedClassifier("hf:owner/theirs")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to", FOLDERS)
def test_the_cards_lines_load_the_model_from_the_hub(there, model, tmp_path, monkeypatch, to) -> None:
    push(model, "owner/mine", to=to, license="MIT")
    card = (there.repositories["owner/mine"] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "owner/mine" in lines
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    picture.save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"picture": picture}
    exec(lines.replace("a.jpg", "a.png"), found)
    ours = openslip.load(model)
    right = ours.image_features(picture) if to == "timm" else ours.encode_image(picture)
    name = {"timm": "features", "huggingface": "outputs"}.get(to, "image")
    given = found[name].image_embeds if to == "huggingface" else found[name]
    given, right = (F.normalize(torch.as_tensor(values).detach(), dim=-1) for values in (given, right))
    # Transformers rounds while it prepares a picture, which differs by two of 255 levels at most.
    torch.testing.assert_close(given, right, rtol=0, atol=5e-3 if to == "huggingface" else 1e-5)


def test_nothing_of_the_machine_goes_along(there, model, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-mine")
    push(model, "owner/mine", to="huggingface")
    own = [str(Path.home()), os.getcwd(), str(tmp_path), "host-of-mine", TOKEN, "slip-push-"]
    for path in there.repositories["owner/mine"].rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            assert not [place for place in own if place in text], path.name
    large = b"".join(there.large.values())
    assert not [place for place in own if place.encode() in large]
    assert {headers.get("authorization") for _, path, headers, _ in there.written if "/large/" in path} == {
        None
    }
    card = (there.repositories["owner/mine"] / "README.md").read_text()
    assert 'AutoModel.from_pretrained("owner/mine")' in card
    assert 'openslip.load("hf:owner/mine")' in card


def test_files_that_are_there_are_not_replaced_unasked(there, model) -> None:
    push(model, "owner/mine", to="open_clip")
    stored = there.repositories["owner/mine"]
    (stored / "LICENSE").write_text("mine")
    before = {name: (stored / name).read_bytes() for name in names_in(stored)}
    with pytest.raises(
        ExportError, match=r"branch main has a model.*README.md, open_clip_config.json.*--replace"
    ):
        push(model, "owner/mine", to="openslip")
    assert {name: (stored / name).read_bytes() for name in names_in(stored)} == before
    shown = []
    push(model, "owner/mine", to="openslip", replace=True, show=shown.append)
    assert shown[0].replaced == ("README.md",)
    assert shown[0].removed == ("open_clip_config.json", "open_clip_model.safetensors")
    assert names_in(stored) == [".gitattributes", "LICENSE", "README.md", "model.safetensors"]
    torch.testing.assert_close(features("hf:owner/mine"), features(model), rtol=0, atol=0)
    assert not push(model, "owner/mine", to="openslip", replace=True).changed


def test_a_branch_of_its_own(there, model) -> None:
    push(model, "owner/mine", to="open_clip")
    done = push(model, "owner/mine", to="openslip", branch="v2")
    assert done.url.endswith("/owner/mine/tree/v2")
    assert "open_clip_config.json" in names_in(there.repositories["owner/mine"])
    assert names_in(there.branches["owner/mine", "v2"]) == [
        ".gitattributes",
        "README.md",
        "model.safetensors",
    ]
    torch.testing.assert_close(features("hf:owner/mine@v2"), features(model), rtol=0, atol=0)
    with pytest.raises(ExportError, match="its branch v2 has a model"):
        push(model, "owner/mine", to="openslip", branch="v2")


def test_private(there, model) -> None:
    push(model, "owner/hidden", to="openslip", private=True)
    assert there.private == {"owner/hidden"}
    push(model, "owner/open", to="openslip")
    assert there.private == {"owner/hidden"}
    with pytest.raises(ExportError, match="everybody can see it"):
        push(model, "owner/open", to="openslip", private=True, replace=True)


def test_somebody_else_was_quicker(there, model) -> None:
    push(model, "owner/mine", to="openslip")

    def meanwhile(_: object) -> None:
        there.commits["owner/mine"] = "f" * 40

    with pytest.raises(ExportError, match="Somebody else has changed"):
        push(model, "owner/mine", to="open_clip", replace=True, show=meanwhile)
    assert "model.safetensors" in names_in(there.repositories["owner/mine"])


@pytest.mark.parametrize(
    ("repository", "token", "options", "told"),
    [
        ("owner/mine", "", {}, "Nobody is logged in.*hf auth login"),
        ("owner/mine", "hf_wrongwrongwrong", {}, "does not know the token"),
        ("other/mine", TOKEN, {}, "not let this token write to other/mine.*other may be neither"),
        ("nobody/mine", TOKEN, {}, "knows nobody called nobody"),
        (
            "owner/mine",
            TOKEN,
            {"license": "nonsense"},
            "does not accept the model card.*must be one of.*--license",
        ),
        ("mine", TOKEN, {}, "no name of a repository.*owner/name"),
        ("owner/mine@v2", TOKEN, {}, "no name of a repository"),
        ("owner/mi--ne", TOKEN, {}, "no name of a repository"),
        ("owner/mine", TOKEN, {"to": "reference"}, "not a format that a repository"),
        ("owner/mine", TOKEN, {"license": "do what you want"}, "not the identifier of a licence.*apache-2.0"),
        ("owner/mine", TOKEN, {"notes": Path("nowhere.md")}, "notes for the model card cannot be read"),
    ],
)
def test_what_the_hub_and_we_refuse(hub, model, monkeypatch, repository, token, options, told) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises((ExportError, ConfigError), match=told) as refused:
        push(model, repository, **({"to": "openslip"} | options))
    assert not token or token not in str(refused.value)
    assert not hub.large


def test_the_hub_is_away(there, model, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="may not be asked.*HF_HUB_OFFLINE"):
        push(model, "owner/mine", to="openslip")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    there.down = True
    with pytest.raises(ExportError, match="not let this token write to owner/mine"):
        push(model, "owner/mine", to="openslip")
    assert names_in(there.repositories["owner/mine"]) == [".gitattributes"]
    there.down = False
    push(model, "owner/mine", to="openslip")  # an empty repository is taken without --replace
    there.close()
    with pytest.raises(ExportError, match="cannot be reached.*slip export"):
        push(model, "owner/other", to="openslip")


@pytest.mark.filterwarnings("ignore")
def test_what_could_be_executed_is_not_kept(hub, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    clip()(folder)
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    hub.repositories["owner/old"] = folder
    done = pull("hf:owner/old", tmp_path / "mine")
    assert names_in(done.place) == ["model.safetensors"]
    assert any("no safetensors" in note for note in done.notes)
    hub.close()
    torch.testing.assert_close(features(done.place), features(folder), rtol=0, atol=0)


def test_into_the_cache_alone(there, model) -> None:
    push(model, "owner/mine", to="openslip")
    done = pull("hf:owner/mine")
    assert {name for name, _ in done.files} == {"README.md", "model.safetensors"}
    assert (done.place / "model.safetensors").is_file()
    there.close()
    torch.testing.assert_close(features("hf:owner/mine"), features(model), rtol=0, atol=0)


def test_what_is_not_fetched(there, model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    push(model, "owner/mine", to="openslip")
    for spec, told in {
        "owner/mine": "Write hf:owner/mine",
        "timm:resnet18": "hf:owner/name",
        "hf:mine": "hf:owner/name",
        "hf:owner/none": "no such model",
    }.items():
        with pytest.raises((ConfigError, CheckpointError), match=told):
            pull(spec, tmp_path / "mine")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]
    with pytest.raises(ConfigError, match="take the place of something that is there"):
        pull("hf:owner/mine", model)
    Path("owner/mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="a folder of this name"):
        pull("hf:owner/mine")


def test_the_commands(there, model, tmp_path, capsys) -> None:
    words = ["push", str(model), "owner/mine", "--to", "openslip", "--license", "mit", "--private"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "to owner/mine, a new branch main:\n  README.md" in said.out
    assert said.out.endswith(f"uploaded: {there.url}/owner/mine\n")
    assert TOKEN not in said.out + said.err
    assert cli.main(words[:-1]) == 1
    assert "--replace" in capsys.readouterr().err
    assert cli.main([*words, "--replace"]) == 0
    assert "replaces README.md, model.safetensors\n" in capsys.readouterr().out
    assert cli.main(["pull", "hf:owner/mine", "--out", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'mine'}:\n  README.md")
    assert "image tower ViT, patch 8" in said


@pytest.mark.filterwarnings("ignore")
def test_a_tokenizer_of_another_repository_comes_along(hub, tmp_path) -> None:
    folder, words = tmp_path / "model", tmp_path / "words"
    folder.mkdir()
    words.mkdir()
    (case,) = (case for case in CASES if "SigLIP: attention" in case.architecture)
    made = case.make(folder)
    expected = features_of_texts(made.spec)
    settings = folder / "open_clip_config.json"
    settings.write_text(settings.read_text().replace('"here"', '"owner/words"'))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(words / name)
    hub.repositories |= {"owner/mine": folder, "owner/words": words}
    done = pull("hf:owner/mine", tmp_path / "mine")
    hub.close()
    assert {"tokenizer.json", "tokenizer_config.json"} < {name for name, _ in done.files}
    assert torch.equal(features_of_texts(done.place), expected)


def features_of_texts(spec: str | Path) -> torch.Tensor:
    return openslip.load(spec).encode_text(["a red bicycle", ""])
