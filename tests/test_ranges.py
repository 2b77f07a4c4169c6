"""Every number of a configuration is in its range, or refused in words before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from openslip import recipes
from openslip.config import Config
from openslip.errors import ConfigError
from openslip.ranges import check_ranges
from toys import make_student, make_tiny_config, plan_of

NEGATIVE = ("views.mean",)


def numbers(part: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in dataclasses.fields(part):
        value, path = getattr(part, field.name), (*prefix, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, path)
        elif not isinstance(value, (bool, str)) and value != ():
            yield path, value


def with_value(part: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(
        part, **{name: with_value(getattr(part, name), tuple(rest), value) if rest else value}
    )


def made(config: Config) -> None:
    """Do what comes before a run folder is created."""
    plan_of(config, 64)
    make_student(config)


CONFIG = make_tiny_config()
ODD = [
    pytest.param(path, odd, id=f"{'.'.join(path)} {odd}")
    for path, value in numbers(CONFIG)
    for odd in ((-3, -3.5, math.nan, math.inf) if not isinstance(value, int) else (-3,))
    if not (odd in (-3, -3.5) and ".".join(path) in NEGATIVE)
]


@pytest.mark.parametrize(("path", "odd"), ODD)
def test_odd_numbers_are_refused(path, odd) -> None:
    value = CONFIG
    for name in path:
        value = getattr(value, name)
    with pytest.raises(ConfigError):
        made(with_value(CONFIG, path, (odd,) * len(value) if isinstance(value, tuple) else odd))


def test_the_numbers_of_every_recipe_are_in_their_ranges() -> None:
    for name in recipes.RECIPES:
        check_ranges(recipes.get(name))
    made(CONFIG)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("optimizer.lr", -0.001, "--optimizer.lr must be at least 0. Got: -0.001"),
        ("optimizer.betas", (0.9, 1.0), "--optimizer.betas must be at least 0 and less than 1. Got: 1.0"),
        ("training.seed", 2**63, "--training.seed must be from 0 to 2"),
        ("training.epochs", 1e300, "--training.epochs must be above 0, and less than a billion"),
        ("checkpoint.keep", 0, "--checkpoint.keep must be at least 1. Got: 0"),
        ("views.mean", (0.5, math.inf, 0.5), "--views.mean must be a finite number. Got: inf"),
    ],
)
def test_what_is_refused_is_named_as_on_the_command_line(path, value, told) -> None:
    with pytest.raises(ConfigError, match=told):
        check_ranges(with_value(CONFIG, tuple(path.split(".")), value))
