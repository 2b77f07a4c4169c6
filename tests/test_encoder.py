from __future__ import annotations

import copy
import io
import math
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import openslip
from openslip import progress
from openslip.config import (
    Config,
    ImageTowerConfig,
    ModelConfig,
    ObjectiveConfig,
    TextTowerConfig,
    ViewsConfig,
)
from openslip.data.tokenizer import END
from openslip.encoder import Encoder
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.models import build
from openslip.objectives import parse
from openslip.options import BATCH

CONFIG = Config(
    views=ViewsConfig(size=16),
    model=ModelConfig(
        image=ImageTowerConfig(patch=8, width=24, depth=2, heads=3),
        text=TextTowerConfig(width=16, depth=2, heads=2, context=12),
        embed_dim=10,
    ),
)


def _encoder(loss: str = "clip + 1.0 * simclr") -> Encoder:
    torch.manual_seed(0)
    model = build(CONFIG.model, 16, parse(ObjectiveConfig(loss=loss)).needs)
    return Encoder(model.eval(), CONFIG)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return _encoder()


@pytest.fixture(scope="module")
def simclr() -> Encoder:
    return _encoder("simclr")


def _pixels(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_every_form_of_a_picture_gives_the_same_embedding(encoder: Encoder, tmp_path: Path) -> None:
    pixels = _pixels()
    path = tmp_path / "a.png"
    path.write_bytes(_png(pixels))
    forms: list[Any] = [pixels, _png(pixels), path, str(path), Image.fromarray(pixels), Image.open(path)]
    forms += [
        encoder.preprocess(pixels),
        encoder.preprocess(pixels)[None],
        [pixels],
        pixels[None],
        (str(path),),
    ]
    expected = encoder.encode_image(pixels)
    assert expected.shape == (1, 10)
    for form in forms:
        assert torch.equal(encoder.encode_image(form), expected), type(form)
    together = encoder.encode_image(
        [form for form in forms if not isinstance(form, list | tuple | torch.Tensor)][:6]
    )
    torch.testing.assert_close(together, expected.expand(6, -1), rtol=1e-4, atol=1e-5)


def test_preprocess_is_the_centre_of_the_picture_normalised(encoder: Encoder) -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, 8:24] = (255, 128, 0)
    out = encoder.preprocess(pixels)
    views = CONFIG.views
    expected = (torch.tensor([1.0, 128 / 255, 0.0]) - torch.tensor(views.mean)) / torch.tensor(views.std)
    assert out.shape == (3, 16, 16)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected[:, None, None].expand(3, 16, 16))


def test_preprocess_equals_transformers_processors() -> None:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8), np.ones((5, 4, 1), dtype=np.uint8))
    clip = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    siglip = SiglipImageProcessor(size={"height": 16, "width": 16}, resample=3)
    for processor, fit in ((clip, "crop"), (siglip, "squash")):
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        views = replace(CONFIG.views, mean=mean, std=std, interpolation="bicubic", fit=fit)  # type: ignore[arg-type]
        ours = Encoder.from_config(replace(CONFIG, views=views)).preprocess(pixels)
        theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
        levels = (ours - theirs).abs() * 255 * torch.tensor(std)[:, None, None]
        assert levels.max() < 2.01


def test_embeddings_have_unit_length_unless_asked_otherwise(encoder: Encoder) -> None:
    images = torch.randn(3, 3, 16, 16)
    plain = encoder.encode_image(images, normalize=False)
    assert torch.equal(encoder.encode_image(images), F.normalize(plain, dim=-1))
    plain = encoder.encode_text(["a cat", "two dogs"], normalize=False)
    assert plain.shape == (2, 10)
    assert torch.equal(encoder.encode_text(["a cat", "two dogs"]), F.normalize(plain, dim=-1))


def test_texts_and_their_tokens_give_the_same_embedding(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["a cat", "a much longer sentence"])
    torch.testing.assert_close(
        encoder.encode_text(tokens), encoder.encode_text(["a cat", "a much longer sentence"])
    )
    padded = F.pad(tokens, (0, 12 - tokens.shape[1]))
    torch.testing.assert_close(encoder.encode_text(padded), encoder.encode_text(tokens))
    torch.testing.assert_close(encoder.encode_text(tokens[0]), encoder.encode_text("a cat"))


