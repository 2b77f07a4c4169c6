from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from openslip.report import picture_map as maps
from openslip.report.gallery import Picture
from openslip.report.picture_map import FEWEST, FEWEST_FOR_UMAP, picture_map


def drawn(count: int) -> tuple[list[Picture], np.ndarray]:
    """Pictures of two kinds, whose embeddings point two ways."""
    rng = np.random.default_rng(0)
    kinds = np.arange(count) % 2
    vectors = rng.normal(size=(count, 8)) * 0.1
    vectors[np.arange(count), kinds] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pixels = np.zeros((9, 9, 3), np.uint8)
    return [Picture(pixels, (f"{k}",), int(kind)) for k, kind in enumerate(kinds)], vectors.astype(np.float32)


def test_thumbnails_hide_no_other_and_nothing_is_left_out() -> None:
    found = picture_map(*drawn(200))
    assert found is not None
    assert found.count == 200
    assert found.method == "PCA"
    assert 10 < len(found.thumbnails) <= maps.MOST
    for one in found.thumbnails:
        for other in found.thumbnails:
            apart = abs(one.left - other.left) >= maps._WIDTH or abs(one.top - other.top) >= maps._HEIGHT
            assert one is other or apart
    places = [(one.left, one.top) for one in found.thumbnails] + list(found.dots)
    assert np.min(places) == pytest.approx(5)
    assert np.max(places) == pytest.approx(95)


def test_alike_pictures_lie_together() -> None:
    found = picture_map(*drawn(200))
    assert found is not None
    sides = {kind: [one.left for one in found.thumbnails if one.picture.label == kind] for kind in (0, 1)}
    assert max(sides[0]) < min(sides[1]) or max(sides[1]) < min(sides[0])


def test_few_pictures_have_no_map_and_alike_ones_are_no_trouble() -> None:
    pictures, vectors = drawn(FEWEST)
    assert picture_map(pictures[1:], vectors[1:]) is None
    same = picture_map(pictures, np.repeat(vectors[:1], FEWEST, axis=0))
    assert same is not None
    assert len(same.thumbnails) == 1


def test_many_pictures_are_laid_out_by_umap_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, vectors = drawn(FEWEST_FOR_UMAP)
    places = np.random.default_rng(0).random((FEWEST_FOR_UMAP, 2)).astype(np.float32)
    monkeypatch.setattr("openslip.search.map.make_map", lambda vectors: SimpleNamespace(places=places))
    for there in (True, False):
        monkeypatch.setattr(maps, "find_spec", lambda name, there=there: object() if there else None)
        found = picture_map(pictures, vectors)
        assert found is not None
        assert found.method == ("UMAP" if there else "PCA")
