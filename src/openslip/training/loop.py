"""The training loop, top to bottom."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor

from openslip import progress
from openslip.config import Config
from openslip.data.data import Data
from openslip.data.decode import check_decoder
from openslip.data.identity import Identity
from openslip.data.record import Source
from openslip.encoder import Encoder
from openslip.errors import ConfigError, TrainingError, did_you_mean
from openslip.evaluation import Result
from openslip.evaluation.results import keep
from openslip.files import write_json
from openslip.models import Model, build, pretrained, without_weights
from openslip.objectives import parse
from openslip.processes import Processes, joined
from openslip.training import asked
from openslip.training.budget import Forecast, Overrun, Rehearsal, duration, parse_budget
from openslip.training.learner import Learner
from openslip.training.parallel import parallelise
from openslip.training.plan import Plan, check_ssl, make_plan
from openslip.training.precision import choose_device
from openslip.training.prepare import prepare
from openslip.training.saving import checkpoint
from openslip.training.saving.run import RunFolder
from openslip.training.signals import Stopped, stop_signals
from openslip.training.state import State
from openslip.training.watching.profiling import profiling
from openslip.training.watching.tracking import ProgressLine, Tracker, check_trackers, open_trackers
from openslip.training.words import describe, length


class Interrupted(TrainingError):
    """The run was asked to stop by the signal `number`, 0 if only another process was; its state is saved."""

    def __init__(self, what: str, *, number: int = 0, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.status = 128 + (number or signal.SIGTERM)


def train(
    config: Config | str | os.PathLike[str],
    source: Source | str | os.PathLike[str],
    out: str | os.PathLike[str] = "",
    *,
    ssl: Source | str | os.PathLike[str] | None = None,
    evaluate: Callable[[Encoder], Sequence[Any]] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Train as `config` says on `source`, writing to the run folder `out`; return the run folder.

    `config` may be the name of a recipe, or the path of a TOML file. `source` may be what `openslip.open_source` takes;
    the configuration's options for data hold for it, and it is noted in the run as its `data.train`. Without `out` the
    folder is `runs/NAME`, with the configuration's name.

    `ssl`: where the pictures of the self-supervised views come from, if not from `source`.

    With `resume`, a run that `out` holds goes on from its newest checkpoint and ends with the weights it would
    have had without the interruption (bit for bit on a CPU); without one there, it starts.
    `evaluate` takes the model and returns results (see `openslip.evaluation.Result`); it is called at the configured
    cadence and at the end, and its last results become the run's results.json.

    Under `torchrun` all its processes train together, as one would with the whole batch; the first one writes the run
    folder, and measures.

    Raises ConfigError, DataError, CheckpointError, TrainingError or ProcessError; whatever the reason, the newest
    checkpoint is complete.
    """
    asked.leave_if_imported()
    config = asked.config_of(config)
    asked.check_evaluate(evaluate)
    console = console or Console(stderr=True)
    run = RunFolder(asked.out_of(out, config), partial(_say, console))
    with joined(choose_device(config.training.device)) as processes:
        with processes.first_goes_ahead():
            opened, train_named = asked.source_of(source, config)
            pictures, ssl_named = asked.source_of(ssl, config, ssl=True) if ssl is not None else (None, "")
        config = asked.recorded(config, train_named, ssl_named)
        return _train(config, Data(opened, pictures), run, evaluate, resume, console, processes)


def _train(
    config: Config,
    data: Data,
    run: RunFolder,
    evaluate: Callable[[Encoder], Sequence[Any]] | None,
    resume: bool,
    console: Console,
    processes: Processes,
) -> RunFolder:
    objective = parse(
        config.objective.loss,
        temperature=config.objective.temperature,
        block=config.objective.block,
        gradient=config.objective.gradient,
    )
    config = _normalised(config, run, resume, processes)
    plan = make_plan(config, data.epoch_length, objective.needs, processes.world)
    if data.ssl is not None:
        check_ssl(objective.needs)
    check_decoder(config.data.decoder)
    check_trackers(config.tracking)
    with ExitStack() as stack:
        with processes.together():
            if processes.first:
                run.check_new(resume)
                stack.enter_context(run.locked())
                run.check_new(resume)  # another process may have made one meanwhile
        return _train_alone(plan, objective, data, run, evaluate, resume, console, processes)


