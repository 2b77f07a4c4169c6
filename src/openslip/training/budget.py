"""Training within a budget: of time, samples, steps or epochs instead of a configured number of epochs.

A budget of samples is a number of steps. A budget of time becomes a number of steps before the first step. A rehearsal
trains for a few steps (some 3 % of the budget), is timed, and is undone. The number of steps that fit into the rest is
written into the checkpoint and never changed. So the learning rate is a function of the step as in every other run, and
the whole schedule, warm-up and cosine, ends with the budget. The weights are those of a run with this number of
samples, resumed or not, however fast the machine is afterwards. The clock decides only the number of steps.

Steps count against the budget, waiting for data included. Measuring (`evaluation`) does not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from openslip.errors import ConfigError
from openslip.files import LARGEST

RESERVE = 0.03
"""Share of the time kept for saving, logging, and starting the data's processes."""
REHEARSAL = 0.03
"""Share of the time after which the rehearsal ends. Its first step, which starts everything, does not count."""
WARM_UP = 5
"""Steps that are not timed: compilation, caches, the first batch."""
TIMED = 50
"""Steps that are timed, if the budget allows it, ..."""
FEWEST_TIMED = 3
"""... and if it does not."""

OVERRUN = 1.5
"""A run that takes this many times its budget gets a warning."""

_SECONDS = {
    "w wk wks week weeks": 604_800, "d day days": 86_400, "h hr hrs hour hours": 3_600, "m min mins minute minutes": 60,
    "s sec secs second seconds": 1,
}  # fmt: skip
_UNITS = {word: seconds for words, seconds in _SECONDS.items() for word in words.split()}
_MANY = {
    "": 1, "k": 1e3, "thousand": 1e3, "M": 1e6, "mio": 1e6, "million": 1e6, "millions": 1e6, "G": 1e9, "B": 1e9,
    "billion": 1e9, "billions": 1e9,
}  # fmt: skip
_COUNTED = {
    "samples": ("sample", "samples", "image", "images", "pair", "pairs", "picture", "pictures"),
    "epochs": ("epoch", "epochs"),
    "steps": ("step", "steps", "iteration", "iterations", "iters"),
}
_NUMBER = r"(?:[0-9]{1,3}(?:[,_ ][0-9]{3})+|[0-9][0-9_]*)(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?"
"""1500, 1,500, 1_500, 1 500, 1.5, 1e6; not 1,5, which is 1.5 here and 15 there."""
_PART = re.compile(rf"\s*({_NUMBER})\s*([a-zA-Z]+)\s*(?:,|and\b)?", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9]):([0-5][0-9])|([0-9]+)\s*[hH]\s*([0-5][0-9])")
"""01:30:00, and 1h30."""


@dataclass(frozen=True)
class Budget:
    """Seconds of training, samples, epochs or steps. The others are 0; without a budget, all are 0."""

    seconds: float = 0.0
    samples: int = 0
    epochs: float = 0.0
    steps: int = 0


def parse_budget(text: str) -> Budget:
    """Read a time (`2h`, `90 minutes`, `1h 30m`, `1.5 days`, `01:30:00`), a number of samples (`12M samples`,
    `500,000 samples`, `5k samples`), of epochs (`10 epochs`) or of steps. An empty text is no budget.

    Raises ConfigError on anything else, and on a budget of 0.
    """
    words = text.strip()
    if not words:
        return Budget()
    budget = _counted(words) or Budget(seconds=_time(words))
    if not 0 < max(vars(budget).values()) < LARGEST:
        raise ConfigError(
            "The budget is neither a time nor a number of samples, epochs or steps",
            got=text,
            cause=_misread(words),
            fix="Write --training.budget 2h, 90m, '1h 30m', '45 seconds' or '1.5 days'; '12M samples', '500k samples' "
            "or '500,000 samples'; '10 epochs' or '2000 steps'",
        )
    return budget


