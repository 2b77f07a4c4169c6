from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from slip.config import Config, ImageTowerConfig, ModelConfig, SslHeadConfig, TextTowerConfig, ViewsConfig
from slip.encoder import CHUNK, Encoder
from slip.errors import DataError, EvaluationError
from slip.models import build

CONFIG = Config(
    views=ViewsConfig(size=16),
    model=ModelConfig(
        image=ImageTowerConfig(patch=8, width=24, depth=2, heads=3),
        text=TextTowerConfig(width=16, depth=2, heads=2, context=12),
        ssl=SslHeadConfig(width=32, dim=6),
        embed_dim=10,
    ),
)


def _encoder(*embeddings: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(build(CONFIG.model, 16, embeddings or ("image", "text", "ssl_1", "ssl_2")), CONFIG)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return _encoder()


@pytest.fixture(scope="module")
def simclr() -> Encoder:
    return _encoder("ssl_1", "ssl_2")


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pil_images_of_any_mode_are_taken(encoder: Encoder, mode: str) -> None:
    image = Image.fromarray(_pixels())
    image = image.convert("L").convert(mode) if mode == "LA" else image
    image = Image.fromarray(np.full((20, 30), 40_000, np.uint16)) if mode == "I;16" else image.convert(mode)
    assert image.mode == mode
    assert encoder.preprocess(image).isfinite().all()


def test_a_pil_image_is_turned_and_laid_on_white_like_its_file(encoder: Encoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, clear = io.BytesIO(), io.BytesIO()
    Image.fromarray(_pixels()).save(turned, "PNG", exif=exif)
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(clear, "PNG")
    for file in (turned, clear):
        assert torch.equal(encoder.preprocess(Image.open(file)), encoder.preprocess(file.getvalue()))
    white = encoder.preprocess(np.full((20, 20, 3), 255, np.uint8))
    assert torch.equal(encoder.preprocess(clear.getvalue()), white)


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
    images = torch.randn(CHUNK + 3, 3, 16, 16)
    sizes = []
    hook = encoder.model.image_tower.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = encoder.image_features(images)
    hook.remove()
    assert sizes == [CHUNK, 3]
    torch.testing.assert_close(whole[-1:], encoder.image_features(images[-1]), rtol=1e-4, atol=1e-5)
    texts = [f"number {i}" for i in range(CHUNK + 3)]
    torch.testing.assert_close(
        encoder.encode_text(texts)[-1:], encoder.encode_text(texts[-1]), rtol=1e-4, atol=1e-5
    )
    lazily = encoder.encode_image(_pixels() for _ in range(CHUNK + 1))
    assert lazily.shape == (CHUNK + 1, 10)


def test_nothing_in_gives_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_image([]).shape == (0, 10)
    assert encoder.image_features(torch.empty(0, 3, 16, 16)).shape == (0, 24)
    assert encoder.encode_text([]).shape == (0, 10)


def test_a_model_in_training_is_left_as_it_was(encoder: Encoder) -> None:
    model = encoder.model.train()
    model.image_tower.trunk.patch_embed.eval()  # a part that someone has frozen
    modes = [module.training for module in model.modules()]
    assert model.ssl_head is not None
    statistics = model.ssl_head.bn1.running_mean.clone()  # type: ignore[union-attr]
    out = encoder.encode_image(_pixels())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.ssl_head.bn1.running_mean, statistics)  # type: ignore[arg-type]
    assert not out.requires_grad
    with pytest.raises(DataError):
        encoder.encode_image(b"")
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(encoder.eval().encode_image(_pixels()), out)


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
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "must be preprocessed"),
        (torch.zeros(1, 1, 3, 16, 16), "must be preprocessed"),
        (np.zeros((20, 20), np.float32), "uint8"),
        ("nothing/here.jpg", "nothing/here.jpg"),
        (b"not a picture", "image"),
        ([_pixels(), b"broken"], "Picture 1: "),
        ([_pixels(), 7], r"Picture 1: This is not a picture\. Got: 'int'"),
    ],
)
def test_a_picture_that_cannot_be_used_is_said(encoder: Encoder, images: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        encoder.encode_image(images)


def test_a_pil_image_that_is_cut_off_is_said(encoder: Encoder) -> None:
    content = _png(_pixels())
    with pytest.raises(DataError):
        encoder.encode_image(Image.open(io.BytesIO(content[: len(content) // 2])))


@pytest.mark.parametrize(
    ("loss", "embeddings"),
    [
        ("clip", ("image", "text")),
        ("simclr", ("ssl_1", "ssl_2")),
        ("clip + 1.0 * simclr", ("image", "text", "ssl_1", "ssl_2")),
    ],
)
def test_from_config_builds_what_the_objective_needs(loss: str, embeddings: tuple[str, ...]) -> None:
    config = replace(CONFIG, objective=replace(CONFIG.objective, loss=loss))
    encoder = Encoder.from_config(config)
    assert encoder.model.embeddings == embeddings
    assert encoder.config is config
    norms = encoder.encode_image([_pixels(), _pixels(40, 20)]).norm(dim=1)
    assert norms.tolist() == pytest.approx([1.0, 1.0])
    assert math.isfinite(encoder.image_features(_pixels()).sum())
