"""What a run is going to do, in numbers: steps, device, precision, bytes of weights and optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openslip.config import Config, TrainingConfig
from openslip.data.schedule import Schedule
from openslip.data.views import check_views
from openslip.errors import ConfigError
from openslip.models.tuning import check_tuning
from openslip.needs import LOGIT_SCALE, TEXT
from openslip.objectives import At, Loss
from openslip.ranges import check_ranges
from openslip.training.budget import Budget, parse_budget
from openslip.training.precision import choose_device, choose_precision
from openslip.training.student import Student


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from a configuration, a source's length and the machine.

    seconds: a budget of time that has not been turned into steps yet (`openslip.training.budget`), else 0. Until then,
    steps and warm-up follow from the configuration's epochs.
    """

    config: Config
    records: int
    steps: int
    warmup: int
    device: torch.device
    dtype: torch.dtype
    loss: Loss
    """What is minimised."""
    schedule: Schedule
    """Which rows get scheduled views."""
    processes: int = 1
    seconds: float = 0.0
    fresh: int = 0
    """Steps at the start in which only the weights that `init` has not brought learn."""

    @property
    def steps_per_epoch(self) -> float:
        return self.records / self.config.training.batch

    @property
    def warmup_share(self) -> float:
        """Share of the steps that the warm-up takes, when a budget sets the number of steps."""
        return min(1.0, self.config.optimizer.warmup_epochs / self.config.training.epochs)

    @property
    def fresh_share(self) -> float:
        """Share of the steps in which only fresh weights learn, when a budget sets the number of steps."""
        return min(1.0, self.config.optimizer.fresh_epochs / self.config.training.epochs)

    @property
    def part_of_an_epoch(self) -> str:
        """A warning if a budget is too small for all data to be seen once; "" if it is not, or not known yet."""
        if not self.config.training.budget or self.seconds or self.steps >= int(self.steps_per_epoch):
            return ""
        seen = self.steps * self.config.training.batch
        return (
            f"the budget ends before all data are seen once: {seen:,} of {self.records:,} samples, "
            f"{seen / self.records:.2g} of an epoch"
        )

    def at(self, step: int) -> At:
        """Return what an objective knows of where in the run the step after `step` others is."""
        return At(step, self.steps, self.config.training.seed, self.schedule.on(step))

    def of_steps(self, steps: int) -> Plan:
        """Return the plan of a budget that has room for `steps`."""
        fresh = _fresh_steps(self.config, self.fresh_share * steps, steps)
        return replace(self, steps=steps, warmup=round(self.warmup_share * steps), seconds=0.0, fresh=fresh)


def schedule_of(config: Config, steps: int) -> Schedule:
    """Return which rows get self-supervised views in a run of so many steps."""
    objective = config.objective
    start = int(objective.ssl_from * steps)
    return Schedule(config.training.batch, objective.ssl_every, objective.ssl_share, start)