def _normalised(config: Config, run: RunFolder, resume: bool, processes: Processes) -> Config:
    """Return the configuration with the mean and deviation that a pre-trained image tower takes; all processes call it.

    Raises ConfigError as `openslip.models.pretrained.normalised` does.
    """
    if not config.model.image.pretrained:
        return config
    told = b""
    with processes.together():
        if processes.first:
            goes_on = resume and run.exists()
            views = (
                pretrained.as_in_run(config, run.config) if goes_on else pretrained.normalised(config)
            ).views
            told = json.dumps([views.mean, views.std]).encode()
    mean, std = map(tuple, json.loads(processes.bytes_from_first(told)))
    return replace(config, views=replace(config.views, mean=mean, std=std))


def _train_alone(
    plan: Plan,
    objective: Any,
    data: Data,
    run: RunFolder,
    evaluate: Callable[[Encoder], Sequence[Any]] | None,
    resume: bool,
    console: Console,
    processes: Processes,
) -> RunFolder:
    """`_train` in a folder that no other run works in."""
    config, begun, new = plan.config, False, False
    identity: Identity = {}
    with processes.together():
        if processes.first:
            identity = data.identity(captioned="text" in objective.needs)
            new = _is_new(run, config, identity, resume)
            begun = not new and checkpoint.any_there(run.checkpoints)
    (begun,) = processes.any(begun)
    torch.manual_seed(config.training.seed)
    shape = without_weights(config.model) if begun else config.model
    if shape.image.pretrained and processes.first:
        words = f"starting from timm's weights of {shape.image.name}, fetched where they are not in its cache"
        _say(console, f"{words}; pictures are {pretrained.told(config)}")
    model = build(shape, config.views.size, objective.needs, config.views).to(plan.device)
    prepare(model, plan.device, plan.dtype, config.training)
    with processes.together():
        if processes.first:
            words = describe(plan, model, run.path, data, evaluated=evaluate is not None)
            if new:
                if run.exists():
                    run.start_anew()
                run.create(config, identity)
            progress.say(console, words)
    parallel = parallelise(
        model,
        config.training.parallel,
        dtype=plan.dtype,
        offload=config.training.offload,
        some_unused=plan.schedule.every > 1,
    )
    say = partial(_say, console)
    state = State(plan, run, data, parallel, processes, say)
    learner = Learner(state, objective, say)
    with _Session(state, learner, evaluate, console) as session:
        state.restore()
        if state.plan.seconds:
            session.rehearse()
        session.run_to_the_end()
    return run


def _is_new(run: RunFolder, config: Config, identity: Identity, resume: bool) -> bool:
    """Say whether a run starts here; else the one that is here goes on. Raises ConfigError where neither can be.

    A start that failed before it had learned anything is none that would have to go on.
    """
    if not run.exists():
        run.check_unused()
        return True
    try:
        run.check_same(config, identity)
    except ConfigError:
        if run.begun():
            raise
        return True
    return not resume and not run.begun()


