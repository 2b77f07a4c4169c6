"""Running estimates by record: two numbers for each record, from which a small batch knows the whole set's negatives.

Estimates are logarithms throughout, because exp((s_ij − s_ii) / τ) may be exp(200). A record that has not been seen, or
a row without negatives, has the estimate −inf.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from openslip.collectives import gather_rows, rank
from openslip.objectives.contrast import row_blocks
from openslip.objectives.objective import At

DECAY = 0.5
"""Share of the run in which γ falls, as the authors of FastCLIP recommend."""


def gamma_at(at: At, last: float, schedule: Literal["cosine", "constant"]) -> float:
    """Return γ, the share that a batch has in the estimates of its records, at a step.

    cosine: ½ (1 + cos(π t / E)) (1 − last) + last, from 1 to `last` in the first half of the run, then `last`
    (FastCLIP; Wei et al. 2024). There t is the epoch; here it is the step, so that γ moves in every step.
    """
    if schedule == "constant":
        return last
    share = min(1.0, at.step / (DECAY * max(at.steps, 1)))
    return 0.5 * (1 + math.cos(math.pi * share)) * (1 - last) + last


def moved(old: Tensor, now: Tensor, gamma: float) -> Tensor:
    """Return the logarithm of (1 − γ) u + γ g, of u = exp(`old`) and g = exp(`now`), of any equal shapes.

    For a record that is seen for the first time, the result is g; for a row without negatives, u.
    """
    if gamma < 1:
        both = torch.logaddexp(old + math.log1p(-gamma), now + math.log(gamma))
        both = both.where(old > -math.inf, now)
    else:
        both = now
    return both.where(now > -math.inf, old)


def averaged(now: Tensor, records: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return the batch's estimates as means over each record, and the records, of all processes: (M, 2) and (M,).

    now: (N, 2) logarithms of this process's rows. records: (N,) int64. If a batch has a record twice, all of its rows
    get their mean, equal to the last bit. block: rows that are compared with all others at a time.
    """
    first, count = rank() * len(now), len(now)
    every, all_records = gather_rows(now), gather_rows(records)
    means, leaders = [], []
    for part in row_blocks(count, block):
        same = all_records[first:][part, None] == all_records
        there = same[:, :, None] & (every > -math.inf)
        found = every.expand(there.shape).where(there, -math.inf).logsumexp(1)
        means.append(found - there.sum(1).clamp(min=1).to(now.dtype).log())
        leaders.append(same.int().argmax(1))  # of equal ones the first
    leader = gather_rows(torch.cat(leaders))
    return gather_rows(torch.cat(means))[leader], all_records
