"""CLIP and SigLIP of transformers: of a folder, a file, the hub; and what else lies there."""

import contextlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import openslip
from interop.public import DINOV2, clip, dual, siglip
from interop.test_load import write_run
from openslip.errors import CheckpointError
from openslip.interop import hub, read
from openslip.training.saving import metadata
from toys import make_tiny_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    clip()(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Return what puts a folder into the hub's cache, under the name owner/name; the hub may not be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(folder: Path) -> None:
        repository = tmp_path / "hub" / "models--owner--name"
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)

    return put


def same(one, other) -> bool:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "a dog, and more"]
    return torch.equal(one.encode_image(images), other.encode_image(images)) and torch.equal(
        one.encode_text(texts), other.encode_text(texts)
    )


def change(folder: Path, name: str = "config.json", **values) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_with_and_without_the_format(folder) -> None:
    first = openslip.load(f"hf:{folder}")
    assert same(openslip.load(folder), first)
    assert same(openslip.load(folder / "model.safetensors"), first)
    assert same(openslip.load(f"hf:{folder / 'model.safetensors'}"), first)
    found = read(folder)
    assert (found.origin.format, found.notes, found.unused) == ("transformers", (), {})
    assert {Path(file).name for file in found.origin.files} == {
        "model.safetensors", "config.json", "preprocessor_config.json",
    }  # fmt: skip
    views = found.config.views
    assert (views.size, views.mean, views.std, views.interpolation, views.fit) == (
        32, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "bicubic", "crop",
    )  # fmt: skip


def test_a_siglip_has_its_bias_and_its_tokenizer(tmp_path) -> None:
    siglip(tmp_path)
    found = read(tmp_path)
    assert found.config.objective.loss == "siglip"
    assert found.weights["objective.siglip.bias"].shape == ()
    assert found.weights["text_tower.tokenizer"].dtype == torch.uint8
    assert found.config.model.text.tokenizer == len(found.weights["text_tower.tokenizer"])
    assert (found.config.views.fit, found.config.views.mean) == ("squash", (0.5, 0.5, 0.5))
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"its own tokenizer.*neither tokenizer.json nor spiece.model"):
        read(tmp_path)


@pytest.mark.parametrize("within", ["text_model.", "text_model.text_model."])
def test_a_dual_encoder_of_transformers_before_and_since_5_6(tmp_path, within) -> None:
    dual(DINOV2)(tmp_path / "one")
    state = load_file(tmp_path / "one" / "model.safetensors")
    state = {re.sub(r"^(text_model\.)+", within, name): value for name, value in state.items()}
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    save_file(state, tmp_path / "other" / "model.safetensors")
    assert same(openslip.load(tmp_path / "one"), openslip.load(tmp_path / "other"))


def test_weights_in_several_files(copy, folder) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, copy / file)
    places = {name: file for file, part in halves.items() for name in part}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(openslip.load(copy), openslip.load(folder))
    assert len(read(copy).origin.files) == 5
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"are in 2 files, and 1 of them is missing.*model-00002-of-00002"
    ):
        openslip.load(copy)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(CheckpointError, match="does not say where its weights are"):
        openslip.load(copy)


def test_files_that_torch_saved(copy, folder) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert same(openslip.load(copy), openslip.load(folder))
    assert same(openslip.load(copy / "pytorch_model.bin"), openslip.load(folder))


@pytest.mark.parametrize("place", ["", ".", "..", "../model.safetensors", "a\0b", "x" * 300, "i.index.json"])
def test_an_index_names_files_beside_it_alone(copy, place) -> None:
    (copy / "model.safetensors").rename(copy / "a.safetensors")
    index = json.dumps({"weight_map": {"logit_scale": place}})
    (copy / "i.index.json").write_text(index)
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="does not say where its weights are"):
        read(copy)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_numbers_that_stand_for_others_are_no_weights(copy, kind) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"] = weights["visual_projection.weight"].to(kind)
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"visual_projection.weight {kind}.*quantised"):
        read(copy)


def test_few_numbers_that_stand_for_many_take_no_memory(copy) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    name = "text_model.embeddings.position_embedding.weight"
    weights[name] = torch.zeros(1, dtype=torch.float16).expand(10**6, 10**6)
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="far more numbers than the file holds"):
        read(copy)