class _Session:
    """A run in progress: its state, and what happens between its steps."""

    def __init__(
        self,
        state: State,
        learner: Learner,
        evaluate: Callable[[Encoder], Sequence[Any]] | None,
        console: Console,
    ) -> None:
        self.state, self.learner, self.evaluate, self.console = state, learner, evaluate, console
        self.config, self.run, self.processes = state.plan.config, state.run, state.processes
        self.model, self.say = state.parallel.model, learner.say
        self.trackers: list[Tracker] = []
        self.forecast, self.overrun = Forecast(), Overrun(parse_budget(self.config.training.budget).seconds)

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.writer.close()
        for tracker in self.trackers:
            tracker.close()
        self.run.flush()

    def rehearse(self) -> None:
        """Turn a budget of time into a number of steps: time a few, undo them, plan (`openslip.training.budget`)."""
        state = self.state
        state.save()
        rehearsal = Rehearsal(state.plan.seconds)
        try:
            with stop_signals(self.learner.stop), closing(self.learner.batches()) as batches:
                while not rehearsal.done:
                    (seconds,) = self.processes.mean([self.learner.take_step(batches)])
                    rehearsal.add(seconds)
        except Stopped:
            state.writer.finish()
            raise Interrupted(
                "Stopped while the first steps were timed",
                number=self.learner.stop.number,
                fix="Start again with the same command and --resume",
            ) from None
        state.writer.finish()
        state.restore()
        self.learner.speed.take()
        state.plan, state.spent = state.plan.of_steps(rehearsal.fitting()), rehearsal.spent
        state.save()
        takes = duration(state.plan.steps * rehearsal.step_seconds)
        timed = f"about {takes}: {rehearsal.step_seconds:.3g} s a step, mean of {len(rehearsal.timed)}"
        self.say(f"planned    {length(state.plan)} ({timed})")
        if warning := state.plan.part_of_an_epoch:
            self.say(f"WARNING    {warning}")

    def run_to_the_end(self) -> None:
        """Train, save, measure, until the last step or a signal."""
        state, config, plan = self.state, self.config, self.state.plan
        if state.step:
            self.say(f"continuing from step {state.step:,} of {plan.steps:,}")
        first = self.processes.first
        with self.processes.together():
            self.trackers = open_trackers(self.run, config, state.step, self.say) if first else []
        self.progress = ProgressLine(self.console, state.step, plan.steps)
        self.trackers.append(self.progress)
        state.saved_at = time.monotonic()
        with stop_signals(self.learner.stop):
            if state.step == plan.steps:
                state.save()  # a kill may have come between the last checkpoint and counts.json
            if self._due():
                self._evaluate()  # the run ended after that checkpoint, and before its scores were saved
            with ExitStack() as stack:
                profiled = stack.enter_context(
                    profiling(config.training.profile if first else 0, self.run, plan.device, self.console)
                )
                batches = iter(())
                if state.step < plan.steps:
                    batches = stack.enter_context(closing(self.learner.batches()))
                while state.step < plan.steps:
                    try:
                        self._count(self.learner.take_step(batches))
                    except Stopped:
                        if not state.saved:
                            state.save()
                        self._leave()
                    profiled()
                    self._after_step()
            self.say(state.records.words(self.run.skipped, state.nonfinite, config.training.batch))
            if warning := self.overrun.check(state.spent, 0):
                self.say(warning)
            if state.measured_at != state.step:
                self._evaluate()
            state.writer.finish()

    def _count(self, seconds: float) -> None:
        """Count the time that a step has taken; say how long the rest will take, and where a budget is overrun."""
        state = self.state
        state.spent += seconds
        left = state.plan.steps - state.step
        for words in (
            self.forecast.add(seconds, left),
            self.overrun.check(state.spent, left) if left else "",
        ):
            if words:
                self.say(words)

    def _leave(self) -> NoReturn:
        """Raise Interrupted when the state, of which a save has begun, is on disk."""
        state = self.state
        state.writer.finish()
        if not state.step:
            raise Interrupted(
                f"Stopped before the first of {state.plan.steps:,} steps was done; there was nothing to save",
                number=self.learner.stop.number,
                fix="Start again with the same command",
            )
        raise Interrupted(
            f"Stopped after step {state.step:,} of {state.plan.steps:,}; the state is saved in {self.run.path}",
            number=self.learner.stop.number,
            fix="Continue with the same command and --resume",
        )

    def _after_step(self) -> None:
        """Log, save and measure what is to be after this step; leave when a process was asked to stop."""
        state, plan, config = self.state, self.state.plan, self.config
        self.progress.advance(state.step)
        every, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
        last, due = state.step == plan.steps, self._due()
        if last or state.step % config.training.log_every == 0:
            self._log(state.window.take() | self.learner.speed.take() | state.counts)
        late = bool(minutes) and time.monotonic() - state.saved_at > minutes * 60
        late, stopped, writing = self.processes.any(late, self.learner.stop.asked, state.writer.busy)
        if not writing:
            state.writer.settle()
        in_turn = bool(every) and state.step % every == 0
        if last or in_turn or late or stopped or due:
            state.save()
        if stopped and not last:
            self._leave()
        if due:
            self._evaluate()

    def _due(self) -> bool:
        """Whether this step, not the last one, is to be measured and has not been."""
        state = self.state
        every = self.config.evaluation.every_epochs * state.plan.steps_per_epoch
        if self.evaluate is None or every <= 0 or state.step in (0, state.plan.steps, state.measured_at):
            return False
        return int(state.step / every) > int((state.step - 1) / every)

    def _log(self, line: dict[str, Any]) -> None:
        position = self.state.step * self.config.training.batch
        where = {
            "step": self.state.step,
            "position": position,
            "epoch": round(position / self.state.plan.records, 4),
            "progress": round(self.state.step / self.state.plan.steps, 4),
        }
        if "loss" in line:
            line = line | {"lr": self.state.optimizer.param_groups[0]["lr"]}
            if self.model.logit_scale is not None:
                line["logit_scale"] = float(self.model.logit_scale.detach().exp())
        for tracker in self.trackers:
            tracker.log(where | line)

    def _evaluate(self) -> None:
        """Measure the model, whose state has been saved, and save once more, with the scores."""
        if self.evaluate is None:
            return
        state = self.state
        state.writer.catch_up()  # whatever happens while it is measured must not cost the weights
        self.progress.measuring()
        weights, stopped = state.parallel.whole_weights(), False
        with self.processes.together():
            if self.processes.first:
                try:
                    with self.learner.stop.interrupts():
                        self._measure(self.evaluate, Encoder(self._plain_model(weights), self.config))
                except Stopped:  # a run that goes on from this state measures it
                    stopped = True
        (stopped,) = self.processes.any(stopped)
        if stopped:
            self._leave()
        state.measured_at = state.step
        state.save()

    def _measure(self, evaluate: Callable[[Encoder], Sequence[Any]], encoder: Encoder) -> None:
        # For all of the evaluation, whose threads encode at once; the next step turns training mode on again.
        results = asked.results_of(evaluate(encoder.eval()))
        state = self.state
        state.measure(results)
        best = self.config.evaluation.best
        if best and best not in state.scores:
            self.say(
                f"warning: no checkpoint is kept as the best: there is no {best}. {did_you_mean(best, state.scores)}"
            )
        self._log({"evaluation": state.scores})
        if state.step == state.plan.steps:
            self._keep(results)

    def _keep(self, results: Sequence[Any]) -> None:
        """Write the run's results: as of its last checkpoint, beside what `slip evaluate` has measured of others."""
        path = self.run.path / "results.json"
        if all(isinstance(result, Result) for result in results):
            name = checkpoint.path_of(self.run.checkpoints, self.state.step).name
            keep([replace(result, checkpoint=result.checkpoint or name) for result in results], path)
        else:
            write_json(path, [result.to_dict() for result in results])

    def _plain_model(self, weights: dict[str, Tensor]) -> Model:
        """Return a model to measure that asks nothing of other processes, and empty `weights`, to make room."""
        if self.processes.world == 1:
            return self.model
        model = build(without_weights(self.config.model), self.config.views.size, self.state.plan.needs)
        model.load_state_dict(weights)
        weights.clear()
        return model.to(self.state.plan.device)


def _say(console: Console, words: str) -> None:
    progress.say(console, textwrap.indent(words, "  "))
