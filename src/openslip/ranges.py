"""The allowed ranges of a configuration's numbers: marks in the annotations of fields, and the check of all fields."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from openslip.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The allowed range of a number, in the annotation of its field: `lr: Annotated[float, ABOVE_0]`.

    For a tuple, the range applies to each number. words: the range as messages show it.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf
    without_ends: bool = False

    def __contains__(self, value: float) -> bool:
        inside = self.low < value < self.high if self.without_ends else self.low <= value <= self.high
        return inside and -math.inf < value < math.inf


ANY = Range("a finite number")
"""The range of a field whose annotation names none."""
ABOVE_0 = Range("above 0", 0, without_ends=True)
FROM_0 = Range("at least 0", 0)
FROM_1 = Range("at least 1", 1)
SHARE = Range("from 0 to 1", 0, 1)
BELOW_1 = Range("at least 0 and less than 1", 0, math.nextafter(1, 0))


def range_of(hint: Any) -> Range | None:
    """Return the range that an annotation names."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Range)), None)


def check_ranges(config: Any, where: str = "") -> None:
    """Raise ConfigError for a number of a dataclass, or of a nested one, that is out of its range or not finite.

    where: the prefix of its fields' names, such as `objective.simclr.`.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), where + field.name
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
            continue
        allowed = range_of(hints[field.name]) or ANY
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and number not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} must be {allowed.words}", got=number)
