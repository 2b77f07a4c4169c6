"""The state of a run: all that its next step depends on, how a checkpoint keeps it, and how it is restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openslip.collectives import add_up
from openslip.data.data import Data
from openslip.errors import CheckpointError
from openslip.evaluation import Result, measure
from openslip.evaluation.distinct import keys
from openslip.models.vision import with_known_name
from openslip.objectives import At
from openslip.processes import Processes
from openslip.training.budget import parse_budget
from openslip.training.optimizer import build_optimizer, rate_factors, set_learning_rates, step_where
from openslip.training.outcomes import Outcomes
from openslip.training.parallel import Parallel
from openslip.training.plan import Plan
from openslip.training.precision import loss_scaler
from openslip.training.saving import checkpoint
from openslip.training.saving.metadata import describe
from openslip.training.saving.run import RunFolder
from openslip.training.saving.tensors import Snapshot
from openslip.training.saving.writer import BackgroundWriter
from openslip.training.step import gradient_norm
from openslip.training.student import stored_parameters


class State:
    """The state from which a run continues to the same weights; all processes call `save` and `restore` together.

    data: what the run trains on. inform: prints a line for the user. fresh: names, as in checkpoints, of the parameters
    that are missing in the weights that the run starts from; none if it starts from random weights.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        data: Data,
        parallel: Parallel,
        processes: Processes,
        inform: Callable[[str], None],
        fresh: Collection[str] = (),
    ) -> None:
        self.plan, self.run, self.data, self.inform = plan, run, data, inform
        self.parallel, self.processes = parallel, processes
        student, config = parallel.student, plan.config.optimizer
        factors = rate_factors(student.model, config)
        self.optimizer = build_optimizer(stored_parameters(student), config, factors, fresh)
        self.rates: dict[str, float] = {}
        """The learning rates of the last step, as the log has them."""
        self.scaler = loss_scaler(plan.device, plan.dtype)
        self.step = 0
        self.scores: dict[str, float] = {}
        self.measured: dict[str, str] = {}
        self.score_of = ""
        self.measured_at = -1
        self.outcomes = Outcomes(plan.config, data, run, processes, self.scaler, inform)
        self.saved_at, self.saved_step = time.monotonic(), 0
        self.timed = parse_budget(plan.config.training.budget).seconds > 0
        self.spent = 0.0
        """Seconds that the steps have taken, including the steps that were timed for a budget."""
        self.writer = BackgroundWriter(run.checkpoints, processes, self._warn)

    @property
    def position(self) -> int:
        """How many samples of the data's stream the run has seen."""
        return self.step * self.plan.config.training.batch

    @property
    def saved(self) -> bool:
        """Whether the last step is in a checkpoint, or on its way into one; true before the first step."""
        return self.step == self.saved_step

    def optimise(self, loss: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """Take the optimiser's step, unless the loss or its gradient is not finite.

        Return the gradient's norm, and the factor that the loss was scaled by: scalars on the device.

        The device decides, and all processes decide alike: if the loss is not finite on one, no process takes the step.
        """
        plan, student, config = self.plan, self.parallel.student, self.plan.config.optimizer
        self.rates = set_learning_rates(
            self.optimizer, config, self.step, plan.steps, plan.warmup, plan.fresh
        )
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(student, config.clip_grad)
        taken = add_up(loss).isfinite() & norm.to(loss.device).isfinite()
        step_where(self.optimizer, taken)
        student.after_step(at, taken)
        scale = self.scaler.scale(torch.ones_like(loss))
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, scale

    def restore(self) -> None:
        """Go to the newest good checkpoint, if there is one. All processes read it, from a folder that they share.

        Raises CheckpointError if there are checkpoints and none is good, or if this version cannot continue from it.
        """
        folder = self.run.checkpoints
        found = None
        with self.processes.together():  # checksums of large files
            if self.processes.first:
                found = checkpoint.newest_good(folder, self._warn)
        newest = self.processes.from_first(-1 if found is None else checkpoint.step_of(found))
        if newest >= 0:
            path = checkpoint.path_of(folder, newest)
            if not path.exists():
                raise CheckpointError(
                    "The checkpoint that the first process has found is not there for this process",
                    got=str(path),
                    fix="The run folder must be one that all machines share",
                )
            try:
                self._put_back(checkpoint.read_state(path))
                self.parallel.load(self.optimizer, path)
            except (
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
                ArithmeticError,
                RuntimeError,
            ) as error:
                lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise CheckpointError(
                    "The run cannot go on from its newest checkpoint",
                    got=str(path),
                    cause=f"Another version of openslip may have written it: {lacks}",
                    fix="Continue it with that version (the run's versions.json names it), or start a new run",
                ) from None
        self.saved_step = self.step
        if self.scores and not self.measured and self.step < self.plan.steps:
            self.inform(
                "warning: an earlier version measured this run, and did not note what the scores of the checkpoints "
                "measure. They are not compared with later scores; the best checkpoint by them is kept"
            )
        if self.processes.first:
            if newest < 0:
                self.run.warn_no_checkpoint()
            self.run.rewind(self.step, measured=self.measured_at == self.step)

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        """Take over a checkpoint's values, each converted to its type. Raises what a wrong value causes."""
        self.step, self.measured_at = int(saved["step"]), int(saved.get("measured_at", -1))
        self.scores = {str(name): float(score) for name, score in saved["scores"].items()}
        self.measured = {str(name): str(what) for name, what in saved.get("measured", {}).items()}
        self.score_of = str(saved.get("score_of", ""))
        self.spent = float(saved.get("spent", 0))
        self.outcomes.restore(saved, self.step)
        self.scaler.load_state_dict(saved.get("scaler", {}))
        steps = saved.get("steps")
        if self.step > (int(steps) if steps else self.plan.steps):
            raise ValueError(f"step {self.step:,} lies beyond the run's last step")
        if self.plan.seconds and steps:
            self.plan = self.plan.of_steps(int(steps))

    def save(self) -> None:
        """Write a checkpoint of the present state in the background: tensors are copied and numbers encoded at once."""
        folder, step, config = self.run.checkpoints, self.step, self.plan.config
        self.outcomes.settle()
        saved, outcomes = self.to_dict(), self.outcomes
        write_counts = partial(
            self.run.write_counts,
            outcomes.records.to_dict(step, outcomes.nonfinite, config.training.batch),
        )

        def commit(checksums: Mapping[str, str]) -> None:
            checkpoint.commit(folder, step, saved, checksums)
            for tidy in (partial(checkpoint.prune, folder, config.checkpoint.keep), write_counts):
                try:
                    tidy()
                except CheckpointError as error:  # the checkpoint itself is there
                    self._warn(error)

        tower = self.parallel.student.model.image_tower

        def take() -> Snapshot:
            return replace(
                self.parallel.snapshot(self.optimizer), metadata=describe(with_known_name(config, tower))
            )

        self.writer.start(step, take, commit)
        self.saved_at, self.saved_step = time.monotonic(), step

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps besides tensors: plain JSON values that later steps do not change."""
        score_name = self.score_name
        return {
            "position": self.position,
            "steps": None if self.plan.seconds else self.plan.steps,
            **self.outcomes.to_dict(),
            "scaler": self.scaler.state_dict(),
            "measured_at": self.measured_at,
            "scores": dict(self.scores),
            "measured": dict(self.measured),
            "score": self.scores.get(score_name) if self.measured_at == self.step else None,
            "score_of": self.measured.get(score_name, ""),
            # Times are in no other state, so that a resumed run's state equals an uninterrupted run's.
            **({"spent": round(self.spent, 3)} if self.timed else {}),
        }

    @property
    def score_name(self) -> str:
        """The metric that picks the best checkpoint."""
        first = (name for name in self.measured if measure(name).better == "higher")
        return self.plan.config.evaluation.best or next(first, "")

    def measure(self, results: Sequence[Any], *, partly: bool = False) -> None:
        """Take over what was measured at this step: the numbers by name, and what exactly each number measures.

        partly: some tasks come at other steps. Prints a line if another measurement has picked the best checkpoint
        until now.
        """
        names = _names(results)
        self.scores = {name: result.value for name, result in zip(names, results)}
        measured = {name: what_was_measured(result) for name, result in zip(names, results)}
        # In the order in which they were first measured: the first one picks the best checkpoint.
        kept = {name: what for name, what in self.measured.items() if partly or name in measured}
        self.measured = kept | measured
        before, now = self.score_of, self.measured.get(self.score_name, "")
        if before and now and before != now:
            apart = (
                ""
                if before in self.measured.values()
                else ". The two are not compared; the best checkpoint by each is kept"
            )
            self.inform(f"the best checkpoint is picked by {now} from here on; until now by {before}{apart}")
        self.score_of = now

    def _warn(self, error: CheckpointError) -> None:
        self.inform(f"warning: {error}")


def _names(results: Sequence[Any]) -> list[str]:
    """Return the names under which results are logged; different measurements have different names."""
    if all(isinstance(result, Result) for result in results):
        return keys(results)
    return [f"{result.task}/{result.metric}" for result in results]


def what_was_measured(result: Any) -> str:
    """Return text that tells a measurement from others of its name: the metric, the data, and the settings."""
    facts = (getattr(result, name, "") for name in ("data", "split", "prompts", "settings", "content"))
    count = getattr(result, "count", 0) + getattr(result, "skipped", 0)
    return "; ".join([f"{result.task}/{result.metric}", *filter(None, facts), f"{count:,} samples"])
