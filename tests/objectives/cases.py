"""An objective of any name at small size, and random features of all that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openslip.collectives import world
from openslip.needs import TEXT, Need
from openslip.objectives import At, Dims, Objective
from openslip.training.teacher import Teacher
from toys import VARIANTS, small_loss

FIXED = Dims(width=14, text_width=6, embed_dim=8)
DIMS = Dims(
    width=12,
    text_width=10,
    embed_dim=8,
    context=9,
    vocabulary=50_000,
    special=(0, 49_998, 49_999),
    fixed=FIXED,
    records=24,
)


def make(
    name: str, *, dims: Dims = DIMS, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> Any:
    """Return the objective of that name, or of VARIANTS, in training, with its teacher's heads where it has some.

    Its class depends on the name.
    """
    (term,) = small_loss(name.partition(",")[0], **VARIANTS.get(name, {}) | options).terms
    torch.manual_seed(seed)
    objective = term.kind(term.config, dims)
    if objective.teacher_heads:
        objective.teacher = Teacher({head: getattr(objective, head) for head in objective.teacher_heads})
    return objective.to(dtype).train()


def chances(kind: type[Objective], rows: int, scheduled: int = 0) -> list[float]:
    """Return the values, by curve, of a model that knows nothing."""
    return [curve.chance(rows, scheduled) for curve in kind.curves if curve.chance is not None]


def features_for(
    needs: Iterable[Need],
    rows: int,
    *,
    dims: Dims = DIMS,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    equal: bool = True,
) -> dict[Need, Tensor]:
    """Return random features of N rows, with gradient where the student makes them.

    They are of random lengths, and differ by view and by who makes them. equal: some captions are the same.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 3 * torch.randn(*shape, dtype=dtype, generator=generator)

    features = {}
    for need in needs:
        many = (rows, need.captions) if need.captions > 1 else (rows,)
        sizes = dims.fixed if need.by == "fixed" and dims.fixed else dims
        if need.out == "logit_scale":
            feature = torch.tensor(1 / 0.07, dtype=dtype)
        elif need.out == "ids":
            each = [captions(rows, dims, generator, equal=equal) for _ in range(need.captions)]
            longest = max(ids.shape[1] for ids in each)
            each = [F.pad(ids, (0, longest - ids.shape[1])) for ids in each]
            feature = torch.stack(each, 1) if need.captions > 1 else each[0]
        elif need.out == "labels":
            feature = torch.arange(rows) % 7 % 4 - 1
        elif need.out == "records":
            feature = 2 * torch.arange(rows) % 17  # two rows are of one from the eighteenth on
        elif need.out == "embedding":
            feature = random(*many, sizes.embed_dim)
        elif need.out == "tokens":
            feature = random(rows, 4, sizes.width)
        else:
            feature = random(*many, sizes.text_width if need.view == TEXT else sizes.width)
        features[need] = feature.requires_grad_(need.by == "student" and feature.is_floating_point())
    return features


def captions(rows: int, dims: Dims, generator: torch.Generator, *, equal: bool = True) -> Tensor:
    """Return token ids (N, L), zero-padded to the longest of the rows; equal: every fourth is the one before."""
    ids = torch.zeros(rows, dims.context, dtype=torch.long)
    for row in range(rows):
        length = int(torch.randint(4, dims.context + 1, (), generator=generator))
        ids[row, :length] = torch.randint(1, dims.vocabulary - 2, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = dims.vocabulary - 2, dims.vocabulary - 1
        if equal and row % 4 == 3:
            ids[row] = ids[row - 1]
    return ids[:, : int((ids > 0).sum(1).max())]


def trained(objective: Objective) -> dict[str, nn.Parameter]:
    """Return the parameters of its own that the loss of features depends on, by name.

    All that the optimiser moves, but for the token of a mask, which enters the tower.
    """
    masked = {need.view for need in objective.needs_for(objective.config) if need.masked}
    views = [view for view in objective.views_for(objective.config) if view.name in masked]
    tokens = {id(objective.masked(view, world(), 4, At())[1]) for view in views}
    return {n: p for n, p in objective.named_parameters() if p.requires_grad and id(p) not in tokens}
