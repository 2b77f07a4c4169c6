"""Losses that are not finite: how many in a row are too many."""

from __future__ import annotations

from collections.abc import Mapping

from slip.data.record import Batch
from slip.errors import TrainingError


def check_nonfinite(
    in_a_row: int, allowed: int, step: int, batch: Batch, values: Mapping[str, float]
) -> None:
    """Raise TrainingError when `allowed` steps in a row, up to this one, had a loss or gradient that was not finite."""
    if in_a_row >= allowed:
        numbers = ", ".join(f"{name} {value:g}" for name, value in values.items())
        keys = ", ".join(batch.keys[:8]) + (", …" if len(batch.keys) > 8 else "")
        raise TrainingError(
            f"The loss or its gradient was not finite in {in_a_row} steps in a row, the last one step {step}",
            got=f"{numbers}; records {keys}",
            fix="Lower --optimizer.lr, raise --optimizer.warmup-epochs, set --optimizer.clip-grad 1, "
            "or use --training.precision fp32",
        )
