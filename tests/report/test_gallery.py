from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openslip.report.gallery import data_url, draw_captions, gather, rank_of_first, read_pool
from report_fakes import CLASSES, FakeEncoder, Pictures

ENCODER: Any = FakeEncoder()


def test_the_pool_is_random_by_seed_and_counts_what_cannot_be_read() -> None:
    first, broken = read_pool(Pictures(), None, 40, seed=0)
    again, _ = read_pool(Pictures(), None, 40, seed=0)
    other, _ = read_pool(Pictures(), None, 40, seed=1)
    captions = [[picture.captions for picture in pool] for pool in (first, again, other)]
    assert captions[0] == captions[1] != captions[2]
    assert len(first) + broken == 40
    assert broken == 6
    assert first[0].label == CLASSES.index(first[0].captions[0].split()[1])


def test_answers_are_the_likeliest_classes_with_a_softmax_and_the_truth() -> None:
    gallery = gather(ENCODER, Pictures(), class_names=CLASSES, templates=("a {}", "{}"), examples=5)
    assert len(gallery.examples) == 5
    for reading in gallery.examples:
        assert sum(answer.share or 0 for answer in reading.answers) == pytest.approx(1, abs=1e-5)
        assert [answer.right for answer in reading.answers] == [True, False, False]
        assert (reading.truth, reading.rank) == (reading.answers[0].text, 1)


def test_wrong_answers_are_shown_as_wrong() -> None:
    gallery = gather(
        ENCODER, Pictures(), class_names=CLASSES, labels=[(i + 1) % 3 for i in range(40)], examples=5
    )
    assert all(reading.right is False for reading in gallery.examples)
    assert all(reading.rank and reading.rank > 1 for reading in gallery.examples)


def test_search_finds_the_own_picture_and_says_where() -> None:
    gallery = gather(ENCODER, Pictures(caption="a lonely {name}", broken=False))
    assert [search.query for search in gallery.searches] != []
    for search in gallery.searches:
        assert search.rank == 1
        assert all(search.own)  # every picture of the class carries the same caption
        assert str(search.query).startswith("a lonely")
    assert gallery.captions == len(CLASSES) + 1
    assert all(reading.answers[0].right for reading in gallery.readings)


def test_own_queries_have_no_own_picture() -> None:
    gallery = gather(ENCODER, Pictures(), captions=["an owl in the rain", "fish"])
    assert [search.query for search in gallery.searches] == ["an owl in the rain", "fish"]
    assert all(search.rank is None and not any(search.own) for search in gallery.searches)
    assert {picture.label for picture in gallery.searches[0].found} == {CLASSES.index("owl")}


def test_a_model_without_text_shows_neighbours() -> None:
    encoder: Any = FakeEncoder(text=False)
    gallery = gather(encoder, Pictures(), class_names=CLASSES)
    assert (gallery.examples, gallery.searches, gallery.readings) == ((), (), ())
    assert all(all(search.own) and len(search.found) == 5 for search in gallery.neighbours)
    assert all(id(search.query) not in map(id, search.found) for search in gallery.neighbours)
    assert gallery.map is not None


def test_neighbours_are_the_nearest_of_all_others() -> None:
    gallery = gather(ENCODER, Pictures(broken=False), class_names=CLASSES)
    vectors = ENCODER.encode_image([picture.pixels for picture in gallery.pool]).numpy()
    assert len(gallery.neighbours) == 4
    for row, search in zip(range(36, 40), gallery.neighbours):
        order = sorted((i for i in range(40) if i != row), key=lambda i: -float(vectors[row] @ vectors[i]))
        nearest = [float(vectors[row] @ vectors[i]) for i in order[:5]]
        found = ENCODER.encode_image([picture.pixels for picture in search.found]).numpy()
        assert (found @ vectors[row]).tolist() == pytest.approx(nearest)


def test_without_model_captions_or_pictures() -> None:
    assert gather(None, Pictures()).examples == ()
    assert len(gather(None, Pictures(), pool=9).pool) <= 9
    assert gather(ENCODER, Pictures(count=0)).pool == ()
    silent = gather(ENCODER, Pictures(caption=" "), class_names=CLASSES)
    assert silent.searches == ()
    assert silent.examples != ()


def test_rank_against_its_slow_twin() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        similarity, own = rng.normal(size=9), rng.random(9) < 0.3
        order = np.argsort(-similarity)
        twin = next((place for place, i in enumerate(order, 1) if own[i]), None)
        assert rank_of_first(similarity, own) == twin


def test_queries_have_enough_words() -> None:
    captions = ["untitled", "IMG 2034", "a red fish", "the last house on the left"]
    assert sorted(draw_captions(captions, 6, 0)) == ["a red fish", "the last house on the left"]


def test_pictures_are_embedded_as_their_middle_square() -> None:
    wide = np.zeros((300, 500, 3), np.uint8)
    wide[:, 100:400, 0] = 250
    header, _, data = data_url(wide, side=50).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert header == "data:image/jpeg;base64"
    assert image.size == (50, 50)
    assert np.asarray(image)[:, :, 0].min() > 240
    assert Image.open(io.BytesIO(base64.b64decode(data_url(wide[:40]).partition(",")[2]))).size == (40, 40)