def _counted(words: str) -> Budget | None:
    """Return a budget of samples, epochs or steps; None if the text is none."""
    match = re.fullmatch(rf"({_NUMBER})\s*([a-zA-Z]*)\s*\b([a-zA-Z]+)|({_NUMBER})([kMGB]?)([a-zA-Z]+)", words)
    if match is None:
        return None
    number, many, unit = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
    kind = next((kind for kind, words in _COUNTED.items() if unit.lower() in words), "")
    factor = _MANY.get(many, _MANY.get(many.lower()) if len(many) > 1 or many == "K" else None)
    if not kind or factor is None:
        return None
    value = _number(number) * Decimal(factor)
    if kind == "epochs":
        return Budget(epochs=float(value))
    if value != value.to_integral_value():
        return None
    return Budget(samples=int(value)) if kind == "samples" else Budget(steps=int(value))


def _time(words: str) -> float:
    """Return the seconds of a time, 0 if the text is none. A time has parts of different units, the longest first."""
    if clock := _CLOCK.fullmatch(words):
        hours, minutes, seconds = (
            int(found or 0) for found in (clock[1] or clock[4], clock[2] or clock[5], clock[3])
        )
        return 3600.0 * hours + 60 * minutes + seconds
    at, total, before = 0, 0.0, math.inf
    while at < len(words):
        part = _PART.match(words, at)
        unit = _UNITS.get(part[2].lower(), 0) if part and part[2] != "M" else 0  # millions, of something
        if part is None or not 0 < unit < before:
            return 0.0
        total, before, at = total + float(_number(part[1])) * unit, unit, part.end()
    return total if not words.endswith((",", "and")) else 0.0


def _number(text: str) -> Decimal:
    """Return exactly the number that is written, so that 1.001 thousand is 1,001 and no fraction."""
    return Decimal(re.sub("[,_ ]", "", text))


def _misread(words: str) -> str:
    """Return why a budget is not clear, if known; else ""."""
    if re.fullmatch(_NUMBER, words):
        return "A number alone may be hours, epochs or samples"
    if re.fullmatch(rf"{_NUMBER}\s*[kMGB]", words):
        return "It does not say what the number counts"
    if re.search(r"\d,\d{1,2}(?!\d)", words):
        return "A comma separates thousands; write 1.5 for one and a half"
    small = re.fullmatch(rf"{_NUMBER}\s*m\s*([a-z]+)", words)
    if small and any(small[1] in units for units in _COUNTED.values()):
        return "A small m stands for minutes, M for millions"
    if re.fullmatch(r"\d+:\d\d", words):
        return "It may be hours and minutes, or minutes and seconds"
    if re.search(r"[a-z][\s,]+\d+$", words, re.IGNORECASE):
        return "Its last number has no unit"
    if words.startswith("-"):
        return "It is below zero"
    return ""


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


class Overrun:
    """Warns once when steps take half as long again as their budget of `seconds`; with 0 seconds, never."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.said = seconds, False

    def check(self, spent: float, left: int) -> str:
        """Return a warning when the steps have taken `spent` seconds and `left` steps are left; "" for none.

        At the end, with no steps left, the warning comes again.
        """
        if not self.seconds or spent <= OVERRUN * self.seconds or (self.said and left):
            return ""
        self.said = True
        taken = f"the steps have taken {duration(spent)} of a budget of {duration(self.seconds)}"
        rest = f". Steps left: {left:,}. Their number does not change; Ctrl-C saves and stops" if left else ""
        return f"warning: {taken}: they became slower after they were timed{rest}"


class Forecast:
    """How long a run of so many steps will take, once a few were timed."""

    FEWEST, LONGEST = 10, 30.0
    """Steps that are timed, and the seconds after which three are enough."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._passed = 0

    def add(self, seconds: float, left: int) -> str:
        """Take note of a step's seconds, with `left` steps to come; return the forecast once, else ""."""
        self._passed += 1
        if self._passed <= 2 or len(self._seconds) >= self.FEWEST:  # they start everything
            return ""
        self._seconds.append(seconds)
        if len(self._seconds) < self.FEWEST and (len(self._seconds) < 3 or sum(self._seconds) < self.LONGEST):
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        timed, self._seconds = len(self._seconds), self._seconds + [0.0] * self.FEWEST
        if left * mean < 10:
            return ""
        end = datetime.now().astimezone() + timedelta(seconds=left * mean)
        return (
            f"duration   about {duration(left * mean)} for {left:,} more steps, until {end:%a %H:%M}, measuring not "
            f"counted ({mean:.3g} s a step, mean of {timed})"
        )


def duration(seconds: float) -> str:
    """Return a time in words: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