def make_plan(
    config: Config, loss: Loss, records: int, processes: int = 1, device: torch.device | None = None
) -> Plan:
    """Work out steps and precision, and the device if none is given; ConfigError where values cannot work together."""
    training = config.training
    check_ranges(config)
    _check_batch(training.batch, records, processes)
    check_views(config.views)
    check_tuning(config.model)
    if training.precision == "fp8" and (config.model.image.lora or config.model.text.lora):
        raise ConfigError(
            "Adapters (LoRA) do not go together with products in fp8",
            got=f"model.image.lora {config.model.image.lora}, model.text.lora {config.model.text.lora}",
            fix="Use --training.precision bf16",
        )
    budget = parse_budget(training.budget)
    counted = _budgeted(training, budget, records)
    steps = counted or _epochs_steps(training, records)
    schedule = schedule_of(config, steps)
    if schedule.rows % processes:
        raise ConfigError(
            f"The rows with self-supervised views cannot be shared equally among {processes} processes",
            got=f"{schedule.rows} of a batch of {training.batch}",
            fix=f"Choose --objective.ssl-share so that its share of the batch is a multiple of {processes}",
        )
    if schedule.rows < training.batch:
        _check_same_rows(loss, f"--objective.ssl-share {schedule.share:g}")
    if not schedule.always and all(view.scheduled for view in loss.views):
        raise ConfigError(
            "Some steps or rows would have no self-supervised views, and so nothing to train on",
            got=f"objective.ssl_every {schedule.every}, objective.ssl_share {schedule.share:g}, "
            f"objective.ssl_from {config.objective.ssl_from:g}",
            fix="Leave all three at their defaults with an objective that takes only self-supervised views.",
        )
    if config.objective.ssl_from and budget.seconds:
        raise ConfigError(
            "Self-supervision cannot begin after a share of the steps, because a budget of time has no number of steps",
            got=f"objective.ssl_from {config.objective.ssl_from:g}, training.budget {training.budget}",
            fix="Give the budget in epochs, samples or steps, or leave --objective.ssl-from out",
        )
    warmup = min(steps, round(config.optimizer.warmup_epochs * records / training.batch))
    fresh = _fresh_steps(config, config.optimizer.fresh_epochs * records / training.batch, steps)
    _check_fresh(config)
    device = device or choose_device(training.device)
    dtype = choose_precision(training.precision, device)
    _check_spread(training, device, dtype, processes)
    plan = Plan(
        config, records, steps, warmup, device, dtype, loss, schedule, processes, budget.seconds, fresh
    )
    return plan.of_steps(counted) if counted else plan


def planned_steps(training: TrainingConfig, records: int) -> int:
    """Return the steps of a run on a source of so many records; 0 where a budget of time decides.

    Raises ConfigError where records or budget are less than a batch.
    """
    _check_batch(training.batch, records)
    budget = parse_budget(training.budget)
    if budget.seconds:
        return 0
    return _budgeted(training, budget, records) or _epochs_steps(training, records)


def _budgeted(training: TrainingConfig, budget: Budget, records: int) -> int:
    """Return the whole steps of a budget of steps, samples or epochs; 0 of time, and without a budget."""
    steps = budget.steps or int((budget.samples or budget.epochs * records) / training.batch)
    if training.budget and not budget.seconds and not steps:
        raise ConfigError(
            f"The budget is smaller than a batch of {training.batch}",
            got=training.budget,
            fix="Raise --training.budget, or lower --training.batch",
        )
    return steps


def _epochs_steps(training: TrainingConfig, records: int) -> int:
    return max(1, int(training.epochs * records / training.batch))


def _fresh_steps(config: Config, share: float, steps: int) -> int:
    """Return a number of steps for fresh weights alone, of `steps`: at least one where any are asked for."""
    return min(steps, max(1, round(share))) if config.optimizer.fresh_epochs else 0


def _check_spread(training: TrainingConfig, device: torch.device, dtype: torch.dtype, processes: int) -> None:
    """Raise ConfigError for weights that are to be spread, or kept elsewhere, where that cannot be."""
    if training.offload and (training.parallel != "fsdp" or device.type != "cuda" or processes == 1):
        many = f"{processes} process{'es' * (processes > 1)}"
        raise ConfigError(
            "Weights are kept in the CPU's memory only for a CUDA device, and only where processes share them",
            got=f"--training.offload with --training.parallel {training.parallel} on {device.type}, {many}",
            fix="Leave --training.offload out, or add --training.parallel fsdp on several GPUs",
        )
    if dtype == torch.float16 and training.parallel == "fsdp" and processes > 1:
        raise ConfigError(
            "fp16 does not go together with weights spread over processes: each process would scale its own loss",
            got="--training.precision fp16 --training.parallel fsdp",
            fix="Use --training.precision bf16, or --training.parallel ddp",
        )


def _check_batch(batch: int, records: int, processes: int = 1) -> None:
    """Raise ConfigError for a batch that does not fit the data or the processes."""
    if batch > records:
        raise ConfigError(
            f"The batch of {batch} is larger than the {records:,} records that are trained on",
            fix="Lower --training.batch, or give more data",
        )
    if batch % processes:
        raise ConfigError(
            f"The batch cannot be shared equally among {processes} processes",
            got=batch,
            fix=f"Make --training.batch a multiple of {processes}: it is the batch of all processes together",
        )


