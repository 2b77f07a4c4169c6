from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_fakes import Captioned, ColorEncoder, picture, png
from openslip.errors import ConfigError, DataError, EvaluationError
from openslip.evaluation import retrieval
from openslip.evaluation.retrieval import Retrieval, ranks


def slow_ranks(images, captions, embed):
    """The obvious way. captions[i]: the distinct captions of image i; embed: caption → vector."""
    gallery = [(i, caption) for i, own in enumerate(captions) for caption in own]
    text_ranks, image_ranks = [], []
    for i, image in enumerate(images):
        scored = [(float(image @ embed[c]), c in captions[i]) for _, c in gallery]
        best = max(score for score, right in scored if right)
        text_ranks.append(1 + sum(score >= best for score, right in scored if not right))
    for _, caption in gallery:
        scored = [(float(image @ embed[caption]), caption in captions[i]) for i, image in enumerate(images)]
        best = max(score for score, right in scored if right)
        image_ranks.append(1 + sum(score >= best for score, right in scored if not right))
    return text_ranks, image_ranks


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True), min_size=1, max_size=12),
    st.integers(0, 10**6),
    st.sampled_from([7, 2**24]),
)
def test_ranks_equal_their_slow_twin(captions, seed, chunk):
    rng = np.random.default_rng(seed)
    # integers, so that ties occur and sums are exact
    images = rng.integers(-2, 3, size=(len(captions), 3)).astype(np.float32)
    embed = {c: rng.integers(-2, 3, size=3).astype(np.float32) for c in range(9)}
    distinct = sorted({c for own in captions for c in own})
    pairs = np.array([(i, distinct.index(c)) for i, own in enumerate(captions) for c in own])
    whole, retrieval.SIMILARITIES = retrieval.SIMILARITIES, chunk
    try:
        found = ranks(images, np.array([embed[c] for c in distinct]), pairs[:, 0], pairs[:, 1])
    finally:
        retrieval.SIMILARITIES = whole
    expected = slow_ranks(images, captions, embed)
    assert [r.tolist() for r in found] == [list(r) for r in expected]


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return {color: picture(color, rng) for color in ("red", "green", "blue", "gold")}


def values(results):
    return {r.metric: r.value for r in results}


def test_recall_counts_several_captions_once_an_image(pictures):
    source = Captioned(
        [
            (png(pictures["red"]), ("a red thing", "no idea")),
            (png(pictures["green"]), ("green",)),
            (png(pictures["blue"]), ("blue sky", "so blue")),
        ]
    )
    results = Retrieval(source).evaluate(ColorEncoder())
    found = values(results)
    assert [r.metric for r in results[:4]] == [
        "text_recall@1",
        "text_recall@5",
        "text_recall@10",
        "text_median_rank",
    ]
    assert found["text_recall@1"] == 1.0
    assert found["image_recall@1"] == pytest.approx(4 / 5)  # "no idea" lies nearest to blue
    assert {r.metric: r.count for r in results}["image_recall@1"] == 5
    assert {r.metric: r.count for r in results}["text_recall@1"] == 3
    assert all(r.low <= r.value <= r.high for r in results)


def test_equal_captions_match_and_share_their_images(pictures):
    rng = np.random.default_rng(1)
    source = Captioned(
        [
            (picture("red", rng), ("Something  RED",)),
            (picture("red", rng), ("something red ",)),
            (picture("blue", rng), ("blue",)),
        ]
    )
    found = values(Retrieval(source).evaluate(ColorEncoder()))
    assert found["image_recall@1"] == 1.0  # either red picture is right for either caption
    assert found["text_recall@1"] == 1.0


def test_records_of_one_picture_are_one_image(pictures):
    one = Captioned([(png(pictures["red"]), ("red", "a red one")), (png(pictures["blue"]), ("blue",))])
    rows = Captioned(
        [
            (png(pictures["red"]), ("red",)),
            (png(pictures["blue"]), ("blue",)),
            (png(pictures["red"]), ("a red one",)),
        ]
    )
    first, second = (Retrieval(s, task="r").evaluate(ColorEncoder()) for s in (one, rows))
    assert [(r.metric, r.value, r.count) for r in first] == [(r.metric, r.value, r.count) for r in second]


