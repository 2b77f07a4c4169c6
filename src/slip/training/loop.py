"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from slip.augment import augment, augment_early
from slip.config import Config
from slip.data.decode import check_decoder
from slip.data.loader import Loader
from slip.data.order import epoch_length
from slip.data.record import Batch, Source
from slip.data.tokenizer import Tokenizer
from slip.encoder import Encoder
from slip.errors import ConfigError, TrainingError
from slip.files import write_json
from slip.models import Model, build
from slip.objectives import parse
from slip.training import checkpoint
from slip.training.budget import Rehearsal
from slip.training.optimizer import build_optimizer, load_state_tensors, set_learning_rate, state_tensors
from slip.training.parallel import prepare
from slip.training.plan import Plan, check_ssl, describe, length, make_plan
from slip.training.profiling import profiling
from slip.training.run import RunFolder
from slip.training.schedule import learning_rate
from slip.training.signals import stop_signals
from slip.training.speed import Speed, Work, peak
from slip.training.step import Inputs, backward, gradient_norm
from slip.training.tracking import ProgressLine, Tracker, Window, check_trackers, open_trackers
from slip.training.trouble import check_nonfinite, check_skipped, record_count


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

    Raises ConfigError, DataError, CheckpointError or TrainingError; whatever the reason, the newest
    checkpoint is complete.
    """
    console = console or Console(stderr=True)
    run = RunFolder(Path(out))
    objective = parse(
        config.objective.loss, temperature=config.objective.temperature, block=config.objective.block
    )
    plan = make_plan(config, epoch_length(source), objective.needs)
    if ssl is not None:
        check_ssl(objective.needs)
    check_decoder(config.data.decoder)
    check_trackers(config.tracking)
    if run.exists() and not resume:
        raise ConfigError(
            "The run folder already holds a run",
            got=str(run.path),
            fix="Continue it with --resume, or choose another folder with --out",
        )
    if run.exists():
        run.check_same(config)
    torch.manual_seed(config.training.seed)
    model = build(config.model, config.views.size, objective.needs).to(plan.device)
    prepare(model, plan.device, plan.dtype, compiled=config.training.compile)
    if not run.exists():
        run.create(config)
    console.print(describe(plan, model, run.path, source, ssl), highlight=False, soft_wrap=True)
    with _Session(plan, run, source, ssl, model, objective, evaluate, console) as session:
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
        model: Model,
        objective: Any,
        evaluate: Callable[[Encoder], Sequence[Any]] | None,
        console: Console,
    ) -> None:
        self.plan, self.config, self.run, self.source, self.ssl = plan, plan.config, run, source, ssl
        self.model, self.objective, self.evaluate, self.console = model, objective, evaluate, console
        self.optimizer = build_optimizer(model, self.config.optimizer)
        self.step = 0
        self.counts = {"skipped": 0, "nonfinite": 0}
        self.nonfinite_in_a_row = 0
        self.scores: dict[str, float] = {}
        self.measured_at = -1
        self.window = Window()
        work = Work(self.config, objective, plan.needs)
        self.speed = Speed(plan.device, work, peak(plan.device, plan.dtype)[0])
        self.trackers: list[Tracker] = []

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.close()

    def restore(self) -> None:
        """Go to the newest checkpoint, if there is one."""
        checkpoints = checkpoint.list_checkpoints(self.run.checkpoints)
        if checkpoints:
            weights, moments, state = checkpoint.load(checkpoints[-1])
            self.model.load_state_dict(weights)
            load_state_tensors(self.optimizer, moments)
            self.step, self.counts, self.scores = state["step"], state["counts"], state["scores"]
            self.nonfinite_in_a_row = state["nonfinite_in_a_row"]
            self.window = Window(state["window"])
            if self.plan.seconds and state.get("steps"):
                self.plan = self.plan.of_steps(state["steps"])
        self.run.rewind(self.step)

    def rehearse(self) -> None:
        """Turn a budget of time into a number of steps: time a few, undo them, plan (see `slip.training.budget`)."""
        self._save()
        rehearsal = Rehearsal(self.plan.seconds)
        with stop_signals() as stop, closing(iter(self._loader())) as batches:
            while not (rehearsal.done or stop.is_set()):
                rehearsal.add(self._next_step(batches))
        self.restore()
        self.speed.take()
        if stop.is_set():
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
        self.trackers = open_trackers(self.run, config, self.step, self._say)
        self.progress = ProgressLine(self.console, self.step, plan.steps)
        self.trackers.append(self.progress)
        saved_at = time.monotonic()
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            profiled = stack.enter_context(
                profiling(config.training.profile, self.run, plan.device, self.console)
            )
            batches = stack.enter_context(closing(iter(self._loader())))
            while self.step < plan.steps:
                self._next_step(batches)
                profiled()
                self.progress.advance(self.step)
                last = self.step == plan.steps
                if last or self.step % config.training.log_every == 0:
                    self._log(self.window.take() | self.speed.take() | self.counts)
                if not last and self._due(config.evaluation.every_epochs * plan.steps_per_epoch):
                    self._evaluate()
                every, minutes = config.checkpoint.every_steps, config.checkpoint.every_minutes
                late = minutes and time.monotonic() - saved_at > minutes * 60
                if (
                    last
                    or late
                    or stop.is_set()
                    or self.measured_at == self.step
                    or (every and self.step % every == 0)
                ):
                    self._save()
                    saved_at = time.monotonic()
                if stop.is_set() and not last:
                    raise Interrupted(
                        f"Stopped after step {self.step:,} of {plan.steps:,}; the state is saved in {self.run.path}",
                        fix="Continue with the same command and --resume",
                    )
        lanes = 1 if self.ssl is None else 2
        read = lanes * self.step * config.training.batch
        self._say(record_count(read, self.counts["skipped"], self.run))
        self._evaluate()
        self._save()

    def _say(self, words: str) -> None:
        self.console.print(f"  {words}", highlight=False, soft_wrap=True, markup=False)

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
            decoder=config.data.decoder,
            early=augment_early if config.data.augment == "loader" else None,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
        )

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
        self._count_skipped(batch)
        self.model.train()
        set_learning_rate(
            self.optimizer, learning_rate(optimizer, self.step, self.plan.steps, self.plan.warmup)
        )
        with phases("augment"):
            inputs = self._inputs(batch)
        losses = backward(
            self.model, self.objective, inputs, dtype=self.plan.dtype, micro_batch=training.micro_batch,
            seed=training.seed * 1_000_003 + self.step, phases=phases,
        )  # fmt: skip
        with phases("optimizer"):
            values = {name: float(value) for name, value in losses.items()}
            values["grad_norm"] = gradient_norm(self.model, optimizer.clip_grad)
            if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
                self.optimizer.step()
                self.model.clamp_logit_scale()
                self.nonfinite_in_a_row = 0
                self.window.add(values)
            else:
                self._count_nonfinite(batch, values)
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

    def _count_skipped(self, batch: Batch) -> None:
        self.run.append_skipped(self.step + 1, batch.skipped)
        self.counts["skipped"] += len(batch.skipped)
        check_skipped(self.counts["skipped"], batch, self.config.data.max_skipped, self.run)

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
        try:
            results = self.evaluate(Encoder(self.model, self.config))
        except BaseException:
            self._save()  # a broken evaluation set must not cost the weights
            raise
        self.scores, self.measured_at = {f"{r.task}/{r.metric}": r.value for r in results}, self.step
        self._log({"evaluation": self.scores})
        if self.step == self.plan.steps:
            write_json(self.run.path / "results.json", [r.to_dict() for r in results])

    def _save(self) -> None:
        score_name = self.config.evaluation.best or next(iter(self.scores), "")
        state = {
            "position": self.step * self.config.training.batch,
            "steps": None if self.plan.seconds else self.plan.steps,
            "counts": self.counts,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "window": self.window.sums,
            "scores": self.scores,
            "score": self.scores.get(score_name) if self.measured_at == self.step else None,
        }
        checkpoint.save(
            self.run.checkpoints, self.step, self.model.state_dict(), state_tensors(self.optimizer), state
        )
        checkpoint.prune(self.run.checkpoints, self.config.checkpoint.keep)