def test_over_long_texts_are_cut_to_the_context(encoder: Encoder) -> None:
    assert encoder.tokenize("word " * 100).shape == (1, 12)
    assert encoder.encode_text("word " * 100).isfinite().all()


def test_many_are_encoded_in_chunks(encoder: Encoder) -> None:
    images = torch.randn(BATCH + 3, 3, 16, 16)
    sizes = []
    hook = encoder.model.image_tower.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = encoder.image_features(images)
    hook.remove()
    assert sizes == [BATCH, 3]
    torch.testing.assert_close(whole[-1:], encoder.image_features(images[-1]), rtol=1e-4, atol=1e-5)
    texts = [f"number {i}" for i in range(BATCH + 3)]
    torch.testing.assert_close(
        encoder.encode_text(texts)[-1:], encoder.encode_text(texts[-1]), rtol=1e-4, atol=1e-5
    )
    lazily = encoder.encode_image(_pixels() for _ in range(BATCH + 1))
    assert lazily.shape == (BATCH + 1, 10)


def test_nothing_in_gives_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_image([]).shape == (0, 10)
    assert encoder.image_features(torch.empty(0, 3, 16, 16)).shape == (0, 24)
    assert encoder.encode_text([]).shape == (0, 10)


def test_a_model_in_training_mode_is_refused_and_left_as_it_is(encoder: Encoder) -> None:
    """One part in training mode is enough: its embeddings would hang on chance, or on the rest of the batch."""
    calls = (
        lambda: encoder.encode_image(_pixels()),
        lambda: encoder.image_features([]),
        lambda: encoder.encode_text("a cat"),
    )
    expected = calls[0]()
    try:
        for part in (encoder.model, encoder.model.image_tower.trunk.patch_embed, encoder.model.text_tower):
            part.train()  # type: ignore[union-attr]
            before = _state(encoder.model)
            for call in calls:
                with pytest.raises(
                    EvaluationError, match=r"training mode.*encoder\.eval\(\).*model\.train\(\)"
                ):
                    call()
            assert _same(_state(encoder.model), before)
            assert torch.equal(encoder.eval().encode_image(_pixels()), expected)
    finally:
        encoder.eval()


def _state(model: torch.nn.Module) -> dict[str, Any]:
    modes = {name: module.training for name, module in model.named_modules()}
    return {"modes": modes, **{name: value.clone() for name, value in model.state_dict().items()}}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        for name, value in a.items()
    )


@pytest.mark.parametrize("name", ["vit", "test_resnet"])
def test_threads_encode_at_once_and_change_nothing(name: str) -> None:
    """Stochastic depth, dropped tokens and BatchNorm are all there, in a model that openslip.create has just made."""
    image = replace(CONFIG.model.image, name=name, drop_path=0.5)
    config = replace(CONFIG, views=replace(CONFIG.views, size=32), model=replace(CONFIG.model, image=image))
    encoder = openslip.create(config)
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(24)]
    texts = [f"picture {n}" for n in range(24)]
    calls = [
        (encoder.encode_image, pictures),
        (encoder.image_features, pictures),
        (encoder.encode_text, texts),
    ]
    expected = [[call(item) for item in items] for call, items in calls]
    before, random = _state(encoder.model), torch.get_rng_state()

    def encode(number: int) -> bool:
        call, items = calls[number % 3]
        return all(torch.equal(call(item), right) for item, right in zip(items, expected[number % 3]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(encode, range(16)))
    assert _same(_state(encoder.model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in encoder.model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float32])
def test_tensors_of_any_precision(encoder: Encoder, dtype: torch.dtype) -> None:
    images = torch.rand(3, 3, 16, 16).to(dtype)
    expected = encoder.encode_image(images.float())
    assert expected.dtype == torch.float32
    for given in (images, list(images), [images[0], images[1].float(), images[2].double()]):
        assert torch.equal(encoder.encode_image(given), expected)
    assert torch.equal(encoder.image_features(images[0]), encoder.image_features(images[0].float()))


@pytest.mark.parametrize("precision", ["half", "bfloat16", "double"])
def test_models_of_any_precision(precision: str) -> None:
    """By the encoder's own call, by the model's, and by `to`; what comes out is float32."""
    original, dtype = _encoder(), {"half": torch.float16}.get(precision) or getattr(torch, precision)
    pictures = [_pixels(), torch.rand(3, 16, 16), torch.rand(3, 16, 16, dtype=torch.float64)]
    rounding = {"half": 1e-2, "bfloat16": 5e-2, "double": 1e-5}[precision]
    inner = _encoder()
    getattr(inner.model, precision)()
    for encoder in (
        getattr(_encoder(), precision)(),
        _encoder().to(dtype),
        _encoder().to("cpu", dtype),
        inner,
    ):
        assert encoder.dtype == dtype
        for call, given in (
            ("encode_image", pictures),
            ("image_features", pictures),
            ("encode_text", "a cat"),
        ):
            found = getattr(encoder, call)(given)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, getattr(original, call)(given), rtol=0, atol=rounding)
        assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-2)
        assert encoder.encode_image([]).dtype == torch.float32
    assert torch.equal(_encoder().half().float().encode_image([]), torch.empty(0, 10))


