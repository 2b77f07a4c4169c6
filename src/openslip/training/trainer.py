"""A run in progress: its steps, and what happens between them."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext, suppress
from typing import Any, NoReturn

from rich.console import Console
from torch import Tensor

from openslip.data.augment import augment
from openslip.data.record import Batch
from openslip.errors import DataError
from openslip.models.inputs import Inputs
from openslip.training.budget import Forecast, Overrun, Rehearsal, duration, parse_budget
from openslip.training.evaluating import Evaluate, Evaluations
from openslip.training.keep_pass import Pass
from openslip.training.kept_features import NOTHING, keeping
from openslip.training.plan_summary import length
from openslip.training.signals import Interrupted, Stopped, StopSignal, stop_signals
from openslip.training.state import State
from openslip.training.step import backward
from openslip.training.transfer import on_device, run_ahead
from openslip.training.watching.profiling import profiling
from openslip.training.watching.speed import Speed, Work, peak
from openslip.training.watching.tracking import ProgressLine, Tracker, open_trackers

SETTLE = 10
"""Their numbers are read at the latest after this many steps."""


class Trainer:
    """Moves a run's state on to its last step: `keep`, `rehearse` where there is a budget of time, then `run`."""

    def __init__(self, state: State, evaluate: Evaluate | None, console: Console) -> None:
        self.state, self.console = state, console
        plan = state.plan
        self.stop = StopSignal()
        peak_flops, *_ = peak(plan.device, plan.dtype)
        self.work = Work(plan.config, plan.loss, state.inform, state.parallel.student.fixed)
        self.speed = Speed(plan.device, self.work, peak_flops, state.processes.world, state.inform)
        self.evaluations = Evaluations(state, evaluate, self.stop, self.log)
        self.forecast, self.overrun = Forecast(), Overrun(parse_budget(plan.config.training.budget).seconds)
        self.wait_for_device = run_ahead(plan.device)
        self.trackers: list[Tracker] = []
        self.kept = NOTHING

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.writer.close()
        for tracker in self.trackers:
            tracker.close()
        self.state.run.flush()

    def keep(self) -> None:
        """Compute the features that are computed once, or open them, if steps are left that need them.

        Raises Interrupted if the run is asked to stop.
        """
        state, plan = self.state, self.state.plan
        if state.step >= plan.steps and not plan.seconds:
            return
        student = state.parallel.student
        chosen = keeping(plan.config, student, ssl=state.data.ssl is not None)
        if chosen:
            with stop_signals(self.stop):
                self.work.kept = chosen.outputs
                self.kept = Pass(chosen, state, self.stop, self._inputs, self.console).run()
            if chosen.without_fixed:
                student.fixed.to("cpu")  # nothing needs them any more

    def run(self) -> None:
        """Train, log, save and measure until the last step. Raises Interrupted if the run is asked to stop."""
        self._begin()
        with stop_signals(self.stop):
            try:
                self._catch_up()
                if self.state.step < self.state.plan.steps:
                    self._take_steps()
                self._end()
            except Stopped:  # while the run was measured
                self._leave()

    def _take_steps(self) -> None:
        """Take the steps that are left, and do what is due after each."""
        state, plan = self.state, self.state.plan
        profiled_steps = plan.config.training.profile if state.processes.first else 0
        with (
            profiling(profiled_steps, state.run, plan.device, self.console) as profiled,
            closing(self.batches()) as batches,
        ):
            try:
                while state.step < plan.steps:
                    self._count_time(self.step(batches))
                    profiled()
                    self._after_step()
            except Stopped:
                self._leave()  # before the workers have ended, which may take a while

    def step(self, batches: Iterator[Batch], *, settle: bool = False) -> float:
        """Wait for a batch and train on it; return the seconds that both took.

        Raises Stopped, on all processes and before the step begins, if one of them is asked to stop, also while it
        waits. Within a step processes wait for each other, so before it they agree whether each has its batch. If all
        that was learned is saved, a single process leaves a step half done, because the first step, or a step that is
        only timed, may take minutes. settle: wait for the step's numbers, too.
        """
        state, started, batch = self.state, time.perf_counter(), None
        try:
            with suppress(Stopped), self.stop.interrupts():
                batch = next(batches)
        except Exception:
            if not self.stop.asked:  # else the signal has ended the loader processes, too
                raise
        waited = time.perf_counter() - started
        batch = self._agree(batch)
        before, lost = state.step, not (state.saved or state.plan.seconds)
        try:
            with nullcontext() if lost or state.processes.world > 1 else self.stop.interrupts():
                self._train_on(batch)
        except Stopped:
            if state.step == before:
                raise  # else the step was done already, and counts
        every = state.plan.config.training.log_every
        if settle or state.step == state.plan.steps or not (state.step % SETTLE and state.step % every):
            with self.speed.phases("communication"):
                state.outcomes.settle()
        seconds = time.perf_counter() - started
        self.speed.add(batch, seconds, waited)
        return seconds

    def _agree(self, batch: Batch | None) -> Batch:
        """Do what the processes decide together between two steps; return the batch. Raises Stopped if one has none.

        This is the only exchange of each step: whether a checkpoint is due by the clock, whether the parts of one are
        written, and whether all can continue.
        """
        state = self.state
        minutes = state.plan.config.checkpoint.every_minutes
        late = bool(minutes) and time.monotonic() - state.saved_at > minutes * 60
        with self.speed.phases("communication"):
            stopped, late, writing = state.processes.any(batch is None, late, state.writer.busy)
        if not writing:
            state.writer.settle()
        if late and not stopped and not state.saved:
            state.save()
        if batch is None or stopped:
            raise Stopped
        return batch

    def _train_on(self, batch: Batch) -> None:
        """Take the step on a batch. Nothing here waits for the device."""
        state, training, phases = self.state, self.state.plan.config.training, self.speed.phases
        at = state.plan.at(state.step)
        state.parallel.student.train()
        with phases("augment"):
            inputs = self._inputs(batch)
        losses = backward(
            state.parallel, inputs, at, dtype=state.plan.dtype, micro_batch=training.micro_batch,
            seed=(training.seed * 1_000_003 + state.step) % 2**64, phases=phases, scaler=state.scaler,
        )  # fmt: skip
        with phases("optimizer"):
            norm, scale = state.optimise(losses["loss"], at)
        state.step += 1
        state.outcomes.add(batch, state.step, losses, norm, scale)
        self.wait_for_device()

    def _inputs(self, batch: Batch) -> Inputs:
        """Move a batch to the device and draw its colours there."""
        device, config = self.state.plan.device, self.state.plan.config.views

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        views = {
            name: augment(move(view), batch.parameters[name], config.mean, config.std)
            for name, view in batch.views.items()
        }
        tokens, labels, records = (
            None if rows is None else move(rows) for rows in (batch.tokens, batch.labels, batch.records)
        )
        return Inputs(views, tokens, labels=labels, records=records, kept=self.kept.of(batch, device))

    def batches(self) -> Generator[Batch]:
        """Return the batches from the run's position on, on the device, and start the loader processes."""
        state, plan = self.state, self.state.plan
        text = state.parallel.student.model.text_tower
        loader = state.data.loader(
            state.position,
            plan.config,
            state.parallel.student.views,
            captions=plan.loss.captions,
            labelled=plan.loss.labelled,
            schedule=plan.schedule,
            rank=state.processes.rank,
            world=state.processes.world,
            pinned=plan.device.type == "cuda",
            own_tokenizer=b"" if text is None else text.own_tokenizer,
            kept=self.kept.kept,
        )
        count = sys.maxsize if plan.seconds else plan.steps - state.step  # unknown in a rehearsal
        try:
            started = iter(loader)
        except DataError:
            if not self.stop.asked:
                raise
            started = _stopped()  # all processes learn of it when they ask for the batch
        return on_device(started, plan.device, count)

    def rehearse(self) -> None:
        """Turn a budget of time into a number of steps: time a few, undo them, plan (`openslip.training.budget`)."""
        state = self.state
        state.save()
        rehearsal = Rehearsal(state.plan.seconds)
        try:
            with stop_signals(self.stop), closing(self.batches()) as batches:
                while not rehearsal.done:
                    (seconds,) = state.processes.mean([self.step(batches, settle=True)])
                    rehearsal.add(seconds)
        except Stopped:
            state.writer.finish()
            raise Interrupted(
                "Stopped while the first steps were timed",
                number=self.stop.number,
                fix="Start again with the same command and --resume",
            ) from None
        state.writer.finish()
        state.restore()
        self.speed.take()
        state.plan, state.spent = state.plan.of_steps(rehearsal.fitting()), rehearsal.spent
        state.save()
        takes = duration(state.plan.steps * rehearsal.step_seconds)
        timed = f"about {takes}: {rehearsal.step_seconds:.3g} s a step, mean of {len(rehearsal.timed)}"
        state.inform(f"planned    {length(state.plan)} ({timed})")
        if warning := state.plan.part_of_an_epoch:
            state.inform(f"WARNING    {warning}")

    def _begin(self) -> None:
        """Open the trackers that take the run's numbers."""
        state = self.state
        if state.step:
            state.inform(f"continuing from step {state.step:,} of {state.plan.steps:,}")
        with state.processes.together():
            if state.processes.first:
                self.trackers = open_trackers(state.run, state.plan.config, state.step, state.inform)
        self.progress = ProgressLine(self.console, state.step, state.plan.steps)
        self.trackers.append(self.progress)
        state.saved_at = time.monotonic()

    def _catch_up(self) -> None:
        """Do what a kill may have prevented after the last saved step."""
        if self.state.step == self.state.plan.steps:
            self.state.save()  # for counts.json, which is written after the checkpoint
        if self.evaluations.due():
            self._measure()  # the run ended before the scores were saved

    def _after_step(self) -> None:
        """Log, save and measure what is due after this step."""
        state, config = self.state, self.state.plan.config
        self.progress.advance(state.step)
        last, due = state.step == state.plan.steps, self.evaluations.due()
        if last or state.step % config.training.log_every == 0:
            self.log(state.outcomes.window.take() | self.speed.take() | state.outcomes.counts)
        every = config.checkpoint.every_steps
        if last or due or (every and state.step % every == 0):
            state.save()
        if due:
            self._measure()

    def _end(self) -> None:
        """Print the run's counts, and measure the model."""
        state, outcomes = self.state, self.state.outcomes
        state.inform(
            outcomes.records.summary(state.run.skipped, outcomes.nonfinite, state.plan.config.training.batch)
        )
        if warning := self.overrun.check(state.spent, 0):
            state.inform(warning)
        if state.measured_at != state.step:
            self._measure()
        state.writer.finish()

    def _measure(self) -> None:
        if self.evaluations.evaluate is not None:
            self.progress.measuring()
            self.evaluations.run()

    def _count_time(self, seconds: float) -> None:
        """Count the time that a step has taken; print how long the rest will take, and if a budget is overrun."""
        state = self.state
        state.spent += seconds
        left = state.plan.steps - state.step
        told = self.forecast.add(seconds, left), self.overrun.check(state.spent, left) if left else ""
        for words in filter(None, told):
            state.inform(words)

    def log(self, line: dict[str, Any]) -> None:
        """Pass a line of numbers, with the run's position, to all trackers."""
        state, plan = self.state, self.state.plan
        where = {
            "step": state.step,
            "position": state.position,
            "epoch": round(state.position / plan.records, 4),
            "progress": round(state.step / plan.steps, 4),
        }
        if "loss" in line:
            line = line | state.rates
            scale = state.parallel.student.model.logit_scale
            if scale is not None:
                line["logit_scale"] = float(scale.detach().exp())
        for tracker in self.trackers:
            tracker.log(where | line)

    def _leave(self) -> NoReturn:
        """Save what has been learned, then raise Interrupted once the state is on disk."""
        state = self.state
        if not state.saved:
            state.save()
        state.writer.finish()
        if not state.step:
            raise Interrupted(
                f"Stopped before the first of {state.plan.steps:,} steps was done; there was nothing to save",
                number=self.stop.number,
                fix="Start again with the same command",
            )
        raise Interrupted(
            f"Stopped after step {state.step:,} of {state.plan.steps:,}; the state is saved in {state.run.path}",
            number=self.stop.number,
            fix="Continue with the same command and --resume",
        )


def _stopped() -> Generator[Batch]:
    """Raise Stopped in place of the first batch."""
    raise Stopped
    yield
