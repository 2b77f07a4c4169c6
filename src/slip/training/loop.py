"""The training loop, top to bottom."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from slip.augment import augment, augment_early
from slip.config import Config
from slip.data.decode import check_decoder
from slip.data.identity import identify
from slip.data.loader import Loader
from slip.data.order import epoch_length
from slip.data.record import Batch, Skipped, Source, Tally
from slip.data.tokenizer import Tokenizer
from slip.encoder import Encoder
from slip.errors import CheckpointError, ConfigError, TrainingError
from slip.files import write_json
from slip.models import Model, build
from slip.objectives import parse
from slip.training import checkpoint
from slip.training.budget import Rehearsal
from slip.training.counts import Counts
from slip.training.optimizer import build_optimizer, set_learning_rate
from slip.training.parallel import Parallel, Snapshot, parallelise
from slip.training.plan import Plan, check_ssl, describe, length, make_plan
from slip.training.precision import choose_device, loss_scaler, overflowed
from slip.training.prepare import prepare
from slip.training.processes import Processes, joined
from slip.training.profiling import profiling
from slip.training.run import RunFolder
from slip.training.schedule import learning_rate
from slip.training.signals import stop_signals
from slip.training.speed import Speed, Work, peak
from slip.training.step import Inputs, backward, gradient_norm
from slip.training.tracking import ProgressLine, Tracker, Window, check_trackers, open_trackers
from slip.training.transfer import on_device
from slip.training.trouble import check_nonfinite


class Interrupted(TrainingError):
    """The run was asked to stop; its state is saved."""


def train(
    config: Config,
    source: Source,
    out: str | Path,
    *,
    ssl: Source | None = None,
    evaluate: Callable[[Encoder], Sequence[Any]] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Train as `config` says on `source`, writing to the run folder `out`; return the run folder.

    `ssl`: where the pictures of the self-supervised views come from, if not from `source`.

    With `resume`, a run that `out` holds goes on from its newest checkpoint and ends with the weights it would
    have had without the interruption (bit for bit on a CPU); without one there, it starts.
    `evaluate` takes the model and returns results (see `slip.evaluation.Result`); it is called at the configured
    cadence and at the end, and its last results become the run's results.json.

    Under `torchrun` all its processes train together, as one would with the whole batch; the first one writes the run
    folder, and measures.

    Raises ConfigError, DataError, CheckpointError or TrainingError; whatever the reason, the newest
    checkpoint is complete.
    """
    console = console or Console(stderr=True)
    with joined(choose_device(config.training.device)) as processes:
        return _train(config, source, RunFolder(Path(out)), ssl, evaluate, resume, console, processes)


