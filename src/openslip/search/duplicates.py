"""Which pictures of an index are copies of others: the same bytes, or embeddings that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.errors import ConfigError
from openslip.progress import Progress
from openslip.search.exact import MARGIN, as_tensor
from openslip.tools.check.caption_text import normal
from openslip.tools.check.fingerprints import same
from openslip.tools.check.listing import EXACT, NEAR, NEAR_RECAPTIONED, RECAPTIONED, write_entries

if TYPE_CHECKING:
    from openslip.search.index import Index

THRESHOLD = 0.97
"""The least similarity of near copies, unless another is asked for. docs/search.md has what it finds and misses."""
BLOCK = 1024
"""Rows that are compared with all later ones at a time."""
ACROSS = 8192
"""Later rows that are compared at a time: BLOCK × ACROSS float32 similarities are 32 MB."""
_PAIRS = 1 << 15
"""Pairs whose similarity is computed anew at a time."""


@dataclass(frozen=True)
class Duplicates:
    """The copies among N pictures of an index.

    twins: (N,) int64, of each row the first whose picture has the same bytes, itself where there is none.
    lookalikes: (N,) int64, of each row the one kept that it is a near copy of, itself where there is none; rows with
    equal bytes are near copies of the same one. similarity: (N,) float32, of each row to its lookalike.

    Groups are stars, as those of `slip data check`: all near copies of a group are alike to its first, which has the
    lowest row. So a chain of pictures, each of which is a little like the one before, is no group.
    """

    index: Index
    threshold: float
    twins: np.ndarray
    lookalikes: np.ndarray
    similarity: np.ndarray

    @cached_property
    def whats(self) -> list[str]:
        """Of each row what it is, as `tools.check.listing` calls that: "exact copy", "near copy"; "" for what is none.

        A copy that has a caption of its own, which no row before in its group has, is "same picture, other captions"
        or "near copy, other captions".
        """
        here = np.arange(len(self.twins))
        copies = np.flatnonzero((self.twins != here) | (self.lookalikes != here))
        found = [""] * len(here)
        involved = np.unique(np.concatenate([copies, self.twins[copies], self.lookalikes[copies]]))
        texts = self.index.records(involved, ["captions"])["captions"].to_pylist()
        said: dict[int, set[str]] = {}
        for row, captions in zip(involved.tolist(), texts):
            exact = self.twins[row] != row
            known = said.setdefault(int(self.lookalikes[row]), set())
            own = {normal(text) for text in captions or ()} - {""}
            if exact or self.lookalikes[row] != row:
                new = not own <= known
                found[row] = (RECAPTIONED if new else EXACT) if exact else NEAR_RECAPTIONED if new else NEAR
            known |= own
        return found

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """The rows of each group, its first in front; the largest groups first, of equal ones that with a lower row."""
        order = np.argsort(self.lookalikes, kind="stable")
        firsts, starts = np.unique(self.lookalikes[order], return_index=True)
        groups = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1] if len(firsts) else []
        return sorted(groups, key=lambda rows: (-len(rows), int(rows[0])))

    def counts(self) -> dict[str, int]:
        """Return how many rows are what."""
        return {what: self.whats.count(what) for what in (EXACT, RECAPTIONED, NEAR, NEAR_RECAPTIONED)}

    def entries(self, rows: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
        """Yield a JSON object of each copy: index (of the record in the source), key, what, of, similarity, path.

        They are lines that `slip data convert --without` reads. rows: those to yield, None for all copies.
        """
        if rows is None:
            rows = np.flatnonzero([bool(what) for what in self.whats])
        firsts = np.where(self.twins[rows] != rows, self.twins[rows], self.lookalikes[rows])
        table = self.index.records(rows, ["key", "path", "record"]).to_pylist()
        of = self.index.records(firsts, ["record"])["record"].to_pylist()
        for row, found, first in zip(rows.tolist(), table, of):
            entry = {"index": found["record"], "key": found["key"], "what": [self.whats[row]], "of": first}
            if self.twins[row] == row:
                entry["similarity"] = round(float(self.similarity[row]), 4)
            if found["path"]:
                entry["path"] = found["path"]
            yield entry


def find_duplicates(index: Index, threshold: float = THRESHOLD, *, shown: bool = False) -> Duplicates:
    """Find the copies among the pictures of an index.

    threshold: the least cosine similarity of near copies. Each picture is compared with all that are kept before it,
    N² D / 2 multiplications at most, in a memory that does not grow with N². The result does not depend on how the
    work is cut, nor on the number of threads. shown: whether progress is.

    Raises ConfigError for a threshold that is no similarity above 0.
    """
    check_threshold(threshold)
    twins = same(np.asarray(index.column("digest").to_pylist(), dtype=np.str_))
    among = np.flatnonzero(twins == np.arange(len(twins)))
    lookalikes, similarity = near(index.vectors, threshold, among, shown=shown)
    return Duplicates(index, threshold, twins, lookalikes[twins], similarity[twins])


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold that is no similarity above 0."""
    if not 0 < threshold <= 1:
        raise ConfigError(
            "A threshold of near copies is above 0, and at most 1", got=f"threshold {threshold}"
        )


