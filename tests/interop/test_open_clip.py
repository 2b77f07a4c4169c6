"""open_clip's models: by its names for them, of the hub, of a folder, of a file; and those that are refused."""

import contextlib
import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import openslip
from interop.public import TEXT, TEXTS, VISION
from interop.public import open_clip as made_by
from openslip.errors import CheckpointError
from openslip.interop import hub, open_clip_towers, read
from openslip.interop import open_clip as reader

NAME = "ViT-T-4"
CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
OPENAI = (0.48145466, 0.4578275, 0.40821073)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made_by()(folder)
    return folder


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Give open_clip a small architecture, with published weights of two tags."""
    (tmp_path / "configs").mkdir()
    described = {}
    for name, quick in {NAME: False, f"{NAME}-quickgelu": True}.items():
        described[name] = tmp_path / "configs" / f"{name}.json"
        described[name].write_text(json.dumps(CONFIG | ({"quick_gelu": True} if quick else {})))
    monkeypatch.setattr(reader, "architectures", lambda: described)
    table = {
        "hub": {"hf_hub": "owner/name/", "mean": OPENAI, "std": (0.5, 0.5, 0.5), "resize_mode": "squash",
                "interpolation": "bilinear"},
        "file_of_hub": {"hf_hub": "owner/name/b32.bin", "mean": OPENAI, "std": (0.5, 0.5, 0.5)},
        "quick": {"hf_hub": "owner/name/", "quick_gelu": True},
    }  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, table)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, f"{NAME}-quickgelu", {"other": table["quick"]})


@pytest.fixture
def fetched(monkeypatch, folder):
    """Let the hub have the model's folder; return what was asked for."""
    asked = []

    def fetch(name, files, *, optional=False):
        asked.append((name, *files))
        return next((folder / file for file in files if (folder / file).is_file()), None)

    monkeypatch.setattr(hub, "fetch", fetch)
    return asked


def same(one, other) -> bool:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return torch.equal(one.encode_image(images), other.encode_image(images)) and torch.equal(
        one.encode_text(TEXTS), other.encode_text(TEXTS)
    )


def test_a_folder_with_and_without_the_format(folder) -> None:
    first = openslip.load(f"open_clip:{folder}")
    for spec in (
        folder,
        folder / "open_clip_model.safetensors",
        f"open_clip:{folder / 'open_clip_model.safetensors'}",
        f"open_clip:local-dir:{folder}",
        f"hf:{folder}",
    ):
        assert same(openslip.load(spec), first)
    found = read(f"open_clip:{folder}")
    assert (found.origin.spec, found.origin.format) == (f"open_clip:{folder}", "open_clip")
    assert {Path(file).name for file in found.origin.files} == {
        "open_clip_model.safetensors", "open_clip_config.json",
    }  # fmt: skip
    assert found.config.objective.loss == "clip"
    assert first.logit_scale == pytest.approx(1 / 0.07, rel=0.1)
    assert found.shared_space


def test_weights_by_name_come_from_the_hub_with_their_preprocessing(known, fetched, folder, caplog) -> None:
    encoder = openslip.load(f"open_clip:{NAME}/hub")
    assert same(encoder, openslip.load(folder))
    views = encoder.config.views
    assert (views.size, views.mean, views.fit, views.interpolation) == (32, OPENAI, "squash", "bilinear")
    assert fetched[0] == ("owner/name", *reader.FILES[:3])
    assert not caplog.text
    with pytest.raises(CheckpointError, match=r"The hub lacks the file.*b32.safetensors or b32.bin"):
        read(f"open_clip:{NAME}/file_of_hub")
    assert "ViT-T-4-quickgelu/quick is exact" in read(f"open_clip:{NAME}/quick").notes[0]


def test_a_repository_of_the_hub(fetched, folder) -> None:
    first = openslip.load(folder)
    for spec in ("hf:owner/name", "open_clip:owner/name", "open_clip:hf-hub:owner/name"):
        assert same(openslip.load(spec), first)
    assert read("hf:owner/name").config.name == "owner/name"


def test_weights_in_a_file_and_what_they_are_of(known, folder, tmp_path, caplog) -> None:
    first = openslip.load(folder)
    state = load_file(folder / "open_clip_model.safetensors")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        tmp_path / "a.pt",
    )
    encoder = openslip.load(f"open_clip:{NAME}@{tmp_path / 'a.pt'}")
    assert same(encoder, first)
    assert "does not say how pictures were prepared: mean 0.481455" in caplog.text
    with pytest.raises(
        CheckpointError, match=r"a CLIP of OpenAI or open_clip.*no open_clip_config.json beside it"
    ):
        openslip.load(tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=rf"open_clip:NAME@{tmp_path}/a.pt, such as open_clip:ViT-B-32@"
    ):
        openslip.load(tmp_path / "a.pt")


def test_openais_own_entries_and_half_precision(known, folder, tmp_path) -> None:
    """As `torch.jit.load(FILE).state_dict()` gives them."""
    state = load_file(folder / "open_clip_model.safetensors")
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({name: value.half() for name, value in state.items()} | numbers, tmp_path / "openai.pt")
    found = read(f"open_clip:{NAME}-quickgelu@{tmp_path / 'openai.pt'}")
    assert {*found.unused} == {*numbers}
    assert found.config.model.image.activation == found.config.model.text.activation == "quick_gelu"
    assert all(value.dtype == torch.float32 for value in found.weights.values())


