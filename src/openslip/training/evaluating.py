"""When a run is measured while it trains, and what becomes of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from openslip.encoder import Encoder
from openslip.errors import ProcessError, did_you_mean
from openslip.evaluation import Result
from openslip.evaluation.results import keep
from openslip.evaluation.suite import Suite
from openslip.files import write_json
from openslip.models import Model, build
from openslip.models.lora import is_adapted
from openslip.training import asked
from openslip.training.saving import checkpoint
from openslip.training.signals import Stopped, StopSignal
from openslip.training.state import State

Evaluate = Callable[[Encoder], Iterable[Any]]
"""Takes the model in evaluation mode and returns results (see `openslip.evaluation.Result`)."""


class Evaluations:
    """The evaluations of a run by `evaluate`, if given: due at the configured cadence, and at the end.

    evaluate: a function is called on the first process. An `openslip.evaluation.suite.Suite` measures each of its
    tasks at the task's own cadence, and all processes share the work. log: takes a line of metrics.
    """

    def __init__(
        self,
        state: State,
        evaluate: Evaluate | None,
        stop: StopSignal,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self.state, self.evaluate, self.stop, self.log = state, evaluate, stop, log

    def due(self) -> bool:
        """Whether anything is to be measured at this step and has not been. The last step is never due here."""
        return bool(self._due())

    def _due(self) -> list[int]:
        """Return the numbers of the tasks that are due at this step; a function is task 0."""
        state = self.state
        if self.evaluate is None or state.step in (0, state.plan.steps, state.measured_at):
            return []
        usual = state.plan.config.evaluation.every_epochs
        cadences = self.evaluate.every if isinstance(self.evaluate, Suite) else [None]
        steps = [(usual if every is None else every) * state.plan.steps_per_epoch for every in cadences]
        return [
            task
            for task, every in enumerate(steps)
            if every > 0 and int(state.step / every) > int((state.step - 1) / every)
        ]

    def run(self) -> None:
        """Measure the model, whose state has been saved, and save once more, with the scores.

        Raises Stopped, on all processes, if one is asked to stop meanwhile. A run that resumes from this state then
        measures it.
        """
        state, evaluate = self.state, self.evaluate
        if isinstance(evaluate, Suite) and state.step != state.plan.steps:
            evaluate = evaluate.only(self._due())
        state.writer.catch_up()  # a failure while measuring must not cost the weights
        shared = evaluate if isinstance(evaluate, Suite) and state.processes.world > 1 else None
        weights, stopped = state.parallel.whole_weights(everywhere=shared is not None), False
        failed: ProcessError | None = None
        try:
            if shared is not None:
                encoder = Encoder(self._plain_model(weights), state.plan.config).eval()
                found = shared(encoder, ranks=state.processes, interrupts=self.stop.interrupts)
                if state.processes.first:
                    self._take(found)
            else:
                with state.processes.together():
                    if state.processes.first and evaluate is not None:
                        with self.stop.interrupts():
                            # In evaluation mode, as its threads encode at once; the next step turns it off again.
                            encoder = Encoder(self._plain_model(weights), state.plan.config).eval()
                            self._take(evaluate(encoder))
        except Stopped:
            stopped = True
        except ProcessError as error:  # perhaps because another process is asked to stop
            if shared is None:
                raise
            failed = error
        (stopped,) = state.processes.any(stopped)
        if stopped:
            raise Stopped
        if failed is not None:
            raise failed
        state.measured_at = state.step
        state.save()

    def _take(self, returned: Any) -> None:
        """Take over what was measured, on the first process."""
        state, results = self.state, asked.results_of(returned)
        partly = isinstance(self.evaluate, Suite) and state.step != state.plan.steps
        state.measure(results, partly=partly)
        best = state.plan.config.evaluation.best
        if best and best not in state.scores and not partly:
            state.inform(
                f"warning: no checkpoint is kept as the best: no result is named {best}. "
                f"{did_you_mean(best, state.scores)}"
            )
        self.log({"evaluation": state.scores})
        if state.step == state.plan.steps:
            self._keep(results)

    def _keep(self, results: Sequence[Any]) -> None:
        """Write the results of the last checkpoint, beside what `slip evaluate` has measured of other checkpoints."""
        run = self.state.run
        path = run.path / "results.json"
        if all(isinstance(result, Result) for result in results):
            name = checkpoint.path_of(run.checkpoints, self.state.step).name
            keep([replace(result, checkpoint=result.checkpoint or name) for result in results], path)
        else:
            write_json(path, [result.to_dict() for result in results])

    def _plain_model(self, weights: dict[str, Tensor]) -> Model:
        """Return a model to measure that needs no other process; empty `weights`, to make room."""
        state, plan = self.state, self.state.plan
        model = state.parallel.student.model
        if state.processes.world == 1 and not is_adapted(model):
            return model
        model = build(plan.config.model, plan.config.views.size, plan.loss.needs)
        model.load_state_dict(weights)
        weights.clear()
        return model.to(plan.device)
