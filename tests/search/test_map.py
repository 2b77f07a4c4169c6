from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from openslip.search import map as module
from openslip.search.embed import embed
from openslip.search.index import Index
from openslip.search.map import make_map, neighbours, principal
from search.collections import make, small_model


def unit(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("blocks", [(512, 65_536), (3, 7), (1, 5)])
@pytest.mark.parametrize("count", [1, 4, 15])
def test_neighbours_are_the_nearest_of_all(count, blocks, monkeypatch) -> None:
    monkeypatch.setattr(module, "QUERIES", blocks[0])
    monkeypatch.setattr(module, "ROWS", blocks[1])
    vectors = unit(31)
    rows, distances = neighbours(vectors, count)
    similar = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(similar, 2)
    expected = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    assert rows.tolist() == expected.tolist()
    assert (
        np.abs(distances[:, 1:] - (1 - np.take_along_axis(similar, expected, 1))[:, 1:]).max(initial=0) < 1e-5
    )
    assert (distances[:, 0] == 0).all()


def test_a_row_comes_before_its_copies() -> None:
    rows, distances = neighbours(np.repeat(unit(1), 4, 0), 4)
    assert rows.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]]
    assert np.abs(distances).max() < 1e-3


def test_principal_components_are_those_of_a_decomposition(monkeypatch) -> None:
    monkeypatch.setattr(module, "ROWS", 7)
    vectors = unit(40)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    assert np.abs(np.abs(principal(vectors)) - np.abs(centred @ axes.T)).max() < 1e-5
    assert (principal(vectors) == principal(vectors)).all()


@pytest.mark.parametrize("shape", [(1, 6), (2, 6), (3, 1)])
def test_few_pictures_have_a_map(shape) -> None:
    found = make_map(unit(*shape))
    assert found.places.shape == (shape[0], 2)
    assert found.rows.shape == (shape[0], shape[0] - 1)


def test_an_index_has_the_columns_that_other_programs_read(tmp_path) -> None:
    embed(small_model(), make("tar", tmp_path), tmp_path / "index", mapped=True, precision="fp32", batch=2)
    index = Index.open(tmp_path / "index")
    table = pq.read_table(tmp_path / "index" / "records.parquet")
    expected = make_map(index.vectors)
    assert np.abs(np.stack([table["x"], table["y"]], 1) - expected.places).max() < 1e-5
    found = table["neighbors"].to_pylist()
    assert [one["ids"] for one in found] == expected.rows.tolist()
    assert str(table.schema.field("neighbors").type).startswith("struct<ids: list<")
    embed(small_model(), str(tmp_path / "shard.tar"), tmp_path / "index", precision="fp32", batch=2)
    assert "x" not in Index.open(tmp_path / "index").columns


@pytest.mark.slow
def test_umap_keeps_clusters_together() -> None:
    pytest.importorskip("umap")
    centres = np.random.default_rng(1).normal(size=(3, 16))
    points = np.repeat(centres, 30, 0) + 0.1 * np.random.default_rng(2).normal(size=(90, 16))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
    one, other = make_map(vectors), make_map(vectors)
    assert (one.places == other.places).all()
    groups = one.places.reshape(3, 30, 2)
    inside = max(np.linalg.norm(group - group.mean(0), axis=1).max() for group in groups)
    between = min(np.linalg.norm(groups[i].mean(0) - groups[j].mean(0)) for i in range(3) for j in range(i))
    assert between > inside
