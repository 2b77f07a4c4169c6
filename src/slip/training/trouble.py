"""What may go wrong in a run without ending it, and when it is too much."""

from __future__ import annotations

from collections.abc import Mapping

from slip.data.record import Batch
from slip.errors import TrainingError
from slip.training.run import RunFolder

MIN_READ_BEFORE_JUDGING = 200
"""Records read before the share of unusable ones may stop a run."""


def check_skipped(skipped: int, batch: Batch, allowed: float, run: RunFolder) -> None:
    """Raise TrainingError when more than the share `allowed` of the records read by `batch` and before was unusable."""
    if batch.skipped and skipped > allowed * batch.read and batch.read >= MIN_READ_BEFORE_JUDGING:
        example = batch.skipped[-1]
        raise TrainingError(
            f"{skipped / batch.read:.1%} of the records read could not be used, more than the {allowed:.1%} allowed",
            got=f"{skipped} of {batch.read}, for example {example.key}: {example.reason}",
            fix=f"See {run.path / 'skipped.jsonl'}; repair the data, or allow more with --data.max-skipped",
        )


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


def record_count(read: int, skipped: int, run: RunFolder) -> str:
    """Return in words what became of the records that a run went through."""
    if not skipped:
        return f"{read:,} records read, all usable"
    listed = run.path / "skipped.jsonl"
    return f"{read:,} records read: {read - skipped:,} used, {skipped:,} skipped, listed in {listed}"
