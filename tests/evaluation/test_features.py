from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from evaluation_fakes import ColorEncoder, color_folder, picture, png
from openslip.errors import EvaluationError
from openslip.evaluation import features


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [picture(color, rng) for color in ("red", "green", "blue", "gold") * 6]


@pytest.mark.parametrize("batch_size", [1, 5, 24, 100])
def test_extract_keeps_order_whatever_the_batch(images, batch_size):
    encoder = ColorEncoder()
    found = features.extract(encoder, images, "features", batch_size)
    expected = torch.stack([encoder.preprocess(image) for image in images]).flatten(1)
    assert np.array_equal(found.values, expected.numpy())
    assert found.values.dtype == np.float32
    assert found.kept.tolist() == list(range(24))


def test_damaged_images_are_skipped_counted_and_said(images, caplog):
    mixed = [png(image) for image in images]
    mixed[3], mixed[20] = b"not an image", b""
    with caplog.at_level(logging.WARNING):
        found = features.extract(ColorEncoder(), mixed, "embeddings", 4, label="butterflies")
    assert found.kept.tolist() == [i for i in range(24) if i not in (3, 20)]
    assert [s.index for s in found.skipped] == [3, 20]
    assert len(found.values) == 22
    assert "2 of 24 butterflies skipped; the first: The image is damaged" in caplog.text


def test_a_batch_of_nothing_but_damage_is_no_matter(images):
    found = features.extract(ColorEncoder(), [b"", b"", *images[:2]], batch_size=2)
    assert found.kept.tolist() == [2, 3]


def test_nothing_readable_and_not_finite_are_errors(images):
    with pytest.raises(EvaluationError, match="None of the 2 images"):
        features.extract(ColorEncoder(), [b"", b"1"])
    with pytest.raises(EvaluationError, match="None of the 0 images"):
        features.extract(ColorEncoder(), [])
    broken: Any = ColorEncoder()
    broken.image_features = lambda pixels, **_: (pixels.flatten(1) * torch.nan).numpy()
    with pytest.raises(EvaluationError, match="not finite"):
        features.extract(broken, images)


def test_session_computes_a_split_once_and_forgets_it_afterwards(tmp_path):
    spec = str(color_folder(tmp_path, {"red": 3, "green": 2}))
    encoder = ColorEncoder()
    with features.session():
        first = features.labelled_features(encoder, spec, "test")
        again = features.labelled_features(encoder, spec, "test")
        assert again.values is first.values
        assert encoder.encoded == 5
        projected = features.labelled_features(encoder, spec, "test", "embeddings")
        assert np.array_equal(projected.values, encoder.project(torch.from_numpy(first.values)).numpy())
        assert encoder.encoded == 5
        untrained = features.labelled_features(encoder, spec, "untrained")
        assert untrained.values is first.values
        features.labelled_features(encoder, spec, "train")
        assert encoder.encoded == 10
    features.labelled_features(encoder, spec, "test")
    assert encoder.encoded == 15


def test_labels_follow_the_images_that_were_kept(tmp_path):
    root = color_folder(tmp_path, {"red": 2, "green": 2})
    (root / "test/green/001.png").write_bytes(b"")
    found = features.labelled_features(ColorEncoder(), str(root), "test")
    assert (found.labels.tolist(), found.skipped, len(found.values)) == ([0, 1, 1], 1, 3)


class Dropping(ColorEncoder):
    """Its model draws at random while it is in training mode, and a part of it is always in evaluation mode."""

    model: Any

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(
            torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(3), torch.nn.Identity().eval()
        )
        self.model.text_tower = torch.nn.Identity().eval()

    def project(self, features, *, normalize=True):
        return self.model(super().project(features, normalize=normalize))

    def encode_text(self, texts, *, normalize=True):
        return self.model(super().encode_text(texts, normalize=normalize))


def test_a_model_in_training_mode_is_measured_in_evaluation_mode_and_left_as_it_was(images):
    encoder = Dropping()
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    modes = [module.training for module in encoder.model.modules()]
    with torch.no_grad():
        first, second = (features.extract(encoder, images, "embeddings", 5).values for _ in range(2))
        text, again = (features.encode_texts(encoder, ["red", "blue"]) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(text, again)
    assert [module.training for module in encoder.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_texts_come_back_in_their_order():
    encoder = ColorEncoder()
    texts = ["a very long text about gold", "red", "green leaves", "blue", "the red one"]
    expected = encoder.encode_text(texts).numpy()
    assert np.array_equal(features.encode_texts(encoder, texts, batch_size=2), expected)
