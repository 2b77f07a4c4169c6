"""The arithmetic that contrastive losses share: softmax over similarities, never held whole.

The matrix of logits between N queries and M keys is computed a block of rows at a time, reduced to what the
losses need, dropped, and computed again in backward. Memory grows with block · M instead of N · M; loss and
gradient are those of the whole matrix.

Queries and keys may differ in number, and each query names its own positive. So a process can hold its own
rows of a matrix whose keys come from all processes.

Shape suffixes: N queries, M keys, B rows of a block, D dimensions.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.collectives import gather_rows


class Contrast(NamedTuple):
    """The reductions of a matrix of logits that contrastive losses are made of."""

    rows: Tensor
    """(N,) logsumexp of each query's logits over the keys."""
    columns: Tensor | None
    """(M,) logsumexp of each key's logits over the queries, where asked for."""
    positives: Tensor
    """(N,) logit of each query with its positive; with several, the mean of these logits."""
    hits: Tensor
    """(N,) bool, whether the query's largest logit is of a positive (of equal logits the first counts)."""


def unit(embeddings: Tensor) -> Tensor:
    """Return the embeddings at length 1, in fp32 or better, with or without autocast; zero vectors stay zero."""
    kind = embeddings.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def contrast(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    positive: Tensor,
    *,
    excluded: Tensor | None = None,
    groups: Tensor | None = None,
    columns: bool = False,
    block: int = 1024,
) -> Contrast:
    """Reduce the logits `scale · queries @ keys.T` by rows and, if asked, by columns, in one pass.

    The InfoNCE loss of the queries is `(rows - positives).mean()` (van den Oord et al. 2018, eq. 4); the loss of
    the keys uses `columns` in the same way. Both differences are never negative, even with rounding.

    With `groups`, all keys of the group of a query's positive are its positives, and `(rows - positives).mean()` is the
    cross-entropy with a target that is uniform over them (Khosla et al. 2020, eq. 2; Yang et al. 2022).

    Args:
        queries: (N, D) embeddings, fp32 or fp64, usually of length 1.
        keys: (M, D) embeddings of the same dtype; may be the queries themselves.
        scale: inverse temperature; a tensor of one element receives its gradient.
        positive: (N,) int64, the column of each query's positive.
        excluded: (N,) int64, one column a query that takes no part (the query itself, in SimCLR).
        groups: (M,) int64, the group of each key. Not together with `excluded`.
        columns: also reduce over the queries, by a running logsumexp.
        block: rows held at a time; 0 holds them all.

    Differentiable once, in `queries`, `keys` and `scale`, through rows, columns and positives.
    Needs memory for about two blocks of block · M numbers.
    """
    if not isinstance(scale, Tensor):
        scale = queries.new_tensor(scale)
    # In the embeddings' precision, so that the saved scale is the one the logits were made with.
    scale = scale.to(queries.dtype).reshape(())
    if groups is not None and excluded is not None:
        raise ValueError("A contrast has groups of positives or excluded columns, not both")
    return Contrast(*_BlockedLogits.apply(queries, keys, scale, positive, excluded, groups, columns, block))


