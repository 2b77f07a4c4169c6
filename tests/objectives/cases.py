"""An objective of any name at small size, and random features of all that it needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from openslip.needs import TEXT, Need
from openslip.objectives import Dims, Objective
from openslip.training.teacher import Teacher
from toys import small_loss

FIXED = Dims(width=14, text_width=6, embed_dim=8)
DIMS = Dims(
    width=12,
    text_width=10,
    embed_dim=8,
    context=9,
    vocabulary=50_000,
    special=(0, 49_998, 49_999),
    fixed=FIXED,
)


def make(
    name: str, *, dims: Dims = DIMS, seed: int = 0, dtype: torch.dtype = torch.float64, **options: object
) -> Objective:
    """Return the objective of that name, in training, with its teacher's heads where it has some."""
    (term,) = small_loss(name, **options).terms
    torch.manual_seed(seed)
    objective = term.kind(term.config, dims)
    if any(need.by == "teacher" for need in objective.needs_for(objective.config)):
        objective.teacher = Teacher({head: getattr(objective, head) for head in objective.teacher_heads})
    return objective.to(dtype).train()


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
        sizes = dims.fixed if need.by == "fixed" and dims.fixed else dims
        if need.out == "logit_scale":
            feature = torch.tensor(1 / 0.07, dtype=dtype)
        elif need.out == "ids":
            feature = captions(rows, dims, generator, equal=equal)
        elif need.out == "labels":
            feature = torch.arange(rows) % 7 % 4 - 1
        elif need.out == "embedding":
            feature = random(rows, sizes.embed_dim)
        elif need.out == "tokens":
            feature = random(rows, 4, sizes.width)
        else:
            feature = random(rows, sizes.text_width if need.view == TEXT else sizes.width)
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
    """Return the parameters that the optimiser moves, by name."""
    return {name: p for name, p in objective.named_parameters() if p.requires_grad}
