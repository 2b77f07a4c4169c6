"""The place of each picture on the page's map: from `slip embed --map`, else from principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openslip.search.index import MAPPED, Index
from openslip.search.map import principal

SHOWN = 50_000
"""The most pictures on the map. From a larger index the map takes so many, evenly spread."""
OUTSIDE = 0.5
"""Percent of the places at each end that may lie outside the frame that the map shows first."""


@dataclass(frozen=True)
class Places:
    """M pictures with their places. rows: (M,) int64. places: (M, 2) float32; the frame is from 0 to 1, shape kept.

    made_of: "columns" or "components".
    """

    rows: np.ndarray
    places: np.ndarray
    made_of: str


def places(index: Index) -> Places:
    """Return the places of the pictures; the same index gives the same places."""
    rows = spread(len(index), SHOWN)
    found = _of_columns(index, rows)
    if found is not None:
        kept = np.isfinite(found).all(axis=1)
        if kept.any():
            return Places(rows[kept], framed(found[kept]), "columns")
    return Places(rows, framed(principal(index.vectors[rows])), "components")


def spread(length: int, most: int) -> np.ndarray:
    """Return all numbers below `length`, or `most` of them, evenly spread."""
    return np.arange(length) if length <= most else np.arange(most) * length // most


def _of_columns(index: Index, rows: np.ndarray) -> np.ndarray | None:
    """Return x and y of these records, (M, 2), NaN for records without them; None without the two columns."""
    kinds = [index.columns.get(name, "") for name in MAPPED[:2]]
    if not all(kind.startswith(("int", "uint", "float", "double", "halffloat")) for kind in kinds):
        return None
    columns = [index.column(name).to_numpy().astype(np.float64)[rows] for name in MAPPED[:2]]
    return np.stack(columns, axis=1)


def framed(values: np.ndarray) -> np.ndarray:
    """Return places (M, 2) moved, and scaled alike in both directions, so that all but a few lie from 0 to 1."""
    low, high = np.percentile(values, [OUTSIDE, 100 - OUTSIDE], axis=0)
    size = max(float((high - low).max()), 1e-12)
    return ((values - (low + high) / 2) / size + 0.5).astype(np.float32)
