from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from evaluation_fakes import Captioned, ColorEncoder, picture, png
from openslip.errors import DataError, EvaluationError
from openslip.evaluation import geometry, suite
from openslip.evaluation.geometry import Geometry, effective_rank_parts, pair_parts, uniformity_parts
from openslip.evaluation.metrics import mean_interval
from openslip.evaluation.retrieval import Retrieval


def points(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return points of length 1, more along some directions than along others."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, dim)) * np.linspace(1, 0.2, dim) + 0.3
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def uniformity(values: np.ndarray) -> float:
    """As the paper's code has it."""
    return float(torch.pdist(torch.from_numpy(values).double()).square().mul(-2).exp().mean().log())


def effective_rank(values: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    singular = np.linalg.svd(values.astype(np.float64) * np.sqrt(weights * np.ones((len(values), 1))))[1]
    share = singular[singular > 1e-9] / singular.sum()
    return math.exp(-sum(p * math.log(p) for p in share))


@pytest.mark.parametrize("chunk", [7, 2**24])
def test_uniformity_equals_its_slow_twin(chunk, monkeypatch):
    monkeypatch.setattr(geometry, "SIMILARITIES", chunk)
    values = points(23, 5)
    parts = uniformity_parts(values)
    assert math.log(parts.mean()) == pytest.approx(uniformity(values), abs=1e-6)
    # the jackknife: what the mean over pairs would be without a sample
    left_out = [math.exp(uniformity(np.delete(values, i, axis=0))) for i in range(23)]
    expected = 23 * parts.mean() - 22 * np.array(left_out)
    assert parts == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [6, 40])
def test_the_effective_rank_equals_its_slow_twin(count):
    values = points(count, 8)
    parts = effective_rank_parts(values)
    assert parts.mean() == pytest.approx(effective_rank(values), rel=1e-6)
    for i in range(count):
        weights = np.ones((count, 1))
        weights[i] += 1e-5
        slope = (effective_rank(values, weights) - effective_rank(values)) / 1e-5
        assert parts[i] == pytest.approx(effective_rank(values) + count * slope, rel=1e-3)


def test_alignment_and_gap_count_each_picture_once():
    images, texts = points(3, 4), points(5, 4, 1)
    pairs = np.array([(0, 0), (0, 1), (0, 2), (1, 3), (2, 3), (2, 4)])
    own = [[t for i, t in pairs if i == image] for image in range(3)]
    near, apart = pair_parts(images, texts, pairs[:, 0], pairs[:, 1])
    expected = [
        sum(float(((images[i] - texts[t]) ** 2).sum()) for t in own[i]) / len(own[i]) for i in range(3)
    ]
    assert near == pytest.approx(expected, abs=1e-6)
    captions = np.stack([texts[own[i]].mean(axis=0) for i in range(3)])
    gap = np.linalg.norm(images.mean(axis=0) - captions.mean(axis=0))
    assert apart.mean() == pytest.approx(gap, abs=1e-6)


def test_intervals_are_as_wide_as_other_samples_make_the_numbers_differ():
    found = []
    for seed in range(150):
        values = points(120, 6, seed)
        spread, rank = uniformity_parts(values), effective_rank_parts(values)
        found.append(
            [
                math.log(spread.mean()),
                np.ptp(mean_interval(spread)) / spread.mean(),
                rank.mean(),
                np.ptp(mean_interval(rank)),
            ]
        )
    numbers = np.array(found)
    for value, width in ((0, 1), (2, 3)):
        assert numbers[:, width].mean() / (2 * 1.96) == pytest.approx(numbers[:, value].std(), rel=0.2)


def test_grouped_samples_make_a_wider_interval():
    values = np.repeat(np.arange(10.0), 5)
    low, high = mean_interval(values, np.repeat(np.arange(10), 5))
    alone = mean_interval(np.arange(10.0))
    assert (low, high) == pytest.approx(alone)
    assert np.ptp(mean_interval(values)) < 0.6 * (high - low)


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    colors = ("red", "green", "blue", "gold") * 3
    return Captioned([(png(picture(c, rng)), (f"a {c} thing", f"{c} {i}")) for i, c in enumerate(colors)])


def test_all_numbers_are_there_and_their_outcomes_give_them(source):
    encoder = ColorEncoder()
    results = Geometry(source).evaluate(encoder)
    assert [r.metric for r in results] == [
        "alignment", "image_uniformity", "image_effective_rank", "text_uniformity", "text_effective_rank",
        "modality_gap", "logit_scale",
    ]  # fmt: skip
    for result in results:
        assert result.low <= result.value <= result.high
        if result.outcomes is not None:
            assert result.outcomes.value() == pytest.approx(result.value)
    assert {r.metric: r.count for r in results}["text_uniformity"] == 16  # a caption is of three pictures
    scale = results[-1]
    assert (scale.value, scale.low, scale.high) == (100.0, 100.0, 100.0)


def test_a_model_that_maps_everything_to_one_point(source):
    class Collapsed(ColorEncoder):
        def project(self, features, *, normalize=True):
            return features.new_tensor([[1.0, 0.0]]).expand(len(features), 2)

        def encode_text(self, texts, *, normalize=True):
            return torch.tensor([[0.0, 1.0]]).expand(len(texts), 2)

    found = {r.metric: r.value for r in Geometry(source).evaluate(Collapsed())}
    assert found["alignment"] == pytest.approx(2)
    assert found["modality_gap"] == pytest.approx(math.sqrt(2))
    assert (found["image_uniformity"], found["image_effective_rank"]) == pytest.approx((0, 1))


def test_an_image_only_model_has_the_numbers_of_pictures_and_needs_no_captions():
    rng = np.random.default_rng(0)
    pictures = [png(picture(c, rng)) for c in ("red", "green", "blue", "gold")]
    bare = Captioned([(image, ()) for image in [*pictures, pictures[0]]])
    results = Geometry(bare).evaluate(ColorEncoder(("image",)))
    assert [(r.metric, r.count) for r in results] == [("image_uniformity", 4), ("image_effective_rank", 4)]
    with pytest.raises(DataError, match="no image with a caption"):
        Geometry(bare).evaluate(ColorEncoder())


def test_too_few_pictures_are_an_error(source):
    source.records = source.records[:2]
    with pytest.raises(EvaluationError, match="at least 3 different pictures"):
        Geometry(source).evaluate(ColorEncoder())


def test_retrieval_and_geometry_share_the_embeddings(source):
    encoder = ColorEncoder()
    results = suite.run(encoder, [Retrieval(source), Geometry(source)])
    assert encoder.encoded == 12
    assert {r.task for r in results} == {"retrieval:given", "geometry:given"}
    assert len({r.content for r in results}) == 1