def test_a_collapsed_model_finds_nothing(pictures):
    class Collapsed(ColorEncoder):
        def project(self, features, *, normalize=True):
            return features.new_tensor([[1.0, 0.0]]).expand(len(features), 2)

        def encode_text(self, texts, *, normalize=True):
            import torch

            return torch.tensor([[1.0, 0.0]]).expand(len(texts), 2)

    source = Captioned([(png(p), (color, f"some {color}")) for color, p in pictures.items()])
    found = values(Retrieval(source, ks=(1,)).evaluate(Collapsed()))
    assert found["text_recall@1"] == found["image_recall@1"] == 0.0
    assert (found["text_median_rank"], found["image_median_rank"]) == (7.0, 4.0)


def test_what_cannot_be_used_is_left_out_and_said(pictures, caplog):
    source = Captioned(
        [
            (png(pictures["red"]), ("red",)),
            (b"damaged", ("green",)),
            (png(pictures["gold"]), ("", "  ")),
            (png(pictures["blue"]), ("blue",)),
        ]
    )
    results = Retrieval(source, task="left out").evaluate(ColorEncoder())
    assert {r.count for r in results} == {2}
    assert {r.skipped for r in results} == {1}
    assert "1 images without a caption" in caplog.text


def test_errors_teach(pictures):
    with pytest.raises(EvaluationError, match="needs a text tower"):
        Retrieval(Captioned([])).evaluate(ColorEncoder(("ssl_1", "ssl_2")))
    with pytest.raises(DataError, match="no image with a caption.*zeroshot:FOLDER"):
        Retrieval(Captioned([(png(pictures["red"]), ())])).evaluate(ColorEncoder())


def test_results_say_of_which_pictures_and_captions_they_are(tmp_path, pictures):
    for color, image in pictures.items():
        (tmp_path / f"{color}.png").write_bytes(png(image))
    rows = [f"{color}.png,a {color} thing,the {color}" for color in pictures]
    table = tmp_path / "birds.csv"
    table.write_text("\n".join(["image,title,text", *rows]) + "\n")
    of = {
        column: Retrieval(str(table), caption_column=column).evaluate(ColorEncoder())[0]
        for column in ("title", "text")
    }
    assert {r.data for r in of.values()} == {str(table)}
    assert [r.settings for r in of.values()] == ["caption_column=title", "caption_column=text"]
    assert of["title"].content != of["text"].content
    table.write_text("\n".join(["image,title,text", *reversed(rows)]) + "\n")
    again = Retrieval(str(table), caption_column="title").evaluate(ColorEncoder())[0]
    assert again.identity == of["title"].identity
    with pytest.raises(ConfigError, match="at least 1"):
        Retrieval(str(table), ks=(0,)).check()


def test_names():
    assert Retrieval("/data/flickr8k-test-*.tar").name == "retrieval:flickr8k-test"
    assert Retrieval(Captioned([])).name == "retrieval:given"
    assert Retrieval(Captioned([]), task="retrieval").name == "retrieval"


def test_folds_are_measured_each_for_itself(pictures):
    rng = np.random.default_rng(1)
    records: list[tuple[bytes | np.ndarray, tuple[str, ...]]] = [
        (png(picture(color, rng)), (f"{color} {i}", f"some {color}", "never counted"))
        for i, color in enumerate(["red", "green", "red", "blue", "green", "green"])
    ]
    whole = Retrieval(Captioned(records), folds=3, captions=2, ks=(1,))
    whole.check()
    found = whole.evaluate(ColorEncoder())
    parts = [
        Retrieval(Captioned(records[i : i + 2]), captions=2, ks=(1,)).evaluate(ColorEncoder())
        for i in (0, 2, 4)
    ]
    for number, result in enumerate(found):
        if "recall" in result.metric:  # folds of one size: the mean over them is that over all queries
            assert result.value == pytest.approx(np.mean([part[number].value for part in parts]))
        assert result.count == sum(part[number].count for part in parts)
        assert result.settings == "captions=2, folds=3"
    assert Retrieval(Captioned(records), folds=1).evaluate(ColorEncoder())[0].count == 6
    wrong: dict[str, Any]
    for wrong in ({"folds": 7}, {"folds": 0}, {"captions": -1}):
        with pytest.raises(ConfigError):
            Retrieval(Captioned(records), **wrong).check()
