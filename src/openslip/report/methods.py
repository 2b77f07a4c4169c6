"""Stand-in with the shape of `openslip.objectives.parse`, until the contract of an objective is on main."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from openslip.config import ObjectiveConfig
from openslip.errors import ConfigError
from openslip.needs import IMAGE, SSL_VIEWS, TEXT, Need, View


@dataclass(frozen=True)
class Curve:
    key: str
    title: str
    note: str
    best: Literal["low", "high"]
    chance: Callable[[int, int], float] | None = None


@dataclass(frozen=True)
class Loss:
    title: str
    terms: tuple[str, ...]
    views: tuple[View, ...] = ()
    needs: tuple[Need, ...] = ()
    curves: tuple[Curve, ...] = ()
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


_CLIP = Loss(
    "CLIP",
    ("clip",),
    (IMAGE,),
    (Need("image", "embedding"), Need(TEXT, "embedding")),
    (
        Curve("clip_loss", "Image–text loss", "lower is better", "low", lambda batch, _: math.log(batch)),
        Curve(
            "clip_acc",
            "Image–text accuracy",
            "right caption found among the batch's",
            "high",
            lambda batch, _: 1 / batch,
        ),
    ),
    {"clip": {"block": 1024, "gradient": "exact"}},
)
_SIMCLR = Loss(
    "SimCLR",
    ("simclr",),
    SSL_VIEWS,
    tuple(Need(view.name) for view in SSL_VIEWS),
    (
        Curve(
            "simclr_loss",
            "Self-supervised loss",
            "lower is better",
            "low",
            lambda _, rows: math.log(max(1, 2 * rows - 1)),
        ),
        Curve(
            "simclr_acc",
            "Self-supervised accuracy",
            "twin view found among the batch's",
            "high",
            lambda _, rows: 1 / max(1, 2 * rows - 1),
        ),
    ),
    {"simclr": {"temperature": 0.1, "block": 1024, "width": 4096, "dim": 256}},
)


def parse(config: ObjectiveConfig) -> Loss:
    names = re.findall(r"[a-z_][\w:]*", config.loss.lower())
    known = {"clip": _CLIP, "simclr": _SIMCLR}
    if not names or not all(name in known for name in names):
        raise ConfigError("Unknown objective", got=config.loss)
    losses = [known[name] for name in names]
    return Loss(
        "SLIP" if len(losses) == 2 else losses[0].title,
        tuple(names),
        tuple(view for loss in losses for view in loss.views),
        tuple(need for loss in losses for need in loss.needs),
        tuple(curve for loss in losses for curve in loss.curves),
        {name: options for loss in losses for name, options in loss.options.items()},
    )