def test_paths_in_arrays_columns_and_generators(encoder: Encoder, tmp_path: Path) -> None:
    paths = []
    for n in range(3):
        paths.append(str(tmp_path / f"{n}.png"))
        Path(paths[-1]).write_bytes(_png(_pixels(20 + n, 30)))
    expected = encoder.encode_image(paths)
    table = pa.table({"path": paths})
    objects = np.empty(3, object)
    objects[:] = [Path(paths[0]), _png(_pixels(21, 30)), _pixels(22, 30)]
    for given in (
        np.array(paths),
        np.array(paths, object),
        np.array(paths, np.dtypes.StringDType()),
        objects,
        table["path"].to_pylist(),
        dict.fromkeys(paths).keys(),
        (Path(path) for path in paths),
        map(str, paths),
        [bytearray(Path(path).read_bytes()) for path in paths],
        [memoryview(Path(path).read_bytes()) for path in paths],
    ):
        torch.testing.assert_close(encoder.encode_image(given), expected)
    assert torch.equal(encoder.encode_image(np.array(paths[0])), encoder.encode_image(paths[0]))
    assert torch.equal(encoder.encode_image(np.array(paths[0], object)), encoder.encode_image(paths[0]))
    for nothing in (np.array([]), np.array([], str), np.empty(0, object), np.empty((0, 20, 30, 3), np.uint8)):
        assert encoder.encode_image(nothing).shape == (0, 10)


def test_texts_in_arrays_and_generators(encoder: Encoder) -> None:
    texts = ["a cat", "two dogs"]
    expected = encoder.encode_text(texts)
    for given in (tuple(texts), np.array(texts), np.array(texts, object), (text for text in texts)):
        assert torch.equal(encoder.encode_text(given), expected)
        assert encoder.tokenize(np.array(texts)).shape == (2, 4)
    assert torch.equal(encoder.encode_text(np.array("a cat")), encoder.encode_text("a cat"))
    assert torch.equal(encoder.encode_text(encoder.tokenize(texts).int()), expected)


@pytest.mark.parametrize(
    "texts",
    [
        None,
        7,
        b"a cat",
        {"text": "a cat"},
        np.zeros((2, 3)),
        ["a cat", None],
        [["a cat"]],
        torch.zeros(2, 4),
        torch.full((1, 4), 49_408),
        torch.tensor([[-1, 5]]),
        torch.zeros(1, 13, dtype=torch.long),
        torch.zeros(1, 1, 4, dtype=torch.long),
        torch.zeros(1, 0, dtype=torch.long),
    ],
)
def test_what_is_no_text_is_said(encoder: Encoder, texts: Any) -> None:
    with pytest.raises(DataError):
        encoder.encode_text(texts)


def test_rows_of_ids_that_are_filled_with_ends_are_the_same_texts(encoder: Encoder) -> None:
    """Hugging Face's tokenizer fills with the end's id, ours with zeros."""
    tokens = encoder.tokenize(["a", "a red bicycle by the sea"])
    filled = tokens.masked_fill(tokens == 0, END)
    assert torch.equal(encoder.encode_text(filled), encoder.encode_text(tokens))


