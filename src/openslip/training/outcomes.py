"""The outcomes of a run's steps: losses, records that could not be used, steps without a finite loss.

A step's numbers stay where they were computed until `settle` reads them. Reading a number from a GPU makes everything
wait for it, and so does agreeing with other processes. No step depends on these numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openslip.config import Config
from openslip.data.data import Data
from openslip.data.record import Batch, Skipped, Tally
from openslip.errors import TrainingError
from openslip.processes import Processes
from openslip.training.precision import overflowed
from openslip.training.saving.counts import Counts, Window
from openslip.training.saving.run import RunFolder

SCALE = "scale"


class Outcome(NamedTuple):
    """One step, of this process. names, values: losses, the gradient's norm, the loss's scale, on the device."""

    step: int
    names: tuple[str, ...]
    values: Tensor
    keys: Sequence[str]
    tallies: Sequence[Tally]
    skipped: Sequence[Skipped]


class Outcomes:
    """The outcomes of all steps so far: settled ones as counts and means, the last few as they came.

    inform: prints a line for the user. All processes call `settle` at the same step.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        run: RunFolder,
        processes: Processes,
        scaler: torch.amp.GradScaler,
        inform: Callable[[str], None],
    ) -> None:
        self.config, self.data, self.run, self.processes = config, data, run, processes
        self.scaler, self.inform = scaler, inform
        self.records = Counts(data)
        self.window = Window()
        self.nonfinite, self.nonfinite_in_a_row, self.overflow = 0, 0, 0
        self._pending: list[Outcome] = []

    def restore(self, saved: Mapping[str, Any], step: int) -> None:
        """Continue from what a checkpoint of `step` keeps; steps that are not settled are forgotten."""
        counts = saved["counts"]
        self.nonfinite, self.overflow = int(counts["nonfinite"]), int(counts.get("overflow", 0))
        self.nonfinite_in_a_row = int(saved["nonfinite_in_a_row"])
        self.records = Counts(self.data, saved.get("records"), step)
        self.window = Window(
            {name: (float(total), int(steps)) for name, (total, steps) in saved["window"].items() if steps}
        )
        self._pending = []

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain JSON values that later steps do not change."""
        return {
            "counts": self.counts,
            "records": self.records.state,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "window": dict(self.window.sums),
        }

    @property
    def counts(self) -> dict[str, int]:
        """What went wrong so far, under the names of the metrics."""
        counts = {"skipped": self.records.total.skipped, "nonfinite": self.nonfinite}
        return counts | ({"overflow": self.overflow} if self.scaler.is_enabled() else {})

    def add(self, batch: Batch, step: int, losses: Mapping[str, Tensor], norm: Tensor, scale: Tensor) -> None:
        """Take note of step number `step`, from 1 on; nothing is read.

        norm: of the gradient. scale: what the loss was multiplied by.
        """
        values = torch.stack([*losses.values(), norm.to(losses["loss"].device), scale])
        names = (*losses, "grad_norm", SCALE)
        self._pending.append(Outcome(step, names, values, batch.keys, batch.tallies, batch.skipped))

    def settle(self) -> None:
        """Read the numbers of the steps since the last call, agree on them with the other processes, and count them.

        Raises TrainingError when too many steps in a row were not finite, or too many records could not be used.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        read = [outcome.values.tolist() for outcome in pending]
        counted = [
            [count for tally in outcome.tallies for count in vars(tally).values()] for outcome in pending
        ]
        means = iter(
            self.processes.mean([number for pair in zip(read, counted) for row in pair for number in row])
        )
        for outcome in pending:
            values = {name: next(means) for name in outcome.names}
            tallies = [
                Tally(*(round(next(means) * self.processes.world) for _ in vars(tally)))
                for tally in outcome.tallies
            ]
            self._count_records(outcome, tallies)
            self._count_losses(outcome, values)

    def _count_records(self, outcome: Outcome, tallies: list[Tally]) -> None:
        """Count the whole batch's records by what became of them, and list those that the processes could not use."""
        self.records.add(tallies)
        for warning in self.records.warnings():
            self.inform(f"warning: {warning}")
        if not any(tally.skipped for tally in tallies):
            return
        everyones = self.processes.all_gather(
            json.dumps([asdict(skipped) for skipped in outcome.skipped]).encode()
        )
        found = [Skipped(**skipped) for payload in everyones for skipped in json.loads(payload)]
        if self.processes.first:
            self.run.append_skipped(outcome.step, found)
        self.records.judge(self.config.data.max_skipped, found[-1], self.run.skipped)

    def _count_losses(self, outcome: Outcome, values: dict[str, float]) -> None:
        """Add a step's values to the window, or count that the step was not taken."""
        loss, norm, scale = values["loss"], values["grad_norm"], values.pop(SCALE)
        if math.isfinite(loss) and math.isfinite(norm):
            self.nonfinite_in_a_row = 0
            self.window.add(values)
        elif self.scaler.is_enabled() and overflowed(scale, loss, norm):
            self.overflow += 1
        else:
            self.nonfinite += 1
            self.nonfinite_in_a_row += 1
            if self.nonfinite_in_a_row >= self.config.training.max_nonfinite:
                raise _not_finite(self.nonfinite_in_a_row, outcome, values)


def _not_finite(in_a_row: int, outcome: Outcome, values: Mapping[str, float]) -> TrainingError:
    numbers = ", ".join(f"{name} {value:g}" for name, value in values.items())
    keys = ", ".join(outcome.keys[:8]) + (", …" if len(outcome.keys) > 8 else "")
    return TrainingError(
        f"The loss or its gradient was not finite in {in_a_row} steps in a row, the last of them step {outcome.step}",
        got=f"{numbers}; records {keys}",
        fix="Lower --optimizer.lr, raise --optimizer.warmup-epochs, set --optimizer.clip-grad 1, "
        "or use --training.precision fp32",
    )
