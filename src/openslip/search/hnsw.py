"""Find the nearest rows without comparing all: a graph (HNSW, Malkov and Yashunin 2016) by usearch, beside the vectors.

The graph finds candidates. Their scores are computed as in `exact.nearest`, so order and ties are the same. Rows that
the graph does not find are missing, and `recall` tells how many.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.errors import ConfigError, DataError
from openslip.files import read_json, whole_or_not, write_json
from openslip.progress import Progress
from openslip.search import exact
from openslip.search.index import CAPTIONS, GRAPH, GRAPH_ABOUT, VECTORS

if TYPE_CHECKING:
    from openslip.search.index import Index

FORMAT = 1
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 128
"""Edges of a node, candidates kept to add a node, and candidates kept to search: usearch's and faiss's M,
efConstruction and efSearch."""
FETCHED = 64
"""Extra candidates: near the last place, and among equal scores, the graph's own order is rough."""
FEW_ROWS = 20_000
"""Up to so many rows are compared without the graph, in a few milliseconds."""
WIDEST = 4096
"""The most candidates. If a condition leaves too few of them, all rows are compared."""
QUERIES, AT = 200, 10
"""The number of queries, and of nearest rows, by which the recall is measured."""
_CHUNK = 4096


@dataclass(frozen=True)
class Recall:
    """The share of the nearest AT rows that the graph finds, mean over `queries`. of: what the queries are, "captions"
    or "pictures"; the nearest rows of a picture are other pictures."""

    value: float
    queries: int
    of: str

    def __str__(self) -> str:
        return f"recall@{AT} of the graph against exact search: {self.value:.3f} ({self.queries} {self.of} as queries)"


