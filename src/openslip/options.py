"""The options of a call that goes through many pictures or texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

import torch

from openslip.errors import ConfigError, did_you_mean

BATCH = 256
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Options(TypedDict, total=False):
    """How a call processes many pictures or texts; `workers` and `progress` do not change a bit of the result.

    batch: how many go through the model at a time, 256 by default; another number may round differently. workers:
    threads that read and decode pictures while the model computes; -1, the default, takes one for each core, up to 8,
    and 0 none. autocast: "bf16" or "fp16" lets torch compute in this precision where torch considers it safe; weights
    keep their precision. progress: whether to show the progress, with a bar on a terminal, else with a line now and
    then.
    """

    batch: int
    workers: int
    autocast: Literal["bf16", "fp16"] | None
    progress: bool


@dataclass(frozen=True)
class How:
    """`Options`, complete and checked."""

    batch: int = BATCH
    workers: int = -1
    autocast: Literal["bf16", "fp16"] | None = None
    progress: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> How:
        """Return the options of a call, with defaults. Raises ConfigError for an unknown option or value."""
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                raise ConfigError("There is no such option", got=name, fix=did_you_mean(name, names))
        how = cls(**options)
        whole = isinstance(how.batch, int) and isinstance(how.workers, int)
        if not whole or how.batch < 1 or how.workers < -1:
            raise ConfigError(
                "`batch` must be a whole number from 1 on, and `workers` from 0 on, or -1 for the machine's number",
                got=f"batch {how.batch!r}, workers {how.workers!r}",
            )
        if how.autocast not in (None, *AUTOCAST):
            raise ConfigError(
                "`autocast` has no such value",
                got=how.autocast,
                fix=did_you_mean(str(how.autocast), AUTOCAST),
            )
        return how
