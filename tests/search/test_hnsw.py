from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from openslip.errors import ConfigError
from openslip.search import exact, hnsw
from openslip.search.hnsw import Graph
from openslip.search.index import Index
from openslip.search.where import Filter
from searched import some_vectors, tiny_model, write_index

pytest.importorskip("usearch")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """600 vectors of which some are equal, of which a graph is asked."""
    monkeypatch.setattr(hnsw, "FEW_ROWS", 50)
    vectors = some_vectors(600)
    vectors[[5, 300, 599]] = vectors[5]
    return write_index(tmp_path / "index", vectors, {"price": range(600)})


def test_scores_order_and_ties_are_those_of_exact_search(index: Index) -> None:
    for row in (5, 17, 450):
        query = index.vectors[row].astype(np.float32)
        right = index.search(query, top=20)
        found = index.search(query, top=20, method="hnsw")
        assert found.rows.tolist() == right.rows.tolist()
        assert found.scores.tolist() == right.scores.tolist()
        assert found.notes == ()
    assert index.search(5, method="hnsw").rows[:3].tolist() == [5, 300, 599]


def test_the_graph_is_built_once_and_kept(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    built = index.graph
    assert built.built
    assert index.graph is built
    assert {hnsw.GRAPH, hnsw.GRAPH_ABOUT} < {path.name for path in index.folder.iterdir()}
    again = Graph.of(Index.open(index.folder))
    assert not again.built
    assert again.recall == built.recall
    assert (
        again.nearest(index.vectors[3].astype(np.float32), 5)[0].tolist()
        == index.search(3, top=5).rows.tolist()
    )


def test_a_copy_of_the_vectors_is_known_and_others_are_not(index: Index) -> None:
    assert index.graph.built
    path = index.folder / "vectors.npy"
    os.utime(path, ns=(1, 1))
    assert not Graph.of(Index.open(index.folder)).built
    vectors = np.array(index.vectors)
    vectors[[7, 8]] = vectors[[8, 7]]
    np.save(path, vectors)
    other = Index.open(index.folder, model=tiny_model())
    assert other.graph.built
    query = vectors[7].astype(np.float32)
    assert other.search(query, method="hnsw").rows.tolist() == other.search(query).rows.tolist()


@pytest.mark.parametrize("what", ["graph", "about", "no about", "cut", "lies"])
def test_a_damaged_graph_is_built_anew(index: Index, what: str) -> None:
    assert index.graph.built
    graph, about = index.folder / hnsw.GRAPH, index.folder / hnsw.GRAPH_ABOUT
    if what == "graph":
        graph.write_bytes(b"\0" * graph.stat().st_size)
    elif what == "about":
        about.write_text('{"format": 1, "recall": ')
    elif what == "no about":
        about.unlink()
    elif what == "cut":
        graph.write_bytes(graph.read_bytes()[:-100])
    else:
        about.write_text(about.read_text().replace('"recall": [', '"recall": ["x", '))
    again = Graph.of(Index.open(index.folder))
    assert again.built
    assert again.recall.value > 0.9


def test_recall_is_measured_against_exact_search(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    recall = index.graph.recall
    assert (recall.queries, recall.of) == (200, "pictures")
    assert recall.value > 0.98
    assert str(recall).startswith("recall@10 of the graph against exact search: ")
    # A graph that finds the first half of the rows alone is found out.
    monkeypatch.setattr(Graph, "candidates", lambda self, query, count: np.arange(300))
    assert 0.4 < index.graph.measure().value < 0.6


def test_captions_are_the_queries_where_they_are_embedded(index: Index) -> None:
    np.save(index.folder / "captions.npy", some_vectors(50, seed=3))
    recall = Graph.of(index).recall
    assert (recall.queries, recall.of) == (50, "captions")
    assert recall.value > 0.95


def test_with_conditions_the_graph_is_asked_for_more_until_there_are_enough(index: Index) -> None:
    pytest.importorskip("duckdb")
    for least in (100, 300, 540, 560, 597):
        filters = [Filter("price", ">=", least)]
        right = index.search(3, filters=filters, top=10)
        found = index.search(3, filters=filters, top=10, method="hnsw")
        assert found.rows.tolist() == right.rows.tolist()
        assert (len(found.notes) == 1) == (least >= 560)  # 40 rows are compared at once
    assert "without the graph" in found.notes[0]


def test_where_the_graph_finds_too_few_all_are_compared(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graph, "candidates", lambda self, query, count: np.arange(3))
    query = index.vectors[40].astype(np.float32)
    rows, scores, note = index.graph.nearest(query, 10, np.arange(1, 600))
    right = exact.nearest(query[None], index.vectors, 10, np.arange(1, 600))
    assert rows.tolist() == right.rows[0].tolist()
    assert scores.tolist() == right.scores[0].tolist()
    assert "too few" in note


def test_more_than_a_graph_gives_is_exact(index: Index) -> None:
    found = index.search(3, top=5000, method="hnsw")
    assert len(found) == 600
    assert "so many" in found.notes[0]


def test_without_usearch_the_extra_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ConfigError, match=r"openslip\[search\]"):
        index.search(3, method="hnsw")
    with pytest.raises(ConfigError, match="no such search method"):
        index.search(3, method="annoy")  # type: ignore[bad-argument-type]