def test_a_file_that_unpacks_to_far_more_is_not_unpacked(tmp_path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for record in plain.infolist():
            archive.writestr(record.filename, plain.read(record))
    with pytest.raises(CheckpointError, match="is compressed, and was not loaded.*unpacked"):
        read(packed)


def test_positions_that_old_files_count_are_left_out_and_listed(copy, folder, caplog) -> None:
    state = load_file(copy / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(state, copy / "model.safetensors")
    assert same(openslip.load(copy), openslip.load(folder))
    assert "1 entry of" in caplog.text
    assert "left out: text_model.embeddings.position_ids" in caplog.text


def test_preprocessing_that_slip_does_otherwise_is_said(copy) -> None:
    change(copy, "preprocessor_config.json", resample=1, size={"shortest_edge": 40}, crop_size={"height": 36})
    notes = " ".join(read(copy).notes)
    assert "by lanczos; slip resizes them by bicubic" in notes
    assert "prepares pictures of 36 pixels, but its model takes 32" in notes
    assert "to 40 pixels and cropped to 36" in notes
    (copy / "preprocessor_config.json").unlink()
    found = read(copy)
    assert "has no preprocessor_config.json" in found.notes[0]
    assert found.config.views.mean == (0.48145466, 0.4578275, 0.40821073)
    (copy / "preprocessor_config.json").write_text('{"image_mean": [1, 2]}')
    with pytest.raises(CheckpointError, match="How pictures are prepared"):
        read(copy)


def test_an_image_tower_alone(copy, folder) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps(config["vision_config"] | {"model_type": "clip_vision_model"})
    )
    state = load_file(copy / "model.safetensors")
    vision = {name: value for name, value in state.items() if name.startswith("vis")}
    save_file(vision, copy / "model.safetensors")
    found = read(copy)
    assert not found.has_text
    assert [*found.unused] == ["visual_projection.weight"]
    images = torch.randn(2, 3, 32, 32)
    whole = openslip.load(folder).image_features(images)
    assert torch.equal(openslip.load(copy).encode_image(images, normalize=False), whole)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "siglip2"}, "pictures of any shape.*fixed size"),
        ({"model_type": "clip_text_model"}, "text tower alone"),
        ({"model_type": "bert"}, "neither a CLIP nor a SigLIP.*model_type bert"),
        ({"model_type": ""}, "neither one of transformers nor one of timm"),
        ({"projection_dim": 25}, r"visual_projection.weight \(32, 24\) instead of \(32, 25\)"),
        ({"vision_config": {"hidden_size": 32, "hidden_act": "relu"}}, "the activation 'relu'"),
        ({"text_config": {"vocab_size": 1000}}, "another tokenizer.*1,000 tokens"),
        ({"vision_config": {"num_channels": 4}}, "pictures of 4 channels"),
    ],
)
def test_what_is_refused_says_why(copy, values, told) -> None:
    change(copy, **values)
    with pytest.raises(CheckpointError, match=told):
        read(copy)


@pytest.mark.parametrize("odd", ["x", -1, [], 10**9, None])
def test_values_of_any_kind_are_refused_in_words(copy, odd) -> None:
    """Or read, where they are as good as another."""
    config = json.loads((copy / "config.json").read_text())
    for section in ("text_config", "vision_config", ""):
        for key in config[section] if section else config:
            changed = {section: {**config[section], key: odd}} if section else {key: odd}
            (copy / "config.json").write_text(json.dumps(config | changed))
            with contextlib.suppress(CheckpointError):
                read(copy)
    (copy / "config.json").write_text(json.dumps(config))
    stated = json.loads((copy / "preprocessor_config.json").read_text())
    for key in stated:
        (copy / "preprocessor_config.json").write_text(json.dumps(stated | {key: odd}))
        with contextlib.suppress(CheckpointError):
            read(copy)


def test_files_alone_say_what_is_missing(copy) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"CLIP or SigLIP of Hugging Face.*no config.json beside it"):
        read(copy / "model.safetensors")
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2)}, copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text("{}")
    (copy / "model.safetensors").unlink()
    for given in (copy, copy / "adapter_model.safetensors"):
        with pytest.raises(CheckpointError, match=r"adapters \(LoRA\) alone.*merge_and_unload"):
            read(given)


def test_a_model_in_the_hubs_cache_needs_no_network(cached, folder) -> None:
    cached(folder)
    assert same(openslip.load("hf:owner/name"), openslip.load(folder))
    assert read("hf:owner/name").origin.spec == "hf:owner/name"
    with pytest.raises(
        CheckpointError, match=r"not on this disk, and the hub may not be asked.*HF_HUB_OFFLINE is set"
    ):
        read("hf:owner/other")


def test_a_hub_that_is_away_is_asked_once(monkeypatch, tmp_path) -> None:
    """Its library would try each file for half a minute, and print each try."""
    asked = []

    def away(url, **_):
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", away)
    with pytest.raises(
        CheckpointError, match=r"cannot be asked.*owner/name: a or b.*https?://\S+ does not answer: no route"
    ):
        hub.fetch("owner/name", ["a", "b"])
    assert len(asked) == 1


def test_one_of_our_own_models_on_the_hub(cached, tmp_path) -> None:
    config = make_tiny_config()
    (encoder,) = write_run(tmp_path / "run", config)
    (tmp_path / "ours").mkdir()
    save_file(encoder.model.state_dict(), tmp_path / "ours" / "model.safetensors", metadata.describe(config))
    cached(tmp_path / "ours")
    text = "a red square"
    assert torch.equal(openslip.load("hf:owner/name").encode_text(text), encoder.encode_text(text))


@pytest.mark.parametrize("name", ["owner", "a/b/c", "owner/na me"])
def test_what_is_no_name_of_a_model(name) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor the name of a model"):
        read(f"hf:{name}")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("RepositoryNotFoundError", "no such model, or does not show it.*hf auth login"),
        ("GatedRepoError", "accepted its terms"),
        ("RevisionNotFoundError", "no such revision"),
        ("HfHubHTTPError", "could not be fetched.*Try again"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, told) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_, **__):
        kind = getattr(errors, error)
        raise kind.__new__(kind, "It says no")  # which needs no answer of a server

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=told):
        read("hf:owner/name@v1")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("openclip:ViT-B-32/openai", "no format 'openclip'.*'open_clip'"),
        ("huggingface:owner/name", "no format 'huggingface'"),
        ("hf-hub:owner/name", "no format 'hf-hub'"),
        ("owner/name", "no such file or folder.*write hf:owner/name"),
        ("https://example.org/a.pt", "no such file or folder"),
        ("https://huggingface.co/owner/name/tree/main", "Got: 'https://hugg.*write hf:owner/name. Give"),
        ("hf:", "Nothing follows the format.*hf:owner/name"),
        ("timm:", "Nothing follows the format.*timm:NAME"),
    ],
)
def test_a_misspelt_spec_says_how_it_is_written(spec, told) -> None:
    with pytest.raises(CheckpointError, match=told):
        read(spec)
