"""Find the rows of a matrix of embeddings that are most similar to queries, by comparing all rows."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

BLOCK = 4096
"""Rows that are compared at a time: few enough for a processor's cache, enough to keep its cores busy."""
MARGIN = 1e-4
"""Twice the largest error of a float32 product of vectors of length 1. Scores this near a limit are computed again."""


class Found(NamedTuple):
    """The K nearest rows of each of Q queries, the nearest first. rows: (Q, K) int64. scores: (Q, K) float32.

    K is the number asked for, or the number of all rows if there are fewer.
    """

    rows: np.ndarray
    scores: np.ndarray


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int, among: np.ndarray | None = None) -> Found:
    """Return the `count` rows of `vectors` with the largest inner products with each query.

    queries: (Q, D) float32. vectors: (N, D), float16 or float32, of length 1 or so. Of a memory-map, only one block is
    in memory at a time. among: the row numbers that may be found, increasing int64; None: all.

    The order is exact and the same every time. Scores are summed in float64 and rounded once, and at equal scores the
    lower row comes first. So equal vectors come side by side, whatever block they are in.
    """
    rows = len(vectors) if among is None else len(among)
    count = min(count, rows)
    best = [_Best(np.asarray(query, dtype=np.float64), count) for query in queries]
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).T
    # One buffer for all blocks: pages that are new to a process cost more than the products.
    buffer = torch.empty(min(BLOCK, rows), vectors.shape[1])
    for start in range(0, rows if count else 0, BLOCK):
        part = slice(start, min(start + BLOCK, rows))
        numbers = np.arange(part.start, part.stop) if among is None else among[part]
        block = vectors[part] if among is None else vectors[numbers]
        floats = buffer[: len(numbers)].copy_(as_tensor(block))
        scores = (floats @ asked).numpy()
        for column, one in enumerate(best):
            one.add(numbers, block, scores[:, column])
    return Found(
        np.stack([one.rows for one in best]) if best else np.empty((0, count), np.int64),
        np.stack([one.scores for one in best]) if best else np.empty((0, count), np.float32),
    )


def scores_of(query: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the inner products of a query (D,) float64 and rows (n, D), (n,) float32, the same in any block."""
    return (block.astype(np.float64) * query).sum(axis=1).astype(np.float32)


def as_tensor(block: np.ndarray) -> torch.Tensor:
    """Return a read-only block as a tensor of the same memory, without torch's warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(block)


class _Best:
    """The rows that are nearest to one query so far, the nearest first."""

    def __init__(self, query: np.ndarray, count: int) -> None:
        self.query, self.count = query, count
        self.rows, self.scores = np.empty(0, np.int64), np.empty(0, np.float32)

    def add(self, numbers: np.ndarray, block: np.ndarray, rough: np.ndarray) -> None:
        """Add a block of rows. rough: their scores, summed in float32 in an order that depends on the block."""
        if len(rough) > self.count:
            bound = np.partition(rough, len(rough) - self.count)[len(rough) - self.count] - MARGIN
        else:
            bound = np.float32(-np.inf)
        if len(self.scores) == self.count:
            bound = max(bound, self.scores[-1] - MARGIN)
        near = np.flatnonzero(rough >= bound)
        if not len(near):
            return
        scores = scores_of(self.query, block[near])
        rows = np.concatenate([self.rows, numbers[near]])
        scores = np.concatenate([self.scores, scores])
        order = np.lexsort((rows, -scores))[: self.count]
        self.rows, self.scores = rows[order], scores[order]
