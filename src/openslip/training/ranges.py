"""The ranges of a configuration's numbers, but for those that the views and the objective know better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openslip.config import Config
from openslip.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """What a number may be. words: the same for people."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    without_ends: bool = False

    def __contains__(self, value: float) -> bool:
        inside = self.low < value < self.high if self.without_ends else self.low <= value <= self.high
        return inside and -math.inf < value < math.inf


ANY = Range("a finite number")
ABOVE_0 = Range("above 0", 0, without_ends=True)
FROM_0 = Range("at least 0", 0)
A_BILLION = 1e9
FROM_1 = Range("at least 1", 1)
SHARE = Range("from 0 to 1", 0, 1)
BELOW_1 = Range("at least 0 and less than 1", 0, math.nextafter(1, 0))
OR_CHOSEN = Range("at least 0, or -1 for a good choice", -1)
SEED = Range("from 0 to 2^63 - 1", 0, 2**63 - 1)

RANGES = {
    "data.workers": OR_CHOSEN,
    "data.prefetch": OR_CHOSEN,
    "data.max_skipped": SHARE,
    "views.std": ABOVE_0,
    "model.image.drop_path": BELOW_1,
    "model.text.context": Range("at least 3: start, a token, end", 3),
    "model.ssl.width": FROM_1,
    "model.ssl.dim": FROM_1,
    "model.embed_dim": FROM_1,
    "optimizer.lr": FROM_0,
    "optimizer.lr_start": FROM_0,
    "optimizer.lr_end": FROM_0,
    "optimizer.weight_decay": FROM_0,
    "optimizer.betas": BELOW_1,
    "optimizer.eps": FROM_0,
    "optimizer.warmup_epochs": Range("from 0 to a billion", 0, A_BILLION),
    "optimizer.clip_grad": Range("at least 0, which is no clipping", 0),
    "training.epochs": Range("above 0, and less than a billion", 0, A_BILLION, without_ends=True),
    "training.batch": Range("at least 2: a contrast needs two samples", 2),
    "training.micro_batch": Range("at least 0, which is the whole batch", 0),
    "training.seed": SEED,
    "training.max_nonfinite": FROM_1,
    "training.log_every": FROM_1,
    "training.profile": Range("at least 0, which is none", 0),
    "checkpoint.every_steps": Range("at least 0, which is never", 0),
    "checkpoint.every_minutes": Range("at least 0, which is never", 0),
    "checkpoint.keep": FROM_1,
    "evaluation.every_epochs": Range("at least 0, which is at the end alone", 0),
}


def check_ranges(config: Config) -> None:
    """Raise ConfigError for a number that is out of its range, or not finite."""
    for name, values in _numbers(config):
        allowed = RANGES.get(name, ANY)
        for value in values:
            if value not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} must be {allowed.words}", got=value)


def _numbers(part: Any, prefix: str = "") -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the numbers of a configuration by name: one, or several of a range or of colours."""
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
            continue
        values = value if isinstance(value, tuple) else (value,)
        if all(isinstance(v, (int, float)) for v in values):
            yield name, values
