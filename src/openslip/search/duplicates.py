"""Find the pictures of an index that are copies of others: the same bytes, or nearly the same embeddings."""

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
"""The default for the least similarity of near copies. docs/search.md tells what it finds and misses."""
BLOCK = 1024
"""Rows that are compared with all later ones at a time."""
ACROSS = 8192
"""Later rows that are compared at a time: BLOCK × ACROSS float32 similarities are 32 MB."""
_PAIRS = 1 << 15
"""Pairs whose similarity is computed anew at a time."""


@dataclass(frozen=True)
class Duplicates:
    """The copies among N pictures of an index.

    twins: (N,) int64, for each row the first row whose picture has the same bytes, or the row itself.
    lookalikes: (N,) int64, for each row the kept row that it is a near copy of, or the row itself; rows with equal
    bytes have the same lookalike. similarity: (N,) float32, of each row to its lookalike.

    Groups are stars, as in `slip data check`: all near copies of a group resemble its first picture, which has the
    lowest row. So a chain of pictures that each resemble only the one before is no group.
    """

    index: Index
    threshold: float
    twins: np.ndarray
    lookalikes: np.ndarray
    similarity: np.ndarray

    @cached_property
    def whats(self) -> list[str]:
        """The kind of each row, as `tools.check.listing` names kinds: "exact copy", "near copy", or "" for no copy.

        A copy with a caption that no earlier row of its group has is "same picture, other captions" or "near copy,
        other captions".
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
        """The rows of each group, its first row in front. Larger groups come first, then groups with a lower row."""
        order = np.argsort(self.lookalikes, kind="stable")
        firsts, starts = np.unique(self.lookalikes[order], return_index=True)
        groups = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1] if len(firsts) else []
        return sorted(groups, key=lambda rows: (-len(rows), int(rows[0])))

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each kind."""
        return {what: self.whats.count(what) for what in (EXACT, RECAPTIONED, NEAR, NEAR_RECAPTIONED)}

    def entries(self, rows: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
        """Yield a JSON object for each copy: index (of the record in the source), key, what, of, similarity, path.

        `slip data convert --without` reads them as lines. rows: the rows to yield, None for all copies.
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

    threshold: the least cosine similarity of near copies. Each picture is compared with all kept pictures before it: at
    most N² D / 2 multiplications, in memory that does not grow with N². The result depends neither on how the work is
    cut nor on the number of threads. shown: whether to show progress.

    Raises ConfigError for a threshold that is not above 0 and at most 1.
    """
    check_threshold(threshold)
    twins = same(np.asarray(index.column("digest").to_pylist(), dtype=np.str_))
    among = np.flatnonzero(twins == np.arange(len(twins)))
    lookalikes, similarity = near(index.vectors, threshold, among, shown=shown)
    return Duplicates(index, threshold, twins, lookalikes[twins], similarity[twins])


def check_threshold(threshold: float) -> None:
    """Raise ConfigError for a threshold that is not above 0 and at most 1."""
    if not 0 < threshold <= 1:
        raise ConfigError(
            "A threshold of near copies must be above 0 and at most 1", got=f"threshold {threshold}"
        )


def near(
    vectors: np.ndarray, threshold: float, among: np.ndarray | None = None, *, shown: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the first kept row that it resembles, or the row itself, (N,) int64; and the similarity of
    the two, (N,) float32.

    vectors: (N, D) float16 or float32, of length 1 or so, perhaps a memory-map. Rows are taken in order. A row whose
    inner product with a kept row is `threshold` or more is a copy of the first such row; any other row is kept.
    Inner products near the threshold are summed in float64 and rounded to float32, as in `exact.nearest`.
    among: rows to compare, increasing; the other rows stay as they are.
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
            # The share of pairs that are done: the first blocks have the most pairs.
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
    """Find copies among the rows of a block, in their order; return which rows are kept, (n,) bool."""
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
    """Return for each of the rows `there` the number of the first of the rows `here` that it resembles, (n,), -1 for
    none, and their similarities, (n,) float32."""
    rough = (asked @ _floats(vectors, there).T).numpy()
    columns = np.flatnonzero(rough.max(axis=0) >= threshold - MARGIN)
    which, scores = np.full(len(there), -1), np.ones(len(there), np.float32)
    if not len(columns):
        return which, scores
    near = rough[:, columns]
    certain = near >= threshold + MARGIN
    # The first row that resembles for certain. Rows before it may be so near the threshold that rounding decides.
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
    """Write a JSON line for each copy, for `slip data convert --without`, and return the number of copies.

    Raises DataError if the file cannot be written.
    """
    return write_entries(path, found.entries())
