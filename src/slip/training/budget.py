"""Training for as long as one has: a budget of time or of samples instead of a number of epochs.

A budget of samples is a number of steps. A budget of time becomes one before the first step: a rehearsal trains for
a few steps (some 3 % of the budget), is timed, and is undone; the number of steps that fit into the rest is written
into the checkpoint and never changed. So the learning rate is a function of the step as in every other run, the whole
schedule, warm-up and cosine, ends with the budget, and the weights are those of a run that was given this number of
samples: resumed or not, however fast the machine goes on. Only the number itself is a matter of the clock.

What counts are the steps, waiting for data included. Measuring (`evaluation`) does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from slip.errors import ConfigError

RESERVE = 0.03
"""Share of the time kept for saving, logging, and starting the data's processes."""
REHEARSAL = 0.03
"""Share of the time after which the rehearsal ends, its first step, which starts everything, not counted."""
WARM_UP = 5
"""Steps that are not timed: compilation, caches, the first batch."""
TIMED = 50
"""Steps that are timed, if the budget allows it, ..."""
FEWEST_TIMED = 3
"""... and if it does not."""

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_SAMPLES = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)samples?")
_SECONDS = (86_400, 3_600, 60, 1)
_MANY = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


@dataclass(frozen=True)
class Budget:
    """Seconds of training, or samples; the other is 0, and both where epochs count."""

    seconds: float = 0.0
    samples: int = 0


def parse_budget(text: str) -> Budget:
    """Read `2h`, `90m`, `1h30m`, `1.5d`, `45s`, or `12M samples`, `500k samples`, `500,000 samples`; empty: neither.

    Raises ConfigError on anything else, and on a budget of nothing.
    """
    words = re.sub(r"[\s,_]", "", text)
    if not words:
        return Budget()
    if time := _TIME.fullmatch(words):
        budget = Budget(seconds=sum(float(n) * unit for n, unit in zip(time.groups("0"), _SECONDS)))
    elif samples := _SAMPLES.fullmatch(words):
        budget = Budget(samples=round(float(samples[1]) * _MANY[samples[2]]))
    else:
        budget = Budget()
    if budget == Budget():
        raise ConfigError(
            "The budget is neither a time nor a number of samples",
            got=text,
            fix="Write --training.budget 2h, 90m, 1h30m or 45s; or '12M samples', '500k samples', '500000 samples'",
        )
    return budget


class Rehearsal:
    """How fast steps are, and how many of them fit into a budget of `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent, self.first = seconds, 0.0, 0.0
        self.steps = 0
        self.timed: list[float] = []

    @property
    def done(self) -> bool:
        """Whether enough steps were timed, or more would cost the budget too much."""
        long = self.spent - self.first >= REHEARSAL * self.seconds
        return len(self.timed) >= (FEWEST_TIMED if long else TIMED)

    def add(self, seconds: float) -> None:
        """Take note of a step. The first two are never timed, a few more only where there is no time for later ones."""
        self.steps += 1
        if self.steps == 1:
            self.first = seconds
        short = self.spent - self.first >= REHEARSAL / 2 * self.seconds
        if self.steps > WARM_UP or (self.steps > 2 and short):
            self.timed.append(seconds)
        self.spent += seconds

    @property
    def step_seconds(self) -> float:
        """Mean duration of the timed steps."""
        return sum(self.timed) / len(self.timed)

    def fitting(self) -> int:
        """Return how many steps fit into what is left of the budget, one at least."""
        left = (1 - RESERVE) * self.seconds - self.spent
        return max(1, int(left / max(self.step_seconds, 1e-9)))