def test_rows_of_ids_without_an_end_are_refused(encoder: Encoder) -> None:
    rows = encoder.tokenize(["a", "b"])
    rows[1, -1] = 5
    with pytest.raises(DataError, match="row 1, without the id 49407"):
        encoder.encode_text(rows)
    text = replace(CONFIG.model.text, truncation="reference")  # which cuts the end off
    cut_off = Encoder(encoder.model, replace(CONFIG, model=replace(CONFIG.model, text=text)))
    assert cut_off.encode_text(cut_off.tokenize("a b c d e f g h i j k l m n")).shape == (1, 10)


def test_batches_in_a_list_are_no_pictures(encoder: Encoder) -> None:
    batches = [torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16)]
    with pytest.raises(DataError, match=r"torch\.cat"):
        encoder.encode_image(batches)
    assert encoder.encode_image(torch.cat(batches)).shape == (3, 10)


def test_embeddings_can_be_trained_on(encoder: Encoder) -> None:
    features = encoder.image_features(torch.randn(4, 3, 16, 16))
    probe = torch.nn.Linear(24, 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None


def test_without_text_images_give_the_towers_features(simclr: Encoder) -> None:
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(simclr.encode_image(images, normalize=False), simclr.image_features(images))
    assert simclr.encode_image([]).shape == (0, 24)


def test_without_text_there_is_an_error_that_says_what_to_use(simclr: Encoder) -> None:
    for call in (
        lambda: simclr.encode_text("a cat"),
        lambda: simclr.tokenize("a cat"),
        lambda: simclr.logit_scale,
    ):
        with pytest.raises(EvaluationError, match=r"no text tower.*image features"):
            call()


def test_logit_scale_and_device(encoder: Encoder) -> None:
    assert encoder.logit_scale == pytest.approx(1 / 0.07)
    assert encoder.device == torch.device("cpu")
    assert encoder.to("cpu") is encoder


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(3, 20, 16), "must be preprocessed"),
        (torch.zeros(2, 1, 16, 16), "must be preprocessed"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"pass `tensor\.movedim\(-3, -1\)\.cpu\(\)\.numpy\(\)`"),
        (torch.zeros(2, 16, 16, 3, dtype=torch.uint8), r"pass `tensor\.cpu\(\)\.numpy\(\)`"),
        (torch.zeros(1, 1, 3, 16, 16), "must be preprocessed"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "must be preprocessed"),
        (np.zeros((20, 20), np.float32), "uint8"),
        (np.zeros((2, 20, 20, 3), np.float32), r"shape \(number, height, width, 3\).*round\(\)"),
        (np.array([["a.jpg"], ["b.jpg"]]), r"one dimension.*ravel\(\)"),
        (np.array([b"a.jpg"]), r"astype\(str\)"),
        ("nothing/here.jpg", "^nothing/here.jpg: The image cannot be read"),
        (Path("nothing/here.jpg"), "^nothing/here.jpg: The image cannot be read"),
        (["."], r"\.: The image cannot be read.*find_pictures\(folder\)"),
        ("photos/*.jpg", r"find_pictures\(pattern\)"),
        ("~/a.jpg", "expanduser"),
        ("https://example.org/a.jpg", "Fetch the file first"),
        (b"not a picture", "^The file is not an image"),
        (None, "This is not a picture. Got: 'NoneType'"),
        (7, "This is not a picture. Got: 'int'"),
        ({"path": "a.jpg"}, r"Got: 'dict'.*list\(pictures.values\(\)\)"),
        (io.BytesIO(b"line 1\nline 2"), r"file\.read\(\)"),
        (type("DataFrame", (), {"__iter__": lambda self: iter(["path"])})(), r"frame\['path'\]"),
        ([_pixels(), b"broken"], "^1 of 2 pictures cannot be used: the bytes at index 1: The file is not"),
        ([_pixels(), 7], r"the int at index 1: This is not a picture\. Got: 'int'"),
        ([_pixels(), ["a.jpg"]], "the list at index 1: This is not a picture"),
        ([_pixels(), torch.zeros(3, 5, 5)], "the tensor at index 1: A tensor of images must be"),
        ([np.zeros((4, 4))], "1 of 1 pictures cannot be used: the array at index 0"),
        (
            [None, "gone.jpg"],
            r"2 of 2 pictures(.|\n)*the NoneType at index 0: This(.|\n)*  gone.jpg: The image",
        ),
    ],
)
def test_a_picture_that_cannot_be_used_is_said(encoder: Encoder, images: Any, told: str) -> None:
    for call in (encoder.encode_image, encoder.image_features):
        with pytest.raises(DataError, match=told):
            call(images)


