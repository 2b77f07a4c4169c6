"""When a run is measured while it trains, and what becomes of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from openslip.encoder import Encoder
from openslip.errors import did_you_mean
from openslip.evaluation import Result
from openslip.evaluation.results import keep
from openslip.files import write_json
from openslip.models import Model, build
from openslip.models.lora import is_adapted
from openslip.training import asked
from openslip.training.saving import checkpoint
from openslip.training.signals import Stopped, StopSignal
from openslip.training.state import State

Evaluate = Callable[[Encoder], Sequence[Any]]
"""Takes the model in evaluation mode and returns results (see `openslip.evaluation.Result`)."""


class Evaluations:
    """The evaluations of a run by `evaluate`, if there is any: due at the configured cadence, and at the end.

    log: takes a line of metrics.
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
        """Whether this step, not the last one, is to be measured and has not been."""
        state = self.state
        every = state.plan.config.evaluation.every_epochs * state.plan.steps_per_epoch
        if self.evaluate is None or every <= 0 or state.step in (0, state.plan.steps, state.measured_at):
            return False
        return int(state.step / every) > int((state.step - 1) / every)

    def run(self) -> None:
        """Measure the model, whose state has been saved, and save once more, with the scores.

        Raises Stopped, on all processes, where one is asked to stop meanwhile: a run that goes on from this state
        measures it.
        """
        state = self.state
        state.writer.catch_up()  # whatever happens while it is measured must not cost the weights
        weights, stopped = state.parallel.whole_weights(), False
        with state.processes.together():
            if state.processes.first:
                try:
                    with self.stop.interrupts():
                        self._measure(Encoder(self._plain_model(weights), state.plan.config))
                except Stopped:
                    stopped = True
        (stopped,) = state.processes.any(stopped)
        if stopped:
            raise Stopped
        state.measured_at = state.step
        state.save()

    def _measure(self, encoder: Encoder) -> None:
        state, evaluate = self.state, self.evaluate
        if evaluate is None:
            return
        # For all of the evaluation, whose threads encode at once; the next step turns training mode on again.
        results = asked.results_of(evaluate(encoder.eval()))
        state.measure(results)
        best = state.plan.config.evaluation.best
        if best and best not in state.scores:
            state.inform(
                f"warning: no checkpoint is kept as the best: there is no {best}. {did_you_mean(best, state.scores)}"
            )
        self.log({"evaluation": state.scores})
        if state.step == state.plan.steps:
            self._keep(results)

    def _keep(self, results: Sequence[Any]) -> None:
        """Write the run's results: as of its last checkpoint, beside what `slip evaluate` has measured of others."""
        run = self.state.run
        path = run.path / "results.json"
        if all(isinstance(result, Result) for result in results):
            name = checkpoint.path_of(run.checkpoints, self.state.step).name
            keep([replace(result, checkpoint=result.checkpoint or name) for result in results], path)
        else:
            write_json(path, [result.to_dict() for result in results])

    def _plain_model(self, weights: dict[str, Tensor]) -> Model:
        """Return a model to measure that asks nothing of other processes, and empty `weights`, to make room."""
        state, plan = self.state, self.state.plan
        model = state.parallel.student.model
        if state.processes.world == 1 and not is_adapted(model):
            return model
        model = build(plan.config.model, plan.config.views.size, plan.loss.needs)
        model.load_state_dict(weights)
        weights.clear()
        return model.to(plan.device)