class Graph:
    """The graph of an index's vectors. Any number of threads may search it."""

    def __init__(self, index: Index, graph: Any, recall: Recall, *, built: bool) -> None:
        self.index, self.recall, self.built = index, recall, built
        self._graph = graph

    @classmethod
    def of(cls, index: Index, *, shown: bool = False) -> Graph:
        """Read the graph beside the vectors, or build it if there is none, or only one of other vectors.

        Raises ConfigError without usearch, DataError if the graph cannot be written.
        """
        usearch = _usearch()
        stamp, content = _stamp(index), ""
        about = _read_about(index.folder / GRAPH_ABOUT)
        if about and about["stamp"] != stamp:
            # The file was copied or written again: compare the vectors themselves.
            content = _content(index)
            same = about["vectors"] == content
            about = about | {"stamp": stamp} if same else None
            if about:
                with suppress(OSError):  # a read-only folder
                    write_json(index.folder / GRAPH_ABOUT, about)
        if about and (graph := _read(usearch, index, about)) is not None:
            return cls(index, graph, Recall(*about["recall"]), built=False)
        return cls._build(usearch, index, stamp, content or _content(index), shown=shown)

    @classmethod
    def _build(cls, usearch: Any, index: Index, stamp: list[int], content: str, *, shown: bool) -> Graph:
        graph = usearch.Index(
            ndim=index.dim,
            metric=usearch.MetricKind.IP,
            dtype=usearch.ScalarKind.F16,
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        with Progress("building the graph of", len(index), shown=shown) as bar:
            for start in range(0, len(index), _CHUNK):
                part = np.arange(start, min(start + _CHUNK, len(index)))
                # Threads that add to a graph of few nodes can leave some of them out of reach.
                threads = 1 if start == 0 else 0
                graph.add(part, np.ascontiguousarray(index.vectors[part]), threads=threads)
                bar.advance(len(part))
        made = cls(index, graph, Recall(0.0, 0, ""), built=True)
        made.recall = made.measure()
        recall = made.recall
        try:
            (index.folder / GRAPH_ABOUT).unlink(missing_ok=True)
            with whole_or_not(index.folder / GRAPH) as file:
                file.write(graph.save())
                size = file.tell()
            about = {"format": FORMAT, "vectors": content, "stamp": stamp, "bytes": size}
            write_json(
                index.folder / GRAPH_ABOUT, about | {"recall": [recall.value, recall.queries, recall.of]}
            )
        except OSError as error:
            raise DataError(
                "The graph cannot be written",
                got=str(index.folder),
                cause=error.strerror or str(error),
                fix="Search with --index exact, which writes nothing",
            ) from None
        return made

    def measure(self) -> Recall:
        """Return the recall against exact search. The queries are captions if captions are embedded, else pictures."""
        queries, own, of = _queries(self.index)
        found = exact.nearest(queries, self.index.vectors, AT + 1)
        hit = wanted = 0
        for query, row, right in zip(queries, own, found.rows):
            nearest = [other for other in right.tolist() if other != row][:AT]
            ours = self.candidates(query, AT + 1)
            hit += len({*nearest} & {*self._scored(query, ours, AT + 1)[0].tolist()})
            wanted += len(nearest)
        return Recall(hit / max(1, wanted), len(queries), of)

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """Return the rows that the graph finds for a query (D,) float32: count + FETCHED at most, increasing."""
        asked = min(count + FETCHED, len(self.index))
        if not asked:
            return np.empty(0, np.int64)
        # A search with another expansion would have to change the graph, which other threads use.
        keys = self._graph.search(np.asarray(query, np.float16), max(asked, EXPANSION_SEARCH), threads=1).keys
        return np.sort(np.asarray(keys, dtype=np.int64)[:asked])

    def nearest(
        self, query: np.ndarray, count: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Return rows and scores as `exact.nearest` does for one query (D,), but only rows that the graph finds; and a
        sentence if all rows were compared after all.

        among: the rows that may be found, increasing. The graph is asked for more candidates until it has found `count`
        of these rows, or has given WIDEST candidates.
        """
        some = len(self.index) if among is None else len(among)
        if some <= FEW_ROWS or count >= WIDEST:
            why = "so few pictures need no graph" if some <= FEW_ROWS else "the search asks for so many"
            note = f"All pictures ({some:,}) were compared without the graph: {why}"
            return *self._all(query, among, count), note
        wanted = count
        while True:
            rows = self.candidates(query, wanted)
            if among is not None:
                places = np.minimum(np.searchsorted(among, rows), len(among) - 1)
                rows = rows[among[places] == rows]
            if len(rows) >= count:
                return *self._scored(query, rows, count), ""
            if wanted >= WIDEST:
                break
            wanted = min(WIDEST, 4 * wanted)
        note = f"All {some:,} pictures that fit the condition were compared: the graph found too few of them"
        return *self._all(query, among, count), note

    def _scored(self, query: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of a few rows, as `exact.nearest` does but without the threads that it needs."""
        scores = exact.scores_of(query.astype(np.float64), self.index.vectors[rows])
        order = np.lexsort((rows, -scores))[:count]
        return rows[order], scores[order]

    def _all(self, query: np.ndarray, among: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
        found = exact.nearest(query[None], self.index.vectors, count, among)
        return found.rows[0], found.scores[0]


def _queries(index: Index) -> tuple[np.ndarray, np.ndarray, str]:
    """Return queries (Q, D) float32 spread over the set, each query's own row (-1: none), and what the queries are."""
    texts = index.folder / CAPTIONS
    if texts.exists():
        with suppress(OSError, ValueError, EOFError):
            captions = np.load(texts, mmap_mode="r", allow_pickle=False)
            if captions.ndim == 2 and captions.shape[1] == index.dim and len(captions):
                rows = np.unique(np.linspace(0, len(captions) - 1, QUERIES).round().astype(np.int64))
                return captions[rows].astype(np.float32), np.full(len(rows), -1), "captions"
    rows = np.unique(np.linspace(0, max(0, len(index) - 1), QUERIES).round().astype(np.int64))
    rows = rows[: len(index)]
    return index.vectors[rows].astype(np.float32), rows, "pictures"


def _read_about(path: Path) -> dict[str, Any] | None:
    """Return the description of the graph in the folder; None if it is missing or damaged."""
    kinds = {"format": int, "vectors": str, "stamp": list, "bytes": int, "recall": list}
    with suppress(OSError, ValueError):
        about = read_json(path)
        if isinstance(about, dict) and all(isinstance(about.get(name), kind) for name, kind in kinds.items()):
            value, queries, of = (about["recall"] + [None] * 3)[:3]
            fine = isinstance(value, float | int) and isinstance(queries, int) and isinstance(of, str)
            return about if about["format"] == FORMAT and fine and len(about["recall"]) == 3 else None
    return None


def _read(usearch: Any, index: Index, about: dict[str, Any]) -> Any:
    """Return the graph of a file; None if it is not the one that was written."""
    path = index.folder / GRAPH
    with suppress(OSError, RuntimeError, ValueError):
        if path.stat().st_size != about["bytes"]:
            return None
        graph = usearch.Index.restore(str(path))
        if graph is not None and len(graph) == len(index) and graph.ndim == index.dim:
            return graph
    return None


def _stamp(index: Index) -> list[int]:
    found = (index.folder / VECTORS).stat()
    return [found.st_size, found.st_mtime_ns]


def _content(index: Index) -> str:
    """Return a digest of all vectors."""
    found = hashlib.blake2b(repr(index.vectors.shape).encode(), digest_size=16)
    for start in range(0, len(index), 1 << 16):
        found.update(np.ascontiguousarray(index.vectors[start : start + (1 << 16)]).data)
    return found.hexdigest()


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise ConfigError(
            "--index hnsw needs usearch",
            fix="pip install 'openslip[search]', or search with --index exact",
        ) from None
    return usearch.index