def near(
    vectors: np.ndarray, threshold: float, among: np.ndarray | None = None, *, shown: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int64: of each row the first one kept that it is alike to, itself where there is none; and (N,)
    float32, how similar.

    vectors: (N, D) float16 or float32, of length 1 or so, perhaps a memory-map. Rows are taken in their order. A row
    whose inner product with one that is kept is `threshold` or more is a copy of the first such; any other is kept.
    Inner products near the threshold are summed in float64 and rounded to float32, as in `exact.nearest`.
    among: rows to compare, increasing; the others are left as they are.
    """
    count = len(vectors)
    among = np.arange(count) if among is None else among
    firsts, similarity = np.arange(count), np.ones(count, np.float32)
    alive = np.ones(len(among), bool)
    done = 0
    with Progress("comparing", len(among), shown=shown, brief=len(among) < 20_000) as bar:
        for start in range(0, len(among), BLOCK):
            stop = min(start + BLOCK, len(among))
            here = among[start:stop][alive[start:stop]]
            asked = _floats(vectors, here)
            kept = _within(vectors, here, asked, threshold, firsts, similarity)
            here, asked = here[kept], asked[torch.from_numpy(kept)]
            for after in range(stop, len(among), ACROSS):
                part = slice(after, min(after + ACROSS, len(among)))
                there = among[part][alive[part]]
                if not len(there) or not len(here):
                    continue
                which, scores = _first_alike(vectors, here, asked, there, threshold)
                found = which >= 0
                firsts[there[found]] = here[which[found]]
                similarity[there[found]] = scores[found]
                alive[part] = firsts[among[part]] == among[part]
            # Of the pairs that are done; the first blocks have the most.
            share = 1 - ((len(among) - stop) / max(1, len(among))) ** 2
            bar.advance(round(share * len(among)) - done)
            done = round(share * len(among))
    return firsts, similarity


def _within(
    vectors: np.ndarray,
    rows: np.ndarray,
    asked: torch.Tensor,
    threshold: float,
    firsts: np.ndarray,
    similarity: np.ndarray,
) -> np.ndarray:
    """Tell copies of each other among the rows of a block, in their order; return which rows are kept, (n,) bool."""
    rough = (asked @ asked.T).numpy()
    a, b = np.nonzero(np.triu(rough >= threshold - MARGIN, 1))
    scores = _scores(vectors, rows[a], rows[b])
    near = scores >= threshold
    kept = np.ones(len(rows), bool)
    # Sorted by a: when it is reached, a is known to be kept or to be a copy.
    for first, copy, score in zip(a[near].tolist(), b[near].tolist(), scores[near].tolist()):
        if kept[first] and kept[copy]:
            kept[copy] = False
            firsts[rows[copy]], similarity[rows[copy]] = rows[first], score
    return kept


def _first_alike(
    vectors: np.ndarray, here: np.ndarray, asked: torch.Tensor, there: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of the rows `there` which of `here` is the first that it is alike to, (n,), -1 for none, and
    their similarities, (n,) float32."""
    rough = (asked @ _floats(vectors, there).T).numpy()
    columns = np.flatnonzero(rough.max(axis=0) >= threshold - MARGIN)
    which, scores = np.full(len(there), -1), np.ones(len(there), np.float32)
    if not len(columns):
        return which, scores
    near = rough[:, columns]
    certain = near >= threshold + MARGIN
    # The first that is alike for certain; before it may be some that are so near the threshold that rounding decides.
    first = np.where(certain.any(axis=0), certain.argmax(axis=0), len(here))
    doubtful = (near >= threshold - MARGIN) & (np.arange(len(here))[:, None] < first)
    a, b = np.nonzero(doubtful)
    passed = _scores(vectors, here[a], there[columns[b]]) >= threshold
    np.minimum.at(first, b[passed], a[passed])
    found = first < len(here)
    which[columns[found]] = first[found]
    scores[columns[found]] = _scores(vectors, here[first[found]], there[columns[found]])
    return which, scores


def _scores(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the inner products of pairs of rows, (P,) float32: summed in float64, and rounded once."""
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(a), _PAIRS):
        one, other = (vectors[rows[start : start + _PAIRS]].astype(np.float64) for rows in (a, b))
        parts.append((one * other).sum(axis=1).astype(np.float32))
    return np.concatenate(parts)


def _floats(vectors: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    return as_tensor(vectors[rows]).float()


def write_list(path: Path, found: Duplicates) -> int:
    """Write a JSON line of each copy, for `slip data convert --without`, and return how many there are.

    Raises DataError when that cannot be done.
    """
    return write_entries(path, found.entries())
