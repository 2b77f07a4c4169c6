"""Contrast of a batch's images with its texts, where some pairs besides the match are no negatives.

A relation is a number for every row of the batch of all processes: rows with the same number belong together. With
several relations, an image and a text belong together if any relation joins them. The similarities are computed a block
of images at a time, and again in backward, so memory grows with block · M.

Shape suffixes: N pairs of this process, M of all processes, B images of a block, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openslip.collectives import gather_rows, rank
from openslip.objectives.contrast import row_blocks


class Related(NamedTuple):
    """The reductions of the logits for this process's pairs. Row 0 of (2, N) is for images, over the texts; row 1 is
    for texts, over the images."""

    softmax: Tensor
    """(2, N) logsumexp over the softmax's columns; the least finite number if there are none."""
    positives: Tensor
    """(2, N) mean logit with the positives."""
    means: Tensor | None
    """(2, N) mean logit with all that is not ignored, if asked for."""
    negatives: Tensor
    """(N,) int64, how many are neither positive nor ignored; an image and its text have equally many."""
    hits: Tensor
    """(N,) bool, whether an image's largest logit that is not ignored is of a positive."""


def related(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    positive: Sequence[Tensor] = (),
    ignored: Sequence[Tensor] = (),
    *,
    negatives_alone: bool = False,
    means: bool = False,
    block: int = 1024,
) -> Related:
    """Reduce the logits scale · image · text of all processes' pairs for those of this process.

    Args:
        image, text: (N, D) embeddings of length 1; row n of one is the match of row n of the other.
        scale: the inverse temperature, a scalar tensor.
        positive: relations (M,) by which pairs are positives. The match always is a positive.
        ignored: relations (M,) by which pairs count for nothing, unless they are positives.
        negatives_alone: whether positives are left out of the softmax.
        means: whether `Related.means` are wanted.
        block: images held at a time; 0 holds them all.
    """
    texts = gather_rows(text)
    first, scale = rank() * len(image), scale.to(image.dtype)
    every = [torch.arange(len(texts), device=image.device), *positive]
    parts = []
    for rows in row_blocks(len(image), block):
        own = slice(first + rows.start, first + rows.stop)
        alike, apart = ([(kind[own], kind) for kind in kinds] for kinds in (every, ignored))
        # Neither the block's logits nor anything of their size waits for the backward pass.
        part = checkpoint(
            _of_block, image[rows], texts, scale, alike, apart, negatives_alone, means,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        parts.append(part)
    rows, columns, counts, hits = (
        torch.cat([part.rows for part in parts], 1),
        torch.stack([part.columns for part in parts]),
        torch.cat([part.counts for part in parts], 1),
        torch.cat([part.hits for part in parts]),
    )
    # Every process has reduced each text's logits over its own images.
    columns = gather_rows(_merged(columns)[None])
    columns = _merged(columns)[:, first : first + len(image)]
    # An image and its text have equally many positives and negatives, because relations are symmetric.
    softmax, positives, *both = torch.stack([rows, columns], 1).unbind()
    positive_count, kept_count = counts
    return Related(
        softmax,
        positives / positive_count,
        both[0] / kept_count if means else None,
        kept_count - positive_count,
        hits,
    )


class _Block(NamedTuple):
    """Reductions of a block: logsumexp, sum over positives, and where asked for sum over all that is not ignored."""

    rows: Tensor
    """(2 or 3, B)"""
    columns: Tensor
    """(2 or 3, M)"""
    counts: Tensor
    """(2, B) int64, of each image's positives, and of what is not ignored."""
    hits: Tensor
    """(B,) bool"""


def _of_block(
    image_BD: Tensor,
    texts_MD: Tensor,
    scale: Tensor,
    alike: Sequence[tuple[Tensor, Tensor]],
    apart: Sequence[tuple[Tensor, Tensor]],
    negatives_alone: bool,
    means: bool,
) -> _Block:
    """alike, apart: the positive and the ignored relations, of the block's images (B,) and of all texts (M,)."""
    logits_BM = (image_BD * scale) @ texts_MD.T
    positive_BM = any_of(alike)
    kept_BM = positive_BM | ~any_of(apart) if apart else torch.ones_like(positive_BM)
    counted_BM = kept_BM & ~positive_BM if negatives_alone else kept_BM
    # The share of the least number is zero; of nothing but -inf there would be no gradient.
    least = torch.finfo(logits_BM.dtype).min
    softmax_BM = logits_BM.where(counted_BM, least)
    sums = [logits_BM.where(positive_BM, 0)]
    sums += [logits_BM.where(kept_BM, 0)] if means else []
    best_B1 = logits_BM.detach().where(kept_BM, least).argmax(1, keepdim=True)
    return _Block(
        torch.stack([softmax_BM.logsumexp(1), *(sum_BM.sum(1) for sum_BM in sums)]),
        torch.stack([softmax_BM.logsumexp(0), *(sum_BM.sum(0) for sum_BM in sums)]),
        torch.stack([positive_BM.sum(1), kept_BM.sum(1)]),
        positive_BM.gather(1, best_B1)[:, 0],
    )


def any_of(relations: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return which of some rows (B,) belong together with which of all rows (M,) by any relation: (B, M) bool."""
    return functools.reduce(torch.logical_or, [own[:, None] == every for own, every in relations])


def _merged(columns: Tensor) -> Tensor:
    """Return the columns' reductions (2 or 3, M) over all images from those over some of them (parts, 2 or 3, M)."""
    return torch.cat([columns[:, :1].logsumexp(0), columns[:, 1:].sum(0)])


def packed(ids: Tensor, bits: int) -> Tensor:
    """Return token ids (…, L) of `bits` bits packed into as few int64 columns as possible: (…, K), one to one."""
    each = 64 // bits
    ids = F.pad(ids, (0, -ids.shape[-1] % each)).unflatten(-1, (-1, each))
    return (ids << torch.arange(0, each * bits, bits, device=ids.device)).sum(-1)


def numbered(rows: Tensor) -> Tensor:
    """Return a number for each of the rows (M, K) of integers, (M,) int64: equal numbers for equal rows only.

    It does what `torch.unique` does, without waiting for the device, and also on devices without `torch.unique`.
    """
    order = torch.arange(len(rows), device=rows.device)
    # The first column decides, then the next: hence sorted by the last one first.
    for column in reversed(rows.unbind(1)):
        order = order[column[order].argsort(stable=True)]
    ordered = rows[order]
    first = torch.ones(len(rows), dtype=torch.long, device=rows.device)
    first[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return torch.empty_like(order).index_copy_(0, order, first.cumsum(0))
