"""Exports to ONNX, run by onnxruntime as programs without torch run them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip.tokenizer
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

import openslip
from exports.cases import exported, farthest
from exports.models import MODELS, WITHOUT_TEXT, model_of, saved
from interop.public import CASES as PUBLIC
from interop.public import sentencepiece
from openslip import exports as export
from openslip.cli import export as command
from openslip.data.own_tokenizer import from_json, from_sentencepiece
from openslip.encoder import Encoder
from openslip.errors import ConfigError, ExportError
from openslip.exports import graphs, onnx_plain
from openslip.exports.tokenizer_files import CHECKED, ENTITIES, tokenizer_json
from openslip.training.saving import metadata

BATCHES = (1, 2, 5)
TEXTS = ["a photo of a dog", "", "one more word " * 60, "It’s 3 o'clock; “Tea” &amp; cakes", "dogs"]


def session(place: Path) -> Any:
    return onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])


def apart(theirs: np.ndarray, ours: torch.Tensor) -> float:
    assert theirs.shape == ours.shape
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    return float(np.abs(theirs - ours.numpy()).max())


def check(place: Path, encoder: Encoder, far: float) -> None:
    """Compare a plain folder with the encoder, for batches and lengths that the graphs were not made of."""
    about = json.loads((place / "openslip.json").read_text())
    run = session(place / about["image"]["file"])
    for n in BATCHES:
        pixels = torch.randn(n, 3, encoder.size, encoder.size)
        found = run.run([about["image"]["output"]], {about["image"]["input"]: pixels.numpy()})[0]
        assert apart(found, encoder.encode_image(pixels)) < far
        assert found.shape[1] == about["embedding"]["dim"]
    run, tokenizer = session(place / "text.onnx"), Tokenizer.from_file(str(place / "tokenizer.json"))
    for n in BATCHES:
        ids = np.array([one.ids for one in tokenizer.encode_batch(TEXTS[:n])])[:, : about["text"]["context"]]
        assert apart(run.run(None, {"ids": ids})[0], encoder.encode_text(TEXTS[:n])) < far
    assert about["logit_scale"] == pytest.approx(encoder.logit_scale)


@pytest.fixture(scope="module")
def plain() -> tuple[Encoder, export.Exported]:
    model, done = exported("plain", "onnx")
    return openslip.load(model), done


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str) -> None:
    model, done = exported(name, "onnx")
    assert farthest(done) < 2e-6
    assert done.trial.picture is not None
    assert done.trial.picture < 0.01
    check(done.place, openslip.load(model), 2e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: f"{case.library}: {case.architecture}")
def test_public_models(case, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    spec = case.make(tmp_path / "model").spec
    done = export.export(spec, "onnx", tmp_path / "there")
    assert max(done.trial.image, done.trial.text or 0.0) < 2e-6
    assert not any("left out" in note for note in done.notes)
    if done.trial.text is not None:
        check(done.place, openslip.load(spec), 2e-6)


def test_any_number_of_pictures_and_texts(plain) -> None:
    encoder, done = plain
    assert farthest(done) < 2e-6
    assert done.trial.picture is not None
    assert done.trial.picture < 0.01
    assert "onnxruntime" in done.trial.described()
    check(done.place, encoder, 2e-6)


def test_texts_of_every_length(plain) -> None:
    """Filled up by zeros as by open_clip, by ends as by transformers, and not at all."""
    encoder, done = plain
    run, tower = session(done.place / "text.onnx"), encoder.model.text_tower
    (given,) = run.get_inputs()
    assert given.type == "tensor(int64)"
    assert all(isinstance(size, str) for size in given.shape)
    for length in range(3, tower.context + 1):
        row = [49406, *range(320, 320 + length - 2), tower.end]
        ours = encoder.encode_text(torch.tensor([row]))
        for filler in (0, tower.end):
            for more in {0, tower.context - length}:
                ids = np.array([row + [filler] * more], dtype=np.int64)
                assert apart(run.run(None, {"ids": ids})[0], ours) < 2e-6, (length, filler, more)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        run.run(None, {"ids": np.zeros((1, tower.context + 1), dtype=np.int64)})


def test_the_settings_say_what_a_program_has_to_know(plain) -> None:
    encoder, done = plain
    about, views = json.loads((done.place / "openslip.json").read_text()), encoder.config.views
    assert about["format"] == "openslip-onnx"
    assert about["precision"] == "fp32"
    assert about["embedding"] == {"dim": 8, "length": 1, "of": "images and texts"}
    image, text = about["image"], about["text"]
    assert image["mean"] == list(views.mean)
    assert image["std"] == list(views.std)
    assert (image["size"], image["fit"], image["interpolation"]) == (32, "crop", "bilinear")
    assert (text["context"], text["padding"], text["filled_up"], text["end"]) == (12, 0, False, 49407)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_the_lines_that_are_printed_run(plain, mode) -> None:
    encoder, done = plain
    levels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).convert(mode)
    variables: dict[str, Any] = {"picture": picture}
    exec(done.usage, variables)
    assert apart(variables["image"], encoder.encode_image(picture)) < 2e-6
    assert apart(variables["text"], encoder.encode_text(["a red bicycle", "a dog"])) < 2e-6
    assert "torch" not in done.usage


def test_the_lines_cut_texts_that_the_tokenizer_does_not_cut(plain) -> None:
    assert "[one.ids for one in tokens]" in plain[1].usage
    encoder = openslip.create(model_of(text={"truncation": "reference"}))
    lines = onnx_plain.usage(encoder, tokenizer_json(encoder))
    assert "[one.ids[:12] for one in tokens]" in lines


def test_nothing_in_it_runs_or_tells_where_it_was_made(plain) -> None:
    place = plain[1].place
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "image.onnx",
        "openslip.json",
        "text.onnx",
        "tokenizer.json",
    ]
    for path in place.glob("*.onnx"):
        graph = onnx.load(path)
        onnx.checker.check_model(graph)
        assert not graph.functions
        assert {node.domain for node in graph.graph.node} == {""}
        assert [(one.domain, one.version) for one in graph.opset_import] == [("", graphs.OPSET)]
        content = path.read_bytes()
        for secret in (b".py", str(Path.cwd()).encode(), str(place.parent).encode(), b"openslip"):
            assert secret not in content, secret
        other = "text_tower" if path.stem == "image" else "image_tower"
        assert not any(other in one.name for one in graph.graph.initializer)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, export.Exported]:
    folder = tmp_path_factory.mktemp("lone")
    model = saved(WITHOUT_TEXT, folder)
    return model, export.export(model, "onnx", folder / "there")


def test_a_model_without_text(lone) -> None:
    model, done = lone
    assert sorted(path.name for path in done.place.iterdir()) == ["README.md", "image.onnx", "openslip.json"]
    assert done.trial.image < 1e-6
    assert done.trial.text is None
    assert any("no text tower" in note for note in done.notes)
    about, encoder = json.loads((done.place / "openslip.json").read_text()), openslip.load(model)
    assert about["embedding"] == {"dim": 16, "length": 1, "of": "image tower alone"}
    assert "text" not in about
    pixels = torch.randn(4, 3, 32, 32)
    found = session(done.place / "image.onnx").run(None, {"pixels": pixels.numpy()})[0]
    assert apart(found, encoder.encode_image(pixels)) < 2e-6


def test_half_precision_and_weights_beside_the_graph(lone, tmp_path, monkeypatch) -> None:
    """fp16 halves the weights; what is large lies in a second file, and moves with the folder."""
    monkeypatch.setattr(graphs, "LARGEST_FILE", 10_000)
    model, whole = lone
    half = export.export(model, "onnx", tmp_path / "there", fp16=True)
    assert 1e-6 < half.trial.image < 5e-3
    assert any("half precision" in note for note in half.notes)
    assert sorted(path.name for path in half.place.iterdir()) == [
        "README.md",
        "image.onnx",
        "image.onnx.data",
        "openslip.json",
    ]
    large = (half.place / "image.onnx.data").stat().st_size
    assert 10_000 < large < 0.6 * (whole.place / "image.onnx").stat().st_size
    moved = half.place.rename(tmp_path / "moved")
    assert json.loads((moved / "openslip.json").read_text())["precision"] == "fp16"
    pixels = torch.randn(3, 3, 32, 32)
    found = session(moved / "image.onnx").run(None, {"pixels": pixels.numpy()})[0]
    assert 1e-6 < apart(found, openslip.load(model).encode_image(pixels)) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "timm", "tanh"])
def test_half_precision_of_both_towers(name) -> None:
    model, done = exported(name, "onnx", fp16=True)
    assert 1e-6 < farthest(done) < 5e-3
    check(done.place, openslip.load(model), 5e-3)


def test_immich_reads_its_layout() -> None:
    """As machine-learning/immich_ml/models/clip does, in a few lines."""
    model, done = exported("squashed", "onnx", layout="immich")
    assert any("name of its own list" in note for note in done.notes)
    assert any("no model whose embeddings have 8 numbers, only 512" in note for note in done.notes)
    assert "embeddings have 8 numbers" in done.usage
    place, encoder = done.place, openslip.load(model)
    config = json.loads((place / "config.json").read_text())
    assert config["embed_dim"] == 8
    assert config["vision_cfg"]["image_size"] == 32
    prepare = json.loads((place / "visual" / "preprocess_cfg.json").read_text())
    size = prepare["size"][0]
    assert prepare["resize_mode"] == "squash"
    mean, std = np.array(prepare["mean"], np.float32), np.array(prepare["std"], np.float32)
    levels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    resampling = Image.Resampling[prepare["interpolation"].upper()]
    pixels = np.asarray(Image.fromarray(levels).resize((size, size), resampling), np.float32) / 255
    pixels = (pixels * (1 / std) - mean / std).transpose(2, 0, 1)[None]
    found = session(place / "visual" / "model.onnx").run(None, {"image": pixels})[0]
    assert apart(found, encoder.encode_image(levels)) < 2e-6

    context = config["text_cfg"]["context_length"]
    padding = json.loads((place / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(place / "textual" / "tokenizer.json"))
    run = session(place / "textual" / "model.onnx")
    # The token that OpenAI's tokenizer fills up with has to give the same.
    for filler in (padding, "<|endoftext|>"):
        tokenizer.enable_padding(length=context, pad_token=filler, pad_id=tokenizer.token_to_id(filler))
        tokenizer.enable_truncation(max_length=context)
        for text in TEXTS:
            ids = np.array([tokenizer.encode(" ".join(text.split())).ids], dtype=np.int32)
            assert apart(run.run(None, {"text": ids})[0], encoder.encode_text(text)) < 2e-6, text


@pytest.mark.slow
def test_rclip_reads_its_layout() -> None:
    model, done = exported("rclip", "onnx", layout="rclip")
    encoder = openslip.load(model)
    assert farthest(done) < 2e-6
    assert done.trial.picture is not None
    assert done.trial.picture < 0.01
    vocabulary = done.place / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz"  # without which rclip asks the hub
    assert vocabulary.read_bytes() == Path(open_clip.tokenizer.default_bpe()).read_bytes()
    folder = done.place / "ViT-B-32-256-datacomp_s34b_b86k"
    pixels = torch.randn(3, 3, 256, 256)
    found = session(folder / "visual.onnx").run(None, {"input": pixels.numpy()})[0]
    assert apart(found, encoder.encode_image(pixels)) < 2e-6
    ids = np.zeros((len(TEXTS), 77), dtype=np.int64)
    for row, text in zip(ids, TEXTS):
        tokens = encoder.tokenize(text)[0]
        row[: len(tokens)] = tokens
    assert (
        apart(session(folder / "textual.onnx").run(None, {"input": ids})[0], encoder.encode_text(TEXTS))
        < 2e-6
    )


@pytest.mark.parametrize(
    ("config", "layout", "told"),
    [
        (WITHOUT_TEXT, "immich", "Immich searches by text.*--layout plain"),
        (WITHOUT_TEXT, "rclip", "rclip searches by text.*--layout plain"),
        (model_of(text={"truncation": "reference"}), "immich", "keeps the end.*truncation reference"),
        (model_of(), "rclip", r"views.size 32 \(rclip: 256\).*views.interpolation bilinear.*embed_dim 8"),
    ],
)
def test_what_a_program_cannot_use(tmp_path, config, layout, told) -> None:
    with pytest.raises(ExportError, match=f"The format onnx cannot hold this model: .*{told}"):
        export.export(saved(config, tmp_path), "onnx", tmp_path / "there", layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_options_that_a_format_has_not(tmp_path) -> None:
    model = saved(WITHOUT_TEXT, tmp_path)
    with pytest.raises(ConfigError, match="timm has no such option.*fp16.*Leave it out.*none"):
        export.export(model, "timm", tmp_path / "there", fp16=True)
    with pytest.raises(ConfigError, match="onnx has no such option.*fp8.*fp16, layout"):
        export.export(model, "onnx", tmp_path / "there", fp8=True)
    with pytest.raises(ConfigError, match="no such layout.*immich"):
        export.export(model, "onnx", tmp_path / "there", layout="immic")
    for words in (["--fp16"], ["--layout", "plain"]):
        with pytest.raises(ConfigError, match="timm has no such option"):
            command.main([str(model), "--to", "timm", "--out", str(tmp_path / "there"), *words])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime", "tokenizers"])
def test_a_library_that_is_not_there(tmp_path, monkeypatch, library) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExportError, match=rf"{library} is not installed.*openslip\[onnx\]"):
        export.export(saved(WITHOUT_TEXT, tmp_path), "onnx", tmp_path / "there")


class _Fixed(nn.Module):
    """A tower that keeps the batch of its example."""

    def forward(self, x):
        return x + torch.zeros(len(x), 1)


def test_a_size_that_cannot_vary_is_no_graph(tmp_path) -> None:
    with pytest.raises(ExportError, match="cannot make a graph of the model's tower.*batch"):
        graphs.write_graph(
            _Fixed(),
            torch.zeros(2, 3),
            {0: torch.export.Dim("batch")},
            tmp_path / "x.onnx",
            "a",
            "b",
            "tower",
        )
    assert not list(tmp_path.iterdir())


def test_names_that_the_graph_has_already(tmp_path) -> None:
    """torch gives the output of an operation the operation's name."""
    graphs.write_graph(
        nn.Embedding(5, 3),
        torch.zeros(2, dtype=torch.long),
        {},
        tmp_path / "x.onnx",
        "input",
        "embedding",
        "",
    )
    assert session(tmp_path / "x.onnx").run(["embedding"], {"input": np.array([1, 2])})[0].shape == (2, 3)


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_texts_that_differ_are_not_kept(tmp_path, monkeypatch, value) -> None:
    load = onnx_plain.load

    def other(place, encoder):
        consumer = load(place, encoder)
        return replace(consumer, text=lambda texts: torch.full((len(texts), 8), value))

    monkeypatch.setattr(onnx_plain, "load", other)
    monkeypatch.setattr(graphs, "write_images", lambda *_: None)
    monkeypatch.setattr(graphs, "write_texts", lambda *_: None)
    encoder = openslip.create(model_of())
    monkeypatch.setattr(
        onnx_plain, "runner", lambda *_: lambda pixels: encoder.encode_image(torch.from_numpy(pixels))
    )
    metadata.write_model(tmp_path / "model.safetensors", encoder.model.state_dict(), encoder.config)
    with pytest.raises(ExportError, match="not the same in its own library"):
        export.export(tmp_path / "model.safetensors", "onnx", tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


# Tokenizers.


def with_tokenizer(data: bytes, **text) -> Encoder:
    config = model_of(text={"tokenizer": len(data), "vocabulary": 20, "projection_bias": True, **text})
    torch.manual_seed(0)
    encoder = openslip.create(config)
    tower: Any = encoder.model.text_tower
    tower.tokenizer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return encoder


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(["a photo of the red dog two in one under_score isn t word"], special)
    return tokenizer


def test_clips_tokenizer_in_one_file(tmp_path) -> None:
    encoder = openslip.create(model_of(text={"context": 20}))
    tokenizer_json(encoder).save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    many = [
        *CHECKED,
        *TEXTS,
        *(f"x {entity}y" for entity in ENTITIES),
        "a<|startoftext|>b",
        "İstanbul ΣΑΣ ΛΟΓΟΣ",
    ]
    assert [one.ids for one in again.encode_batch(many)] == encoder.tokenize(many).tolist()
    rng = np.random.default_rng(0)
    letters = list("abc XYZ  .,!'-_#019éüßσ日本かДж\t\n")
    drawn = ["".join(rng.choice(letters, rng.integers(0, 40))) for _ in range(300)]
    assert [again.encode(text).ids for text in drawn] == [
        encoder.tokenize(text)[0].tolist() for text in drawn
    ]


@pytest.mark.parametrize("clean", ["none", "whitespace", "lower", "canonicalize", "siglip"])
@pytest.mark.parametrize("ends", [(None, "</s>"), ("<pad>", "</s>"), (None, None)])
def test_own_tokenizers_clean_texts_and_put_ends_around_them(clean, ends) -> None:
    data = from_json(words().to_str(), pad="<pad>", clean=clean, ends=ends)
    for padded in ({}, {"pool": "last"}):
        encoder = with_tokenizer(data, **padded)
        made = tokenizer_json(encoder)
        texts = ["A photo, of_the RED dog!", "", "two two " * 30, " one\tphoto "]
        assert [one.ids for one in made.encode_batch(texts)] == encoder.tokenize(texts).tolist()


def test_siglips_tokenizer_is_one_too() -> None:
    encoder = with_tokenizer(from_sentencepiece(sentencepiece()), pool="last", vocabulary=40)
    texts = ["A quick, brown fox!", "", "▁cat dog " * 30]
    assert [one.ids for one in tokenizer_json(encoder).encode_batch(texts)] == encoder.tokenize(
        texts
    ).tolist()


def test_a_tokenizer_that_cannot_be_one_file_is_left_out(monkeypatch) -> None:
    from openslip.exports import tokenizer_files as module

    monkeypatch.setattr(module, "ENTITIES", {"dog": "cat"})
    encoder = openslip.create(model_of())
    assert tokenizer_json(encoder) is None
    assert "tokenizer.json is left out" in onnx_plain.notes(encoder, None)[0]


@pytest.mark.slow
def test_siglips_towers_and_texts_of_one_length(tmp_path) -> None:
    """No projection of images, attention pooling, attention to all tokens, and the last one as the feature."""
    data = from_json(words().to_str(), pad="</s>", ends=(None, "</s>"))
    config = model_of(
        image={"pool": "attention", "class_tokens": 0, "unprojected": True},
        text={
            "tokenizer": len(data),
            "vocabulary": 20,
            "projection_bias": True,
            "bidirectional": True,
            "pool": "last",
        },
    )
    config = replace(config, model=replace(config.model, embed_dim=16))
    torch.manual_seed(0)
    encoder = openslip.create(config)
    tower: Any = encoder.model.text_tower
    tower.tokenizer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    metadata.write_model(tmp_path / "model.safetensors", encoder.model.state_dict(), config)
    done = export.export(tmp_path / "model.safetensors", "onnx", tmp_path / "there")
    assert farthest(done) < 2e-6
    check(done.place, encoder, 2e-6)
    assert json.loads((done.place / "openslip.json").read_text())["text"]["filled_up"] is True
    assert session(done.place / "text.onnx").get_inputs()[0].shape[1] == 12


@pytest.mark.slow
def test_texts_that_lose_their_end_are_cut_by_the_program(tmp_path) -> None:
    model = saved(model_of(text={"truncation": "reference"}), tmp_path)
    done = export.export(model, "onnx", tmp_path / "there")
    assert done.trial.text is not None
    assert done.trial.text < 2e-6
    assert json.loads((done.place / "openslip.json").read_text())["text"]["truncation"] == "reference"
    check(done.place, openslip.load(model), 2e-6)
