"""A map of a collection: the place of each picture on a plane, and its neighbours."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from openslip.errors import note
from openslip.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

NEIGHBOURS = 15
"""Neighbours of each picture, including the picture itself: UMAP's default."""
QUERIES, ROWS = 512, 65_536
"""Rows to compare at a time, and rows to compare them with: 134 MB of similarities."""


class Map(NamedTuple):
    """Places (N, 2) float32 of N pictures, the nearest rows of each (N, K) int64, and distances (N, K) float32.

    The nearest come first, and at equal distances the lower row; a picture is not its own neighbour. A distance is 1
    minus the cosine similarity.
    """

    places: np.ndarray
    rows: np.ndarray
    distances: np.ndarray

    def columns(self, first: int, count: int) -> dict[str, pa.Array]:
        """Return the columns `x`, `y` and `neighbors` of some rows, as embedding-atlas reads them."""
        import pyarrow as pa

        part = slice(first, first + count)
        near = [
            {"ids": ids, "distances": far}
            for ids, far in zip(self.rows[part].tolist(), self.distances[part].tolist())
        ]
        kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
        x, y = (pa.array(np.ascontiguousarray(self.places[part, axis]), pa.float32()) for axis in (0, 1))
        return {"x": x, "y": y, "neighbors": pa.array(near, kind)}


def make_map(vectors: np.ndarray, *, shown: bool = False) -> Map:
    """Lay out embeddings (N, D) of length 1 on a plane, by UMAP if the library is installed, else by PCA.

    UMAP: McInnes et al. 2018, arXiv 1802.03426, with its defaults and a fixed seed. It keeps neighbours together. PCA
    shows the two directions in which embeddings differ most. All pairs are compared once, N² D multiplications.
    """
    near = neighbours(vectors, min(NEIGHBOURS, len(vectors)), shown=shown)
    if len(vectors) > NEIGHBOURS and find_spec("umap") is not None:
        places = _umap(vectors, *near)
    else:
        if len(vectors) > NEIGHBOURS:
            note("The map is laid out by PCA. UMAP keeps neighbours together: pip install 'openslip[map]'")
        places = principal(vectors)
    # UMAP gets each picture before its copies. The map leaves out the picture as a neighbour of itself.
    rows, distances = (part[:, 1:] for part in near)
    return Map(places, rows, distances)


def neighbours(vectors: np.ndarray, count: int, *, shown: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest rows of each row, itself first, (N, count) int64, and their distances (N, count) float32."""
    total = len(vectors)
    rows, distances = np.empty((total, count), np.int64), np.empty((total, count), np.float32)
    with Progress("comparing", total, transient=True, brief=True, shown=shown) as bar:
        for start in range(0, total, QUERIES):
            own = np.arange(start, min(start + QUERIES, total))
            found, scores = _nearest(vectors, own, count)
            # At equal scores the lower row comes first; the row itself comes before all.
            scores[found == own[:, None]] = np.inf
            order = np.lexsort((found, -scores))
            rows[own] = np.take_along_axis(found, order, 1)
            distances[own] = np.maximum(0, 1 - np.minimum(1, np.take_along_axis(scores, order, 1)))
            bar.advance(len(own))
    return rows, distances


def _nearest(vectors: np.ndarray, own: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores of the nearest of some rows, themselves among them, in no order."""
    queries = torch.from_numpy(vectors[own].astype(np.float32))
    best_scores, best_rows = torch.empty(len(own), 0), torch.empty(len(own), 0, dtype=torch.int64)
    for start in range(0, len(vectors), ROWS):
        block = torch.from_numpy(np.asarray(vectors[start : start + ROWS], dtype=np.float32))
        scores = queries @ block.T
        here = (own >= start) & (own < start + len(block))
        scores[torch.from_numpy(here), torch.from_numpy(own[here] - start)] = torch.inf
        kept = torch.topk(scores, min(count, len(block)), dim=1)
        best_scores = torch.cat([best_scores, kept.values], 1)
        best_rows = torch.cat([best_rows, kept.indices + start], 1)
        chosen = torch.topk(best_scores, min(count, best_scores.shape[1]), dim=1)
        best_scores, best_rows = chosen.values, best_rows.gather(1, chosen.indices)
    return best_rows.numpy(), best_scores.numpy()


def principal(vectors: np.ndarray) -> np.ndarray:
    """Return the first two principal components of embeddings (N, D), (N, 2) float32; signs are fixed."""
    mean = np.zeros(vectors.shape[1])
    for start in range(0, len(vectors), ROWS):
        mean += vectors[start : start + ROWS].astype(np.float64).sum(0)
    mean /= len(vectors)
    covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), ROWS):
        block = vectors[start : start + ROWS].astype(np.float64) - mean
        covariance += block.T @ block
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
    axes *= np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    places = [
        (vectors[start : start + ROWS].astype(np.float64) - mean) @ axes
        for start in range(0, len(vectors), ROWS)
    ]
    return np.concatenate(places).astype(np.float32)


def _umap(vectors: np.ndarray, rows: np.ndarray, distances: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads and of what `transform` would need
        layout = import_module("umap").UMAP(
            n_neighbors=rows.shape[1],
            metric="cosine",
            init="pca",
            random_state=0,
            precomputed_knn=(rows, distances),
        )
        return np.asarray(layout.fit_transform(np.asarray(vectors, dtype=np.float32)), dtype=np.float32)
