"""The learning rate of each step: linear warm-up, then a cosine."""

from __future__ import annotations

import math

from slip.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int, warmup: int) -> float:
    """Return the learning rate of `step` (0-based) of `steps`, the first `warmup` of which rise linearly.

    As the reference: warm-up from `lr_start` that reaches `lr` on its last step, then a half cosine
    over the remaining steps towards `lr_end`.
    """
    if step < warmup:
        return config.lr_start + (config.lr - config.lr_start) * step / max(1, warmup - 1)
    share = (step - warmup) / max(1, steps - warmup)
    return config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + math.cos(math.pi * share))
