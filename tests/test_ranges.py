"""Every number of a configuration is in its range, or refused in words before anything is written."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip import recipes
from openslip.config import Config, ObjectiveConfig
from openslip.errors import ConfigError
from openslip.objectives import known, parse
from openslip.ranges import ABOVE_0, ANY, BELOW_1, FROM_0, FROM_1, SHARE, check_ranges, range_of
from toys import make_student, make_tiny_config, plan_of

NEGATIVE = ("views.mean",)


def numbers(part: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in dataclasses.fields(part):
        value, path = getattr(part, field.name), (*prefix, field.name)
        if isinstance(value, dict):
            continue
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


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_within(name) -> None:
    config = recipes.get(name)
    check_ranges(config)
    for term in parse(config.objective).terms:
        check_ranges(term.config)
    made(CONFIG)


@pytest.mark.parametrize("name", known())
def test_odd_options_of_objectives_are_refused(name) -> None:
    kind = known()[name].Config
    hints = typing.get_type_hints(kind, include_extras=True)
    for (option,), value in numbers(kind()):
        allowed = range_of(hints[option]) or ANY
        for odd in (-3,) if isinstance(value, int) else (-3.0, math.nan, math.inf):
            if odd in allowed:
                continue
            several = isinstance(getattr(kind(), option), tuple)
            options = {name: {option: [odd, odd] if several else odd}}
            with pytest.raises(ConfigError, match=f"--objective.{name}.{option.replace('_', '-')} must be"):
                parse(ObjectiveConfig(loss=name, options=options))


def annotated(part: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(type(part), include_extras=True)
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from annotated(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], value


def test_ranges_are_of_numbers() -> None:
    parts = [("", Config()), *((f"objective.{name}.", kind.Config()) for name, kind in known().items())]
    found = [entry for prefix, part in parts for entry in annotated(part, prefix)]
    ranged = {name: value for name, hint, value in found if range_of(hint)}
    assert {
        "optimizer.betas",
        "objective.simclr.temperature",
        "views.ssl.flip",
        "training.seed",
    } <= ranged.keys()
    for name, value in ranged.items():
        for number in value if isinstance(value, tuple) else (value,):
            assert type(number) in (int, float), name


@dataclasses.dataclass(frozen=True)
class Inner:
    rates: Annotated[tuple[float, ...], BELOW_1] = (0.5,)
    free: float = -3.0
    text: str = "x"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    count: Annotated[int, FROM_1, "other marks"] = 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Outer(Inner((0.5, 1.0))), "--part.inner.rates must be at least 0 and less than 1. Got: 1.0"),
        (Outer(Inner(free=math.nan)), "--part.inner.free must be a finite number. Got: nan"),
        (Outer(count=0), "--part.count must be at least 1. Got: 0"),
        (Outer(), ""),
    ],
)
def test_any_dataclass_is_walked(value, told) -> None:
    with pytest.raises(ConfigError, match=told) if told else nullcontext():
        check_ranges(value, "part.")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_within(value) -> None:
    assert (value in ABOVE_0) == (0 < value < math.inf)
    assert (value in FROM_0) == (0 <= value < math.inf)
    assert (value in BELOW_1) == (0 <= value < 1)
    assert (value in SHARE) == (0 <= value <= 1)


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
