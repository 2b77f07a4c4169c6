"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
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
from slip.training.optimizer import build_optimizer, load_state_tensors, set_learning_rate, state_tensors
from slip.training.parallel import prepare
from slip.training.plan import Plan, check_ssl, describe, make_plan
from slip.training.precision import loss_scaler, overflowed
from slip.training.run import RunFolder
from slip.training.schedule import learning_rate
from slip.training.signals import stop_signals
from slip.training.step import Inputs, backward, gradient_norm
from slip.training.tracking import JsonLines, ProgressLine, TensorBoard, Tracker, Window

MIN_READ_BEFORE_JUDGING = 200
"""Records read before the share of unusable ones may stop a run."""


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
    prepare(model, plan.device, plan.dtype, config.training)
    if not run.exists():
        run.create(config)
    console.print(describe(plan, model, run.path, source, ssl), highlight=False, soft_wrap=True)
    with _Session(plan, run, source, ssl, model, objective, evaluate, console) as session:
        session.restore()
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
        self.scaler = loss_scaler(plan.device, plan.dtype)
        self.counts = {"skipped": 0, "nonfinite": 0} | ({"overflow": 0} if self.scaler.is_enabled() else {})
        self.nonfinite_in_a_row = 0
        self.scores: dict[str, float] = {}
        self.measured_at = -1
        self.window = Window()
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
            self.scaler.load_state_dict(state.get("scaler", {}))
            self.window = Window(state["window"])
            self.console.print(f"  continuing from step {self.step:,}", highlight=False)
        self.run.rewind(self.step)
        self.trackers = [JsonLines(self.run)]
        if self.config.training.tensorboard:
            self.trackers.append(TensorBoard(self.run, self.step))

    def run_to_the_end(self) -> None:
        """Train, measure, save, until the last step or a signal."""
        config, plan = self.config, self.plan
        self.progress = ProgressLine(self.console, self.step, plan.steps)
        self.trackers.append(self.progress)
        saved_at = time.monotonic()
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            batches = stack.enter_context(closing(iter(self._loader())))
            self.window.restart_clock()
            while self.step < plan.steps:
                waiting = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - waiting
                self._train_step(batch, waited)
                self.progress.advance(self.step)
                last = self.step == plan.steps
                if last or self.step % config.training.log_every == 0:
                    self._log(self.window.take() | self.counts)
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
        self.console.print(self._record_count(), highlight=False, soft_wrap=True)
        self._evaluate()
        self._save()

    def _record_count(self) -> str:
        """Return in words what became of the records that the run went through."""
        lanes = 1 if self.ssl is None else 2
        read, skipped = lanes * self.step * self.config.training.batch, self.counts["skipped"]
        if not skipped:
            return f"  {read:,} records read, all usable"
        listed = self.run.path / "skipped.jsonl"
        return f"  {read:,} records read: {read - skipped:,} used, {skipped:,} skipped, listed in {listed}"

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

    def _train_step(self, batch: Batch, waited: float) -> None:
        training, optimizer = self.config.training, self.config.optimizer
        self._count_skipped(batch)
        self.model.train()
        set_learning_rate(
            self.optimizer, learning_rate(optimizer, self.step, self.plan.steps, self.plan.warmup)
        )
        losses = backward(
            self.model, self.objective, self._inputs(batch),
            dtype=self.plan.dtype, micro_batch=training.micro_batch, seed=training.seed * 1_000_003 + self.step,
            scaler=self.scaler,
        )  # fmt: skip
        values = {name: float(value) for name, value in losses.items()}
        self.scaler.unscale_(self.optimizer)
        values["grad_norm"] = gradient_norm(self.model, optimizer.clip_grad)
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            self.optimizer.step()
            self.model.clamp_logit_scale()
            self.nonfinite_in_a_row = 0
            self.window.add(values, len(batch.keys), waited)
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

    def _count_skipped(self, batch: Batch) -> None:
        self.run.append_skipped(self.step + 1, batch.skipped)
        self.counts["skipped"] += len(batch.skipped)
        skipped, read = self.counts["skipped"], batch.read
        allowed = self.config.data.max_skipped
        if batch.skipped and skipped > allowed * read and read >= MIN_READ_BEFORE_JUDGING:
            example = batch.skipped[-1]
            raise TrainingError(
                f"{skipped / read:.1%} of the records read could not be used, more than the {allowed:.1%} allowed",
                got=f"{skipped} of {read}, for example {example.key}: {example.reason}",
                fix=f"See {self.run.path / 'skipped.jsonl'}; repair the data, or allow more with --data.max-skipped",
            )

    def _count_nonfinite(self, batch: Batch, values: dict[str, float]) -> None:
        self.counts["nonfinite"] += 1
        self.nonfinite_in_a_row += 1
        if self.nonfinite_in_a_row >= self.config.training.max_nonfinite:
            numbers = ", ".join(f"{name} {value:g}" for name, value in values.items())
            keys = ", ".join(batch.keys[:8]) + (", …" if len(batch.keys) > 8 else "")
            raise TrainingError(
                f"The loss or its gradient was not finite in {self.nonfinite_in_a_row} steps in a row, "
                f"the last one step {self.step + 1}",
                got=f"{numbers}; records {keys}",
                fix="Lower --optimizer.lr, raise --optimizer.warmup-epochs, set --optimizer.clip-grad 1, "
                "or use --training.precision fp32",
            )

    def _due(self, every: float) -> bool:
        """Whether a multiple of `every` steps (a float) has just been passed."""
        return every > 0 and int(self.step / every) > int((self.step - 1) / every)

    def _log(self, line: dict[str, Any]) -> None:
        position = self.step * self.config.training.batch
        where = {"step": self.step, "position": position, "epoch": round(position / self.plan.records, 4)}
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
            "counts": self.counts,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "scaler": self.scaler.state_dict(),
            "window": self.window.sums,
            "scores": self.scores,
            "score": self.scores.get(score_name) if self.measured_at == self.step else None,
        }
        checkpoint.save(
            self.run.checkpoints, self.step, self.model.state_dict(), state_tensors(self.optimizer), state
        )
        checkpoint.prune(self.run.checkpoints, self.config.checkpoint.keep)