class _BlockedLogits(torch.autograd.Function):
    """Row-blocked reductions with recomputation in backward.

    With z the logits, p = softmax over a row and q = softmax over a column, the gradient of the reductions is
    dz_ij = g_rows_i · p_ij + g_columns_j · q_ij + g_positives_i · [j is i's positive], the last one divided by the
    number of i's positives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries_ND: Tensor,
        keys_MD: Tensor,
        scale: Tensor,
        positive_N: Tensor,
        excluded_N: Tensor | None,
        groups_M: Tensor | None,
        columns: bool,
        block: int,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        rows_N, positives_N = queries_ND.new_empty(2, len(queries_ND)).unbind()
        hits_N = torch.empty_like(positive_N, dtype=torch.bool)
        columns_M = queries_ND.new_full((len(keys_MD),), -math.inf) if columns else None
        with torch.autocast(queries_ND.device.type, enabled=False):
            for part in row_blocks(len(queries_ND), block):
                target_B1 = positive_N[part, None]
                logits_BM = _logits(queries_ND[part], keys_MD, scale, excluded_N, part)
                best_B = logits_BM.argmax(1)
                if groups_M is None:
                    hits_N[part] = best_B == target_B1[:, 0]
                    positives_N[part] = logits_BM.gather(1, target_B1)[:, 0]
                else:
                    alike_BM = _alike(groups_M, target_B1)
                    hits_N[part] = alike_BM.gather(1, best_B[:, None])[:, 0]
                    positives_N[part] = logits_BM.where(alike_BM, 0).sum(1) / alike_BM.sum(1)
                rows_N[part] = logits_BM.logsumexp(1)
                if columns_M is not None:
                    columns_M = torch.logaddexp(columns_M, logits_BM.logsumexp(0))
        ctx.save_for_backward(queries_ND, keys_MD, scale, positive_N, excluded_N, groups_M, rows_N, columns_M)
        ctx.block = block
        ctx.mark_non_differentiable(hits_N)
        ctx.set_materialize_grads(False)
        return rows_N, columns_M, positives_N, hits_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "contrast is differentiable once: its backward cannot run with create_graph=True"
            )
        queries_ND, keys_MD, scale, positive_N, excluded_N, groups_M, rows_N, columns_M = ctx.saved_tensors
        g_rows_N, g_columns_M, g_positives_N, _ = grad_outputs
        for_queries, for_keys, for_scale = ctx.needs_input_grad[:3]
        # The logsumexp of no logits at all is -inf, which must not meet another -inf in a difference.
        floor = torch.finfo(queries_ND.dtype).min
        rows_N = rows_N.clamp(min=floor)
        # Both without the scale, which is multiplied in once at the end.
        g_queries_ND, g_keys_MD = torch.empty_like(queries_ND), torch.zeros_like(keys_MD)
        with torch.autocast(queries_ND.device.type, enabled=False):
            for part in row_blocks(len(queries_ND), ctx.block):
                logits_BM = _logits(queries_ND[part], keys_MD, scale, excluded_N, part)
                g_BM = None
                if g_columns_M is not None:
                    g_BM = logits_BM.sub(columns_M.clamp(min=floor)).exp_().mul_(g_columns_M)
                if g_rows_N is not None:
                    p_BM = logits_BM.sub_(rows_N[part, None]).exp_().mul_(g_rows_N[part, None])
                    g_BM = p_BM if g_BM is None else g_BM.add_(p_BM)
                if g_BM is None:
                    g_BM = logits_BM.zero_()
                if g_positives_N is not None and groups_M is None:
                    g_BM.scatter_add_(1, positive_N[part, None], g_positives_N[part, None])
                elif g_positives_N is not None:
                    alike_BM = _alike(groups_M, positive_N[part, None])
                    g_BM.add_(alike_BM * (g_positives_N[part] / alike_BM.sum(1))[:, None])
                torch.mm(g_BM, keys_MD, out=g_queries_ND[part])
                if for_keys:
                    g_keys_MD.addmm_(g_BM.T, queries_ND[part])
            # d/d scale of Σ dz·z, without another pass: Σ_ij dz_ij · (query_i · key_j).
            g_scale = (g_queries_ND * queries_ND).sum() if for_scale else None
            g_queries = g_queries_ND.mul_(scale) if for_queries else None
            g_keys = g_keys_MD.mul_(scale) if for_keys else None
        return g_queries, g_keys, g_scale, None, None, None, None, None


def groups_of(labels: Tensor) -> Tensor:
    """Return a group for each row of the batch of all processes, (M,) int64, from the labels (N,) of this process.

    Rows with the same label are a group; a row with the label -1 is a group by itself.
    """
    everyones = gather_rows(labels)
    alone = -1 - torch.arange(len(everyones), device=everyones.device)
    return torch.where(everyones < 0, alone, everyones)


def row_blocks(length: int, block: int) -> list[slice]:
    """Return the blocks of `block` rows; with 0, a single block."""
    step = block or max(length, 1)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _alike(groups_M: Tensor, positive_B1: Tensor) -> Tensor:
    """Return which keys are in the group of each query's positive, (B, M) bool."""
    return groups_M == groups_M[positive_B1]


def _logits(
    queries_BD: Tensor, keys_MD: Tensor, scale: Tensor, excluded_N: Tensor | None, part: slice
) -> Tensor:
    """Return one block of logits, with the same bits in forward and backward."""
    logits_BM = (queries_BD * scale) @ keys_MD.T
    if excluded_N is not None:
        logits_BM.scatter_(1, excluded_N[part, None], -math.inf)
    return logits_BM
