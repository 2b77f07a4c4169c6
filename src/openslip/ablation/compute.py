"""What each variant costs before it is trained, in samples and floating-point operations; lengths of equal compute.

The operations are counted as a run's log counts them (`openslip.training.watching.speed`), on models that have shapes
but no numbers. Batches are cut to their longest caption. Some captions of the data tell how long that is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from openslip import objectives
from openslip.ablation.grid import Grid, Variant
from openslip.config import Config
from openslip.data.data import Data
from openslip.data.schedule import Schedule
from openslip.data.sources.mixture import labelled_ones
from openslip.errors import ConfigError, DataError, SlipError
from openslip.tools.split import share_of
from openslip.training import asked
from openslip.training.plan import planned_steps
from openslip.training.watching.speed import operations_per_sample

SAMPLED = 100
"""Records whose captions are read."""


@dataclass(frozen=True)
class Cost:
    """What one run of a variant costs.

    samples: that the run is trained on, None if only the run itself can tell. each: operations for a sample, None if
    they cannot be counted. unknown: why either is None. about: whether `samples` is an estimate. records: samples of
    an epoch.
    """

    samples: int | None = None
    each: float | None = None
    unknown: str = ""
    about: bool = False
    records: int = 0

    @property
    def operations(self) -> float | None:
        """Operations of the whole run."""
        return None if self.samples is None or self.each is None else self.samples * self.each


def planned(grid: Grid) -> tuple[Grid, dict[str, Cost]]:
    """Return the grid with the lengths that follow from `equal_compute` filled in, and the costs by variant.

    Opens the data, and reads some captions. If a variant's data cannot be used, `Cost.unknown` says why: the runs of
    this variant fail, and the others do not. Raises DataError or ConfigError if no variant's data can be used, and
    ConfigError if a length cannot be worked out.
    """
    counts, costs = Counts(), dict[str, Cost]()
    errors: list[SlipError] = []
    for variant in grid.variants:
        try:
            costs[variant.name] = counts.cost(variant.config)
        except (ConfigError, DataError) as error:
            costs[variant.name] = Cost(unknown=f"it cannot be trained: {str(error).rstrip('.')}")
            errors.append(error)
    if len(errors) == len(grid.variants):
        raise errors[0]
    variants = []
    for variant in grid.variants:
        if variant.equal_compute:
            config = _as_long(
                variant, costs[variant.name], variant.equal_compute, costs[variant.equal_compute]
            )
            variant = replace(variant, config=config)
            costs[variant.name] = counts.cost(config)
        variants.append(variant)
    return replace(grid, variants=tuple(variants)), costs


def _as_long(variant: Variant, own: Cost, other: str, goal: Cost) -> Config:
    """Return a variant's configuration with the epochs, or the samples of a budget, that cost what the other does.

    Epochs and samples are rounded to four digits, so a version that counts a little differently changes no run.
    """
    if goal.operations is None or own.each is None:
        name, why = (other, goal.unknown) if goal.operations is None else (variant.name, own.unknown)
        raise ConfigError(
            f"{variant.name} cannot be given the compute of {other}",
            cause=f"The compute of {name} is not known before it has run: {why}",
            fix=f"Leave equal_compute out, and set training.epochs of {variant.name}",
        )
    training, samples = variant.config.training, goal.operations / own.each
    if training.budget:
        changed = replace(training, budget=f"{float(f'{samples:.4g}'):.0f} samples")
    else:
        changed = replace(training, epochs=float(f"{samples / own.records:.4g}"))
    return replace(variant.config, training=changed)


class Counts:
    """Counts costs. Data and models that several variants share are examined once."""

    def __init__(self) -> None:
        self._opened: dict[str, Data] = {}
        self._each: dict[str, float] = {}

    def data(self, config: Config) -> Data:
        """Return the data of a configuration, opened."""
        captioned = objectives.parse(config.objective).captioned
        key = repr((replace(config.data, workers=0, prefetch=0, val=""), captioned))
        if key not in self._opened:
            named = config.data.train, config.data.ssl or None
            self._opened[key], _ = asked.data_of(*named, config, captioned=captioned)
        return self._opened[key]

    def cost(self, config: Config) -> Cost:
        """Return what a run of this configuration costs. Raises ConfigError if the run has not a single step."""
        data, training = self.data(config), config.training
        records = data.epoch_length
        if share := share_of(config.data.val):
            records = round(records * (1 - share))
        steps = planned_steps(training, records)
        samples, why = (steps * training.batch, "") if steps else (None, "training.budget is a time")
        each, unknown = self._operations(config, data)
        return Cost(samples, each, "; ".join(filter(None, (why, unknown))), bool(share), records)

    def _operations(self, config: Config, data: Data) -> tuple[float | None, str]:
        config = asked.with_positives(config, classes=bool(labelled_ones(config.data.train)))
        loss = objectives.parse(config.objective)
        if config.init:
            return None, "its towers come with init"
        if any(need.by == "fixed" for need in loss.needs):
            return None, "it learns from a fixed model"
        if config.training.keep_features:
            return None, "the outputs that it keeps are not computed again"
        schedule = Schedule(config.training.batch, config.objective.ssl_every, config.objective.ssl_share)
        length = caption_length(config, data) if loss.captioned else 1
        key = json.dumps([repr((config.views, config.model, config.objective, schedule)), length])
        if key not in self._each:
            self._each[key] = operations_per_sample(config, loss, schedule, length)
        each = self._each[key]
        return (None, "an objective asks for numbers") if math.isnan(each) else (each, "")


def caption_length(config: Config, data: Data) -> int:
    """Return the tokens of a batch's longest caption, estimated from records spread over the data."""
    from openslip.data.own_tokenizer import tokenizer_of

    text = config.model.text
    if text.padded:
        return text.context
    tokenizer, source = tokenizer_of(text, b""), data.train
    lengths = []
    for number in range(min(SAMPLED, len(source))):
        try:
            captions = source[number * len(source) // min(SAMPLED, len(source))].captions
        except DataError:
            continue
        lengths += [tokenizer(caption).shape[1] for caption in captions if caption.strip()]
    return expected_longest(lengths, config.training.batch) if lengths else text.context


def expected_longest(lengths: Sequence[int], batch: int) -> int:
    """Return the expected largest of `batch` lengths drawn from these with replacement, rounded."""
    ordered = sorted(lengths)
    count = len(ordered)
    return round(
        sum(
            length * ((rank / count) ** batch - ((rank - 1) / count) ** batch)
            for rank, length in enumerate(ordered, 1)
        )
    )