def _some_bad(folder: Path) -> tuple[list[Any], list[int]]:
    """Return pictures, some of which cannot be used, and the indices of those that can."""
    (folder / "good.png").write_bytes(_png(_pixels()))
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(_png(_pixels())[:200])
    with Image.open(folder / "half.png") as half:
        half.fp = io.BytesIO((folder / "half.png").read_bytes())
    names = ["good.png", "empty.png", "good.png", "gone.png", "half.png"]
    pictures: list[Any] = [str(folder / name) for name in names]
    pictures += [half, _pixels(), b"none", np.zeros((3, 3)), torch.zeros(3, 16, 16), torch.zeros(2), None]
    return pictures, [0, 2, 6, 9]


def test_all_pictures_that_cannot_be_used_are_named_or_counted(encoder: Encoder, tmp_path: Path) -> None:
    pictures, _ = _some_bad(tmp_path)
    with pytest.raises(DataError) as raised:
        encoder.encode_image(pictures)
    lines = str(raised.value).splitlines()
    assert lines[0] == "8 of 12 pictures cannot be used:"
    for line, name in zip(
        lines[1:], ("empty.png", "gone.png", "half.png", "half.png", "the bytes at index 7")
    ):
        assert name in line.partition(": ")[0]
    assert lines[6] == "  and 3 others. "
    assert lines[7:] == ['  Pass errors="skip" to go on without them.']
    many = [*[_pixels()] * BATCH, b"", *[_pixels()] * BATCH, b"x"]  # in other chunks than the first bad one
    with pytest.raises(DataError, match=f"^2 of {len(many)} pictures"):
        encoder.encode_image(iter(many))
    with pytest.raises(
        DataError, match=r'empty\.png: The image file is empty.*; or pass errors="skip"|Pass errors'
    ):
        encoder.encode_image(pictures[:3])


def test_pictures_that_cannot_be_used_are_skipped_where_that_is_asked_for(
    encoder: Encoder, tmp_path: Path
) -> None:
    pictures, good = _some_bad(tmp_path)
    right = encoder.encode_image([pictures[index] for index in good])
    for given in (pictures, iter(pictures), tuple(pictures)):
        found = encoder.encode_image(given, errors="skip")
        torch.testing.assert_close(found.values, right)
        assert found.kept == good
        assert [unusable.index for unusable in found.skipped] == [1, 3, 4, 5, 7, 8, 10, 11]
        assert found.skipped[0].name == pictures[1]
        assert "is empty" in found.skipped[0].reason
        assert "half.png" in found.skipped[3].name
    assert np.arange(12)[found.kept].tolist() == torch.arange(12)[found.kept].tolist() == good
    features = encoder.image_features(pictures, errors="skip")
    assert (features.values.shape, features.kept) == ((4, 24), good)
    plain = encoder.encode_image(pictures, normalize=False, errors="skip")
    torch.testing.assert_close(F.normalize(plain.values, dim=-1), right)
    torch.testing.assert_close(encoder.encode_image(pictures[0], errors="skip").values, right[:1])
    nothing = encoder.encode_image(pictures[1], errors="skip")
    assert (nothing.values.shape, nothing.kept, len(nothing.skipped)) == ((0, 10), [], 1)
    assert encoder.encode_image([], errors="skip")[1:] == ([], [])
    tensors = encoder.encode_image(torch.zeros(3, 3, 16, 16), errors="skip")
    assert (tensors.values.shape, tensors.kept, tensors.skipped) == ((3, 10), [0, 1, 2], [])


@pytest.mark.parametrize("errors", ["ignore", "Skip", None, True, "coerce"])
def test_another_way_to_treat_errors_is_refused(encoder: Encoder, errors: Any) -> None:
    for call in (encoder.encode_image, encoder.image_features):
        with pytest.raises(ConfigError, match="`errors` has no such value.*skip"):
            call([_pixels()], errors=errors)


