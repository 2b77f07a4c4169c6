"""What a run does with the data: batch after batch, from the loader to the optimiser's step."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any

from torch import Tensor

from openslip.data.augment import augment, augment_early
from openslip.data.loader import Loader
from openslip.data.record import Batch, Skipped, Source, Tally
from openslip.data.tokenizer import Tokenizer
from openslip.errors import DataError, TrainingError
from openslip.training.optimizer import learning_rate, set_learning_rate
from openslip.training.precision import overflowed
from openslip.training.signals import Stopped, StopSignal
from openslip.training.state import State
from openslip.training.step import Inputs, backward, gradient_norm
from openslip.training.transfer import on_device
from openslip.training.watching.speed import Speed, Work, peak


class Learner:
    """Moves a run's state on, a step at a time, and keeps count of records, of failed steps, and of time.

    say: tells people what they should know of.
    """

    def __init__(
        self, state: State, source: Source, ssl: Source | None, objective: Any, say: Callable[[str], None]
    ) -> None:
        self.state, self.source, self.ssl, self.objective, self.say = state, source, ssl, objective, say
        self.config, self.processes, self.device = state.plan.config, state.processes, state.plan.device
        self.parallel, self.model = state.parallel, state.parallel.model
        self.stop = StopSignal()
        work = Work(self.config, objective, state.plan.needs, say)
        peak_flops, *_ = peak(self.device, state.plan.dtype)
        self.speed = Speed(self.device, work, peak_flops, self.processes.world, say)

    def batches(self) -> Generator[Batch]:
        """Return the data from where the run is, on the device; the loader processes are started."""
        config, plan, text = self.config, self.state.plan, self.config.model.text
        loader = Loader(
            self.source,
            ssl=self.ssl,
            views=config.views,
            names=tuple(name for name in plan.needs if name != "text"),
            tokenizer=Tokenizer(text.context, text.truncation) if "text" in plan.needs else None,
            batch=config.training.batch,
            seed=config.training.seed,
            position=self.state.position,
            rank=self.processes.rank,
            world=self.processes.world,
            schedule=plan.schedule,
            decoder=config.data.decoder,
            early=augment_early if config.data.augment == "loader" else None,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            pinned=self.device.type == "cuda",
        )
        count = sys.maxsize if plan.seconds else plan.steps - self.state.step  # of a rehearsal nobody knows
        try:
            started = iter(loader)
        except DataError:
            if not self.stop.asked:
                raise
            started = _stopped()  # all processes learn of it when they ask for the batch
        return on_device(started, self.device, count)

    def take_step(self, batches: Iterator[Batch]) -> float:
        """Wait for a batch and train on it; return the seconds that both took.

        Raises Stopped, on all processes and before the step has begun, when one of them is asked to stop while it
        waits. Each says whether it has its batch before any begins the step, in which they wait for each other. Where
        all that was learned is saved, a process that is alone leaves a step half done: the first one, or one that is
        only timed, may take minutes.
        """
        started = time.perf_counter()
        batch = None
        try:
            with suppress(Stopped), self.stop.interrupts():
                batch = next(batches)
        except Exception:
            if not self.stop.asked:  # else the signal has ended the loader processes, too
                raise
        waited = time.perf_counter() - started
        with self.speed.phases("communication"):
            (stopped,) = self.processes.any(batch is None)
        if batch is None or stopped:
            raise Stopped
        before, lost = self.state.step, not (self.state.saved or self.state.plan.seconds)
        try:
            with nullcontext() if lost or self.processes.world > 1 else self.stop.interrupts():
                self._train_step(batch)
        except Stopped:
            if self.state.step == before:
                raise  # else it was done by then, and counts
        seconds = time.perf_counter() - started
        self.speed.add(batch, seconds, waited)
        return seconds

    def _train_step(self, batch: Batch) -> None:
        state, plan, phases = self.state, self.state.plan, self.speed.phases
        training, optimizer = self.config.training, self.config.optimizer
        self.model.train()
        set_learning_rate(state.optimizer, learning_rate(optimizer, state.step, plan.steps, plan.warmup))
        with phases("augment"):
            inputs = self._inputs(batch)
        losses = backward(
            self.parallel, self.objective, inputs, dtype=plan.dtype, micro_batch=training.micro_batch,
            seed=(training.seed * 1_000_003 + state.step) % 2**64, phases=phases, scaler=state.scaler,
        )  # fmt: skip
        # What the processes agree on is agreed on at once, so that all do the same from here on.
        counted = [count for tally in batch.tallies for count in vars(tally).values()]
        with phases("communication"):
            means = self.processes.mean([*map(float, losses.values()), *counted])
        sums = iter(round(mean * self.processes.world) for mean in means[len(losses) :])
        self._count_records(batch, [Tally(*(next(sums) for _ in vars(tally))) for tally in batch.tallies])
        with phases("optimizer"):
            state.scaler.unscale_(state.optimizer)
            values = dict(zip(losses, means), grad_norm=gradient_norm(self.model, optimizer.clip_grad))
            if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
                state.optimizer.step()
                self.model.clamp_logit_scale()
                state.nonfinite_in_a_row = 0
                state.window.add(values)
            elif overflowed(state.scaler, values["loss"], values["grad_norm"]):
                state.overflow += 1
            else:
                self._count_nonfinite(batch, values)
            state.scaler.update()
            state.optimizer.zero_grad(set_to_none=True)
        state.step += 1

    def _inputs(self, batch: Batch) -> Inputs:
        """Move a batch to the device and draw its colours there."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        config = self.config.views
        views = {
            name: augment(move(view), batch.parameters[name], config.mean, config.std)
            for name, view in batch.views.items()
        }
        return Inputs(views, None if batch.tokens is None else move(batch.tokens))

    def _count_records(self, batch: Batch, tallies: list[Tally]) -> None:
        """Count what became of the records of the whole batch, and list what the processes could not use of it."""
        self.state.records.add(tallies)
        for warning in self.state.records.warnings():
            self.say(f"warning: {warning}")
        if not any(tally.skipped for tally in tallies):
            return
        everyones = self.processes.all_gather(
            json.dumps([asdict(skipped) for skipped in batch.skipped]).encode()
        )
        found = [Skipped(**skipped) for payload in everyones for skipped in json.loads(payload)]
        if self.processes.first:
            self.state.run.append_skipped(self.state.step + 1, found)
        self.state.records.judge(self.config.data.max_skipped, found[-1], self.state.run.skipped)

    def _count_nonfinite(self, batch: Batch, values: dict[str, float]) -> None:
        state = self.state
        state.nonfinite += 1
        state.nonfinite_in_a_row += 1
        allowed = self.config.training.max_nonfinite
        _check_nonfinite(state.nonfinite_in_a_row, allowed, state.step + 1, batch, values)


def _stopped() -> Generator[Batch]:
    """Raise Stopped in place of the first batch."""
    raise Stopped
    yield


def _check_nonfinite(
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