def _train(
    config: Config,
    source: Source,
    run: RunFolder,
    ssl: Source | None,
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
    plan = make_plan(config, epoch_length(source), objective.needs, processes.world)
    if ssl is not None:
        check_ssl(objective.needs)
    check_decoder(config.data.decoder)
    check_trackers(config.tracking)
    data: dict[str, Any] = {}
    if processes.first:
        if run.exists() and not resume:
            raise ConfigError(
                "The run folder already holds a run",
                got=str(run.path),
                fix="Continue it with --resume, or choose another folder with --out",
            )
        data = identify({"train": source, "ssl": ssl}, captioned="text" in objective.needs)
        if run.exists():
            run.check_same(config, data)
    torch.manual_seed(config.training.seed)
    model = build(config.model, config.views.size, objective.needs, config.views).to(plan.device)
    prepare(model, plan.device, plan.dtype, config.training)
    if processes.first:
        if not run.exists():
            run.create(config, data)
        console.print(describe(plan, model, run.path, source, ssl), highlight=False, soft_wrap=True)
    parallel = parallelise(
        model,
        config.training.parallel,
        offload=config.training.offload,
        some_unused=plan.schedule.every > 1,
    )
    with _Session(plan, run, source, ssl, parallel, objective, evaluate, console, processes) as session:
        session.restore()
        if session.plan.seconds:
            session.rehearse()
        session.run_to_the_end()
    return run


class _Session:
    """A run in progress: the pieces of state and the few things that happen to them."""

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        source: Source,
        ssl: Source | None,
        parallel: Parallel,
        objective: Any,
        evaluate: Callable[[Encoder], Sequence[Any]] | None,
        console: Console,
        processes: Processes,
    ) -> None:
        self.plan, self.config, self.run, self.source, self.ssl = plan, plan.config, run, source, ssl
        self.parallel, self.objective, self.evaluate, self.console = parallel, objective, evaluate, console
        self.processes, self.model = processes, parallel.model
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.step = 0
        self.scaler = loss_scaler(plan.device, plan.dtype)
        self.counts = {"skipped": 0, "nonfinite": 0} | ({"overflow": 0} if self.scaler.is_enabled() else {})
        self.records = Counts({"train": source, "ssl": ssl})
        self.nonfinite_in_a_row = 0
        self.scores: dict[str, float] = {}
        self.measured_at = -1
        self.window = Window()
        work = Work(self.config, objective, plan.needs)
        self.speed = Speed(plan.device, work, peak(plan.device, plan.dtype)[0], processes.world)
        self.trackers: list[Tracker] = []
        self.writer = checkpoint.BackgroundWriter(self._warn)

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
        for tracker in self.trackers:
            tracker.close()

    def restore(self) -> None:
        """Go to the newest checkpoint, if there is one. All processes read it, which takes a folder that they share."""
        found = checkpoint.newest_good(self.run.checkpoints, self._warn) if self.processes.first else None
        newest = self.processes.from_first(-1 if found is None else checkpoint.step_of(found))
        if newest >= 0:
            weights, moments, state = checkpoint.load(checkpoint.path_of(self.run.checkpoints, newest))
            self.parallel.load(self.optimizer, weights, moments)
            self.step, self.counts, self.scores = state["step"], state["counts"], state["scores"]
            self.nonfinite_in_a_row = state["nonfinite_in_a_row"]
            self.records = Counts({"train": self.source, "ssl": self.ssl}, state.get("records"), self.step)
            self.scaler.load_state_dict(state.get("scaler", {}))
            self.window = Window(state["window"])
            if self.plan.seconds and state.get("steps"):
                self.plan = self.plan.of_steps(state["steps"])
        if self.processes.first:
            self.run.rewind(self.step)

    def rehearse(self) -> None:
        """Turn a budget of time into a number of steps: time a few, undo them, plan (see `slip.training.budget`)."""
        self._save()
        rehearsal, stopped = Rehearsal(self.plan.seconds), False
        with stop_signals() as stop, closing(self._batches()) as batches:
            while not (rehearsal.done or stopped):
                (seconds,) = self.processes.mean([self._next_step(batches)])
                rehearsal.add(seconds)
                (stopped,) = self.processes.any(stop.is_set())
        self.writer.finish()
        self.processes.wait()
        self.restore()
        self.speed.take()
        if stopped:
            raise Interrupted(
                "Stopped while the first steps were timed",
                fix="Start again with the same command and --resume",
            )
        self.plan = self.plan.of_steps(rehearsal.fitting())
        self._save()
        timed = f"{rehearsal.step_seconds:.3g} s a step, mean of {len(rehearsal.timed)}"
        self._say(f"planned    {length(self.plan)} ({timed})")

    def run_to_the_end(self) -> None:
        """Train, measure, save, until the last step or a signal."""
        config, plan = self.config, self.plan
        if self.step:
            self._say(f"continuing from step {self.step:,} of {plan.steps:,}")
        first = self.processes.first
        self.trackers = open_trackers(self.run, config, self.step, self._say) if first else []
        self.progress = ProgressLine(self.console, self.step, plan.steps)
        self.trackers.append(self.progress)
        self.saved_at = time.monotonic()
        every, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            profiled = stack.enter_context(
                profiling(config.training.profile if first else 0, self.run, plan.device, self.console)
            )
            batches = stack.enter_context(closing(self._batches()))
            while self.step < plan.steps:
                self._next_step(batches)
                profiled()
                self.progress.advance(self.step)
                last = self.step == plan.steps
                if last or self.step % config.training.log_every == 0:
                    self._log(self.window.take() | self.speed.take() | self.counts)
                if not last and self._due(config.evaluation.every_epochs * plan.steps_per_epoch):
                    self._evaluate()
                late = bool(minutes) and time.monotonic() - self.saved_at > minutes * 60
                late, stopped = self.processes.any(late, stop.is_set())
                in_turn = bool(every) and self.step % every == 0
                if last or in_turn or late or stopped or self.measured_at == self.step:
                    self._save()
                if stopped and not last:
                    self.writer.finish()
                    raise Interrupted(
                        f"Stopped after step {self.step:,} of {plan.steps:,}; the state is saved in {self.run.path}",
                        fix="Continue with the same command and --resume",
                    )
        nonfinite = self.counts["nonfinite"]
        self._say(self.records.words(self.run.skipped, nonfinite, config.training.batch))
        self._evaluate()
        self._save()
        self.writer.finish()

    def _loader(self) -> Loader:
        config, text = self.config, self.config.model.text
        return Loader(
            self.source,
            ssl=self.ssl,
            views=config.views,
            names=tuple(name for name in self.plan.needs if name != "text"),
            tokenizer=Tokenizer(text.context, text.truncation) if "text" in self.plan.needs else None,
            batch=config.training.batch,
            seed=config.training.seed,
            position=self.step * config.training.batch,
            rank=self.processes.rank,
            world=self.processes.world,
            schedule=self.plan.schedule,
            decoder=config.data.decoder,
            early=augment_early if config.data.augment == "loader" else None,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            pinned=self.plan.device.type == "cuda",
        )

    def _batches(self) -> Generator[Batch]:
        return on_device(iter(self._loader()), self.plan.device)

    def _next_step(self, batches: Iterator[Batch]) -> float:
        """Wait for a batch and train on it; return the seconds that both took."""
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - started
        self._train_step(batch)
        seconds = time.perf_counter() - started
        self.speed.add(batch, seconds, waited)
        return seconds

    def _train_step(self, batch: Batch) -> None:
        training, optimizer, phases = self.config.training, self.config.optimizer, self.speed.phases
        self.model.train()
        set_learning_rate(
            self.optimizer, learning_rate(optimizer, self.step, self.plan.steps, self.plan.warmup)
        )
        with phases("augment"):
            inputs = self._inputs(batch)
        losses = backward(
            self.parallel, self.objective, inputs, dtype=self.plan.dtype, micro_batch=training.micro_batch,
            seed=training.seed * 1_000_003 + self.step, phases=phases, scaler=self.scaler,
        )  # fmt: skip
        # What the processes agree on is agreed on at once, so that all do the same from here on.
        counted = [count for tally in batch.tallies for count in vars(tally).values()]
        with phases("communication"):
            means = self.processes.mean([*map(float, losses.values()), *counted])
        sums = iter(round(mean * self.processes.world) for mean in means[len(losses) :])
        self._count_records(batch, [Tally(*(next(sums) for _ in vars(tally))) for tally in batch.tallies])
        with phases("optimizer"):
            self.scaler.unscale_(self.optimizer)
            values = dict(zip(losses, means), grad_norm=gradient_norm(self.model, optimizer.clip_grad))
            if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
                self.optimizer.step()
                self.model.clamp_logit_scale()
                self.nonfinite_in_a_row = 0
                self.window.add(values)
            elif overflowed(self.scaler, values["loss"], values["grad_norm"]):
                self.counts["overflow"] += 1
            else:
                self._count_nonfinite(batch, values)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _inputs(self, batch: Batch) -> Inputs:
        """Move a batch to the device and draw its colours there."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.plan.device, non_blocking=True)

        config = self.config.views
        views = {
            name: augment(move(view), batch.parameters[name], config.mean, config.std)
            for name, view in batch.views.items()
        }
        return Inputs(views, None if batch.tokens is None else move(batch.tokens))

    def _count_records(self, batch: Batch, tallies: list[Tally]) -> None:
        """Count what became of the records of the whole batch, and list what the processes could not use of it."""
        self.records.add(tallies)
        for warning in self.records.warnings():
            self._say(f"warning: {warning}")
        if not any(tally.skipped for tally in tallies):
            return
        everyones = self.processes.gather(json.dumps([asdict(skipped) for skipped in batch.skipped]).encode())
        found = [Skipped(**skipped) for payload in everyones for skipped in json.loads(payload)]
        self.counts["skipped"] += len(found)
        if self.processes.first:
            self.run.append_skipped(self.step + 1, found)
        self.records.judge(self.config.data.max_skipped, found[-1], self.run.skipped)

    def _say(self, words: str) -> None:
        self.console.print(textwrap.indent(words, "  "), highlight=False, soft_wrap=True, markup=False)

    def _count_nonfinite(self, batch: Batch, values: dict[str, float]) -> None:
        self.counts["nonfinite"] += 1
        self.nonfinite_in_a_row += 1
        allowed = self.config.training.max_nonfinite
        check_nonfinite(self.nonfinite_in_a_row, allowed, self.step + 1, batch, values)

    def _due(self, every: float) -> bool:
        """Whether a multiple of `every` steps (a float) has just been passed."""
        return every > 0 and int(self.step / every) > int((self.step - 1) / every)

    def _log(self, line: dict[str, Any]) -> None:
        position = self.step * self.config.training.batch
        where = {
            "step": self.step,
            "position": position,
            "epoch": round(position / self.plan.records, 4),
            "progress": round(self.step / self.plan.steps, 4),
        }
        if "loss" in line:
            line = line | {"lr": self.optimizer.param_groups[0]["lr"]}
            if self.model.logit_scale is not None:
                line["logit_scale"] = float(self.model.logit_scale.detach().exp())
        for tracker in self.trackers:
            tracker.log(where | line)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.progress.measuring()
        snapshot = self.parallel.snapshot(self.optimizer)
        if self.processes.first:
            try:
                results = self.evaluate(Encoder(self._plain_model(snapshot[0]), self.config))
            except BaseException:
                self._write(snapshot, wait=True)  # a broken evaluation set must not cost the weights
                raise
            self.scores = {f"{r.task}/{r.metric}": r.value for r in results}
            self._log({"evaluation": self.scores})
            if self.step == self.plan.steps:
                write_json(self.run.path / "results.json", [r.to_dict() for r in results])
        self.measured_at = self.step
        self.processes.wait()

    def _plain_model(self, weights: Mapping[str, Tensor]) -> Model:
        """Return a model to measure that asks nothing of other processes."""
        if self.processes.world == 1:
            return self.model
        model = build(self.config.model, self.config.views.size, self.plan.needs)
        model.load_state_dict(dict(weights))
        return model.to(self.plan.device)

    def _save(self) -> None:
        """Write a checkpoint in the background. Its state is that of now: tensors are copied, numbers encoded."""
        snapshot = self.parallel.snapshot(self.optimizer)
        if self.processes.first:
            self._write(snapshot)
        self.saved_at = time.monotonic()

    def _write(self, snapshot: Snapshot, *, wait: bool = False) -> None:
        score_name = self.config.evaluation.best or next(iter(self.scores), "")
        state = {
            "position": self.step * self.config.training.batch,
            "steps": None if self.plan.seconds else self.plan.steps,
            "counts": dict(self.counts),
            "records": self.records.state,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "scaler": self.scaler.state_dict(),
            "window": dict(self.window.sums),
            "scores": dict(self.scores),
            "score": self.scores.get(score_name) if self.measured_at == self.step else None,
        }
        folder, step, keep = self.run.checkpoints, self.step, self.config.checkpoint.keep
        weights, moments = (
            {n: t.detach().to("cpu", copy=True) for n, t in part.items()} for part in snapshot
        )
        counts = self.records.to_dict(self.step, self.counts["nonfinite"], self.config.training.batch)

        def write() -> None:
            checkpoint.save(folder, step, weights, moments, state)
            checkpoint.prune(folder, keep)
            self.run.write_counts(counts)

        self.writer.start(write)
        if wait:
            self.writer.finish()

    def _warn(self, error: CheckpointError) -> None:
        self._say(f"warning: {error}")