def _check_fresh(config: Config) -> None:
    """Raise ConfigError where a time for fresh weights alone makes no sense."""
    fresh, epochs = config.optimizer.fresh_epochs, config.training.epochs
    if config.optimizer.fresh_lr >= 0 and (not config.init or not config.optimizer.lr):
        raise ConfigError(
            "A separate learning rate for fresh weights needs other weights, and a learning rate for those",
            got=f"optimizer.fresh_lr {config.optimizer.fresh_lr:g}, optimizer.lr {config.optimizer.lr:g}"
            + (", no --init" if not config.init else ""),
            fix="Leave --optimizer.fresh-lr out, or start from a model with --init",
        )
    if fresh and not config.init:
        raise ConfigError(
            "Without --init all weights are fresh: no other weights could wait for them",
            got=f"optimizer.fresh_epochs {fresh:g}",
            fix="Leave --optimizer.fresh-epochs out, or start from a model with --init",
        )
    if fresh >= epochs:
        raise ConfigError(
            "The weights that --init brings would never learn",
            got=f"optimizer.fresh_epochs {fresh:g} of training.epochs {epochs:g}",
            fix="Lower --optimizer.fresh-epochs, or freeze the weights that should not learn: --model.image.freeze all",
        )


def check_ssl(loss: Loss) -> None:
    """Raise ConfigError when the objective has no use for images of their own for the self-supervised views."""
    scheduled = {view.scheduled for view in loss.views}
    if True not in scheduled:
        raise ConfigError(
            "The objective takes no self-supervised views", got=str(loss), fix="Leave --data.ssl out"
        )
    if False not in scheduled:
        raise ConfigError(
            "The objective takes nothing but self-supervised views",
            got=str(loss),
            fix="Give the pictures as --data.train, and leave --data.ssl out",
        )
    _check_same_rows(loss, "--data.ssl")


def _check_same_rows(loss: Loss, option: str) -> None:
    """Raise ConfigError where one objective compares scheduled views with what is of other rows or other images."""
    for term in loss.terms:
        views = term.kind.views_for(term.config)
        needs = term.kind.needs_for(term.config)
        captions = ["the captions"] * any(need.view == TEXT and need != LOGIT_SCALE for need in needs)
        fixed = [view.name for view in views if not view.scheduled] + captions
        scheduled = [view.name for view in views if view.scheduled]
        if fixed and scheduled:
            raise ConfigError(
                f"{option} would give the objective {term.kind.name} views that do not belong together",
                got=f"scheduled: {', '.join(scheduled)}; drawn for every row: {', '.join(fixed)}",
                fix=f"Leave {option.split()[0]} out, or "
                + (
                    f"--objective.{term.kind.name}.text, which compares with the captions"
                    if fixed == captions and hasattr(term.config, "text")
                    else "draw all its views for every row: View(…, scheduled=False)"
                ),
            )


def state_bytes(plan: Plan, student: Student) -> int:
    """Return the bytes of weights, their gradients and AdamW's two moments, of one process and where the model is.

    What is frozen and teachers have weights alone, and so has a fixed model. Weights that fsdp spreads over processes
    count as this one's share, and not at all where they are kept in the CPU's memory. What a step takes besides is
    measured, by `openslip.training.watching.speed.Speed`.
    """
    spread_out = plan.config.training.parallel == "fsdp"
    matrices = {p for tower in student.model.towers for p in tower.parameters() if p.ndim > 1 and spread_out}

    def held(parameters: Iterable[Tensor]) -> int:
        parameters = set(parameters)
        spread = 0 if plan.config.training.offload else _bytes(parameters & matrices) // plan.processes
        return _bytes(parameters - matrices) + spread

    learning = held(p for p in student.parameters() if p.requires_grad)
    still = held(p for p in student.parameters() if not p.requires_grad)
    return 4 * learning + still + student.fixed.nbytes


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