def test_names_of_texts_within_a_table_of_their_own_and_a_logit_bias(folder, tmp_path) -> None:
    """The layout of CustomTextCLIP, with the scale and bias as vectors of one number."""
    state = load_file(folder / "open_clip_model.safetensors")
    state = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": value
        for name, value in state.items()
    }
    state |= {"logit_scale": state["logit_scale"].reshape(1), "logit_bias": torch.tensor([-9.0])}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    config = CONFIG | {"custom_text": True, "init_logit_bias": -10}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    found = read(tmp_path)
    assert float(found.weights["objective.siglip.bias"]) == -9
    assert found.config.objective.loss == "siglip"
    assert same(openslip.load(tmp_path), openslip.load(folder))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("ViT-T-9/hub", "no such architecture, and there is no such folder.*'ViT-T-4'"),
        (NAME, r"but not its weights.*open_clip:ViT-T-4/hub, open_clip:ViT-T-4/file_of_hub"),
        (f"{NAME}:hub", "no such architecture.*Write open_clip:ViT-T-4/hub"),
        (f"{NAME}/hubb", "no weights of ViT-T-4 with this name.*'hub'"),
        (f"{NAME}/other", "no weights of ViT-T-4.*Write open_clip:ViT-T-4-quickgelu/other"),
    ],
)
def test_names_that_open_clip_has_not(known, spec, told) -> None:
    with pytest.raises(CheckpointError, match=told):
        read(f"open_clip:{spec}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"multimodal_cfg": {}}, "CoCa"),
        (
            {"text_cfg": TEXT | {"hf_model_name": "roberta-base"}},
            "roberta-base of transformers as its text tower",
        ),
        ({"text_cfg": TEXT | {"pool_type": "eos"}}, "pooled by 'eos'"),
        ({"text_cfg": TEXT | {"embed_cls": True}}, "options of its text tower.*embed_cls"),
        ({"vision_cfg": VISION | {"ls_init_value": 1e-4}}, "options of its image tower.*ls_init_value"),
        ({"vision_cfg": VISION | {"attentional_pool": True}}, "attentional_pool"),
        ({"vision_cfg": VISION | {"pool_type": "avg"}}, "pooled by 'avg' after its last norm"),
        ({"vision_cfg": VISION | {"image_size": [32, 64]}}, "not square"),
        (
            {"vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "avg"}},
            "'avg' instead of timm's 'token'",
        ),
        (
            {"vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "mlp"}},
            "projection 'mlp'",
        ),
        (
            {"vision_cfg": {"timm_model_name": "test_vitt"}},
            "does not know the model's image tower.*'test_vit'",
        ),
        ({"vision_cfg": VISION | {"layers": [1, 2, 3, 4]}}, "ResNet of .1, 2, 3, 4. blocks"),
        ({"vision_cfg": VISION | {"width": 48}}, r"of another shape.*visual\.\w+"),
        ({"vision_cfg": VISION | {"layers": 3}}, "missing"),
        ({"vision_cfg": VISION | {"layers": 1}}, r"unexpected \(visual.transformer.resblocks.1"),
        ({"embed_dim": 25}, r"visual.proj \(32, 24\) instead of \(32, 25\)"),
    ],
)
def test_what_is_refused_says_why(folder, tmp_path, change, told) -> None:
    (tmp_path / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG | change}))
    with pytest.raises(CheckpointError, match=told):
        read(tmp_path)


@pytest.mark.parametrize("odd", ["x", -1, [], 10**9, None])
def test_values_of_any_kind_are_refused_in_words(folder, tmp_path, odd) -> None:
    """Or read, where they are as good as another."""
    (tmp_path / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    pictures = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    whole = {"model_cfg": CONFIG, "preprocess_cfg": pictures}
    changes = [{"model_cfg": CONFIG | {key: odd}} for key in CONFIG]
    changes += [{"preprocess_cfg": pictures | {key: odd}} for key in pictures]
    for section in ("vision_cfg", "text_cfg"):
        keys = [*CONFIG[section], "mlp_ratio", "norm_kwargs", "act_kwargs", "timm_model_name", "pool_type"]
        changes += [{"model_cfg": CONFIG | {section: CONFIG[section] | {key: odd}}} for key in keys]
    for change in changes:
        (tmp_path / "open_clip_config.json").write_text(json.dumps(whole | change))
        with contextlib.suppress(CheckpointError):
            read(tmp_path)


def test_folders_without_their_parts(folder, tmp_path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(CheckpointError, match="no weights beside its open_clip_config.json"):
        read(tmp_path)
    whole = (folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="cut off.*compare the sizes"):
        read(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no table model_cfg"):
        read(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="configuration cannot be read"):
        read(tmp_path)


def test_every_architecture_of_the_installed_open_clip_is_read_or_refused_in_words(monkeypatch) -> None:
    """As far as its description tells. Building towers of a billion weights would take long."""
    monkeypatch.setattr(open_clip_towers, "_trunk", lambda *_: nn.Module())
    refused = {}
    for name, path in reader.architectures().items():
        try:
            reader.check(json.loads(path.read_text()), name)
        except CheckpointError as error:
            refused[name] = error.what.removeprefix("The model is one of open_clip ").removesuffix(
                ", which slip does not load"
            )

    kinds = ("coca_", "roberta-", "xlm-", "mt5-", "nllb-", "convnext_large_d", "ViT-M-", "worldwide")
    assert all(any(kind in name for kind in kinds) for name in refused), refused
    assert len(refused) <= 24
