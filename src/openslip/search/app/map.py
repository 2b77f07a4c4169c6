"""Where each picture lies on the map: by the columns x and y of the records, else by the two directions in which the
embeddings differ most (principal components)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openslip.search.app.columns import PLACES
from openslip.search.index import Index

SHOWN = 50_000
"""Pictures of the map; of more, every so-manieth is on it."""
MEASURED = 20_000
"""Embeddings that the principal components are computed of."""
OUTSIDE = 0.5
"""Percent of the places at each end that may lie outside of the frame in which the map is first seen."""
BLOCK = 8192


@dataclass(frozen=True)
class Places:
    """M pictures with their places. rows: (M,) int64. places: (M, 2) float32; the frame is from 0 to 1, shape kept.

    made_of: "columns" or "components".
    """

    rows: np.ndarray
    places: np.ndarray
    made_of: str


def places(index: Index) -> Places:
    """Return where pictures lie; the same for the same index."""
    rows = spread(len(index), SHOWN)
    found = _of_columns(index, rows)
    if found is not None:
        kept = np.isfinite(found).all(axis=1)
        if kept.any():
            return Places(rows[kept], framed(found[kept]), "columns")
    return Places(rows, framed(components(index.vectors, rows)), "components")


def spread(length: int, most: int) -> np.ndarray:
    """Return all numbers below `length`, or `most` of them, evenly spread."""
    return np.arange(length) if length <= most else np.arange(most) * length // most


def _of_columns(index: Index, rows: np.ndarray) -> np.ndarray | None:
    """Return x and y of these records, (M, 2), not a number where there is none; None without the two columns."""
    kinds = [index.columns.get(name, "") for name in PLACES]
    if not all(kind.startswith(("int", "uint", "float", "double", "halffloat")) for kind in kinds):
        return None
    columns = [index.column(name).to_numpy().astype(np.float64)[rows] for name in PLACES]
    return np.stack(columns, axis=1)


def components(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the first two principal components of rows of embeddings (N, D), as (M, 2) float32.

    The sign of each is such that its largest weight is positive, so that the map is the same every time.
    """
    sample = rows[spread(len(rows), MEASURED)]
    mean, products = np.zeros(vectors.shape[1]), np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(sample), BLOCK):
        block = vectors[sample[start : start + BLOCK]].astype(np.float32)
        mean += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    mean /= len(sample)
    directions = np.linalg.eigh(products / len(sample) - np.outer(mean, mean))[1][:, ::-1][:, :2]
    if directions.shape[1] < 2:  # embeddings of one number
        directions = np.pad(directions, ((0, 0), (0, 1)))
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, [0, 1]] < 0, -1, 1)
    found = [
        (vectors[rows[start : start + BLOCK]].astype(np.float32) - mean) @ directions
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(found).astype(np.float32)


def framed(values: np.ndarray) -> np.ndarray:
    """Return places (M, 2) moved and scaled, the same in both directions, so that all but a few lie from 0 to 1."""
    low, high = np.percentile(values, [OUTSIDE, 100 - OUTSIDE], axis=0)
    size = max(float((high - low).max()), 1e-12)
    return ((values - (low + high) / 2) / size + 0.5).astype(np.float32)
