"""A batch as the towers take it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openslip.collectives import rank, world
from openslip.models.dropping import Rows
from openslip.needs import Need


@dataclass(frozen=True)
class Inputs:
    """A batch as the model takes it. views: name → (N, 3, S, S) float, normalised. tokens: (N, L) or None; with several
    captions a row (N, captions, L).

    Scheduled views may have fewer rows, spread evenly over the batch, or be absent. labels: (N,) int64 classes or None,
    -1 for a record without a class. records: (N,) int64 numbers of the records, or None. No tower sees these two.
    """

    views: Mapping[str, Tensor]
    tokens: Tensor | None
    rows: Mapping[str, Rows] = field(default_factory=dict)
    """The rows that each view holds, of the batch of all processes; by default this process's share."""
    labels: Tensor | None = None
    records: Tensor | None = None
    kept: Mapping[tuple[str, Need], Tensor] = field(default_factory=dict)
    """Outputs that were computed before: of the student under "", of an objective's fixed model under the objective's
    name. Views and tokens that only these outputs need may be absent. As many rows as the view has, or would have."""

    def __post_init__(self) -> None:
        if not self.rows:
            counts = {name: len(view) for name, view in self.views.items()}
            rows = {name: Rows(rank() * count, count, world() * count) for name, count in counts.items()}
            object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return max(map(len, self._tensors()))

    @property
    def device(self) -> torch.device:
        return next(self._tensors()).device

    def _tensors(self) -> Iterator[Tensor]:
        tokens = () if self.tokens is None else (self.tokens,)
        return itertools.chain(self.views.values(), self.kept.values(), tokens)

    def split(self, size: int) -> Iterator[Inputs]:
        """Yield consecutive parts of at most `size` samples, each with its share of every view."""
        whole = len(self)
        for start in range(0, whole, size):
            stop = min(start + size, whole)
            views, rows = {}, {}
            for name, view in self.views.items():
                part = slice(start * len(view) // whole, stop * len(view) // whole)
                views[name], of_all = view[part], self.rows[name]
                rows[name] = Rows(of_all.first + part.start, part.stop - part.start, of_all.total)
            tokens, labels, records = (
                None if all_ is None else all_[start:stop]
                for all_ in (self.tokens, self.labels, self.records)
            )
            kept = {key: f[start * len(f) // whole : stop * len(f) // whole] for key, f in self.kept.items()}
            yield Inputs(views, tokens, rows, labels, records, kept)