def test_a_pil_image_that_is_cut_off_is_said(encoder: Encoder) -> None:
    content = _png(_pixels())
    with pytest.raises(DataError):
        encoder.encode_image(Image.open(io.BytesIO(content[: len(content) // 2])))


def test_a_recipe_for_a_start_makes_no_model_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"finetune is for a run that starts from a model.*openslip\.load"):
        openslip.create("finetune")


@pytest.mark.parametrize(
    ("loss", "captioned"), [("clip", True), ("simclr", False), ("byol", False), ("clip + 1.0 * simclr", True)]
)
def test_from_config_builds_what_the_objective_needs(loss: str, captioned: bool) -> None:
    config = replace(CONFIG, objective=replace(CONFIG.objective, loss=loss))
    encoder = Encoder.from_config(config)
    parts = encoder.model.text_tower, encoder.model.image_projection, encoder.model.logit_scale
    assert [part is not None for part in parts] == [captioned] * 3
    assert encoder.config is config
    norms = encoder.encode_image([_pixels(), _pixels(40, 20)]).norm(dim=1)
    assert norms.tolist() == pytest.approx([1.0, 1.0])
    assert math.isfinite(encoder.image_features(_pixels()).sum())


def _folder(folder: Path, count: int = 7) -> list[str]:
    """Write pictures into a folder; return their paths."""
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(_png(np.roll(_pixels(), 3 * index, axis=0)))
    return [str(path) for path in paths]


@pytest.mark.parametrize("workers", [-1, 0, 1, 3])
def test_workers_change_nothing(encoder: Encoder, tmp_path: Path, workers: int) -> None:
    paths = _folder(tmp_path)
    right = torch.cat(
        [encoder.encode_image(paths[:3]), encoder.encode_image(paths[3:6]), encoder.encode_image(paths[6:])]
    )
    for images in (
        paths,
        iter(paths),
        tmp_path,
        str(tmp_path),
        np.array(paths),
        (Path(path).read_bytes() for path in paths),
    ):
        assert torch.equal(encoder.encode_image(images, batch=3, workers=workers), right)
    found = encoder.image_features([*paths, b"none"], batch=3, workers=workers, errors="skip")
    assert torch.equal(
        found.values[:6], torch.cat([encoder.image_features(paths[:3]), encoder.image_features(paths[3:6])])
    )
    assert found.kept == list(range(7))
    assert found.skipped[0].index == 7


def test_one_pil_image_many_times_is_read_by_one_thread_at_a_time(encoder: Encoder, tmp_path: Path) -> None:
    (path, *_) = _folder(tmp_path, 1)
    right = encoder.encode_image([path] * 40)
    with Image.open(path) as opened:
        assert torch.equal(encoder.encode_image([opened] * 40, workers=8), right)


def test_arrays_are_the_tensors(encoder: Encoder) -> None:
    pictures = [_pixels(), _pixels(40, 20)]
    array = encoder.encode_image(pictures, numpy=True)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert np.array_equal(array, encoder.encode_image(pictures).numpy())
    found = encoder.encode_image([*pictures, b""], numpy=True, errors="skip")
    assert np.array_equal(found.values, array)
    assert repr(found) == "Encoded(values (2, 10), 1 skipped)"
    assert np.array_equal(
        encoder.image_features(pictures, numpy=True), encoder.image_features(pictures).numpy()
    )
    assert np.array_equal(
        encoder.encode_text(["a", "b"], numpy=True), encoder.encode_text(["a", "b"]).numpy()
    )
    assert encoder.encode_image([], numpy=True).shape == (0, 10)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_computes_in_another_precision_and_leaves_the_weights(
    encoder: Encoder, name: Any, dtype: torch.dtype
) -> None:
    pixels, seen = torch.randn(4, 3, 16, 16), []
    trunk: Any = encoder.model.image_tower.trunk
    hook = trunk.blocks[0].mlp.fc1.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    cast = encoder.encode_image(pixels, autocast=name)
    hook.remove()
    assert seen == [dtype]
    assert cast.dtype == torch.float32
    assert encoder.dtype == torch.float32
    whole = encoder.encode_image(pixels)
    assert not torch.equal(cast, whole)
    torch.testing.assert_close(cast, whole, atol=0.03, rtol=0)
    torch.testing.assert_close(cast.norm(dim=-1), torch.ones(4))
    texts = ["a red bicycle", "two dogs"]
    torch.testing.assert_close(
        encoder.encode_text(texts, autocast=name), encoder.encode_text(texts), atol=0.03, rtol=0
    )


def test_progress_is_shown_where_it_is_asked_for(encoder: Encoder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", -1.0)
    pictures = [_pixels()] * 5
    encoder.encode_image(pictures, batch=2)
    assert capsys.readouterr().err == ""
    encoder.encode_image(pictures, batch=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "encoding images: 2 of 5",
        "encoding images: 4 of 5",
    ]
    encoder.encode_image(iter(pictures), batch=2, progress=True)  # nobody knows how many there are
    assert capsys.readouterr().err.startswith("encoding images: 2, ")
    encoder.encode_text(["a", "b", "c"], batch=2, progress=True)
    assert capsys.readouterr().err.startswith("encoding texts: 2 of 3, ")
    encoder.encode_image(torch.zeros(3, 3, 16, 16), batch=2, progress=True)
    assert capsys.readouterr().err.startswith("encoding images: 2 of 3, ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"worker": 2}, "no such option. Got: 'worker'.*workers"),
        ({"batch": 0}, "`batch` must be a whole number from 1 on"),
        ({"batch": "64"}, "Got: \"batch '64'"),
        ({"workers": 1.5}, "whole number"),
        ({"workers": -2}, "workers -2"),
        ({"autocast": "bfloat16"}, "`autocast` has no such value.*bf16"),
    ],
)
def test_other_options_are_refused(encoder: Encoder, options: Any, told: str) -> None:
    for call in (encoder.encode_image, encoder.image_features, encoder.encode_text):
        with pytest.raises(ConfigError, match=told):
            call([], **options)


def test_a_copy_and_a_pickle_are_the_same_model(encoder: Encoder) -> None:
    pixels, texts = torch.randn(2, 3, 16, 16), ["a cat", "a dog &amp; more"]
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other.encode_image(pixels), encoder.encode_image(pixels))
        assert torch.equal(other.encode_text(texts), encoder.encode_text(texts))
        assert not {p.data_ptr() for p in other.model.parameters()} & {
            p.data_ptr() for p in encoder.model.parameters()
        }


class _Pictures(Dataset):
    """A data set as people write them, with a transform."""

    def __init__(self, paths: list[str], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.paths[index])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_preprocessing_goes_to_worker_processes_without_the_weights(
    encoder: Encoder, tmp_path: Path, method: str
) -> None:
    paths = _folder(tmp_path)
    right = encoder.encode_image(paths)  # this process has computed, and may be forked all the same
    assert len(pickle.dumps(encoder.preprocess)) < 1000
    loader = DataLoader(
        _Pictures(paths, encoder.preprocess), batch_size=7, num_workers=1, multiprocessing_context=method
    )
    (batch,) = loader
    assert torch.equal(encoder.encode_image(batch), right)


@pytest.mark.slow
def test_compiled_towers_differ_by_rounding() -> None:
    encoder = _encoder()
    pixels, texts = torch.randn(3, 3, 16, 16), ["a cat", "two dogs in the snow"]
    images, words = encoder.encode_image(pixels), encoder.encode_text(texts)
    assert encoder.compile() is encoder
    for tower in encoder.model.towers:
        assert tower._compiled_call_impl is not None
    torch.testing.assert_close(encoder.encode_image(pixels), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.encode_text(texts), words, atol=1e-6, rtol=0)
    other = pickle.loads(pickle.dumps(encoder))
    torch.testing.assert_close(other.encode_image(pixels), images, atol=1e-6, rtol=0)


def test_what_it_is_is_shown(encoder: Encoder, simclr: Encoder) -> None:
    shown = repr(encoder)
    assert re.fullmatch(
        r"Encoder\(model \S+, image tower 0\.0 M parameters, text tower 0\.8 M parameters, pictures 16 × 16, "
        r"embeddings 10 numbers, on cpu, float32\)",
        shown,
    ), shown
    assert "text tower" not in repr(simclr)
    assert "<tr><th>pictures</th><td>16 × 16</td></tr>" in encoder._repr_html_()
