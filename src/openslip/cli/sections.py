"""The options of objectives on the command line: `--objective.NAME.option`, for every objective that is known.

The parser takes dataclasses. So it gets the configuration with one more field for each objective's own `Config`. The
result becomes a plain configuration again, whose `objective.options` hold the options that are set.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import tyro

from openslip import objectives, toml
from openslip.config import Config, ObjectiveConfig


def with_sections(config: Config) -> Config:
    """Return the configuration as an instance of a class that has the options of every known objective as fields.

    Raises ConfigError for options that are unknown or of the wrong type.
    """
    fields: list[Any] = [
        ("options", Mapping[str, Any], dataclasses.field(init=False, default_factory=dict, hash=False))
    ]
    own = {}
    for name, kind in objectives.known().items():
        options = dict(config.objective.options.get(name, {}))
        own[name] = toml.from_dict(options, kind.Config, kind.Config(), f"objective.{name}.")
        about = Annotated[kind.Config, tyro.conf.arg(help=_what_it_is(kind))]
        fields.append((name, about, dataclasses.field(default_factory=kind.Config)))
    section = _subclass(ObjectiveConfig, fields)
    whole = _subclass(Config, [("objective", section, dataclasses.field(default_factory=section))])
    objective = section(**(_values(config.objective) | own))
    return whole(**(_values(config) | {"objective": objective}))


def without_sections(config: Config, base: Config, given: Collection[str]) -> Config:
    """Return the parsed form of `with_sections(base)` as a plain configuration.

    An option is kept if `base` has it, if it was `given` (`objective.simclr.temperature`), or if it is not the default.
    """
    sections = {name: dict(options) for name, options in base.objective.options.items()}
    for name, kind in objectives.known().items():
        usual, said = toml.to_dict(kind.Config()), sections.pop(name, {})
        options = {
            option: value
            for option, value in toml.to_dict(getattr(config.objective, name)).items()
            if option in said or value != usual[option] or _was_given(f"objective.{name}.{option}", given)
        }
        if options:
            sections[name] = options
    objective = ObjectiveConfig(options=sections, **_values(config.objective, ObjectiveConfig))
    return Config(**(_values(config) | {"objective": objective}))


def of_the_loss(config: Config) -> tuple[Config, list[str]]:
    """Return the configuration without options of objectives outside its loss, and the names of these objectives."""
    objective = config.objective
    terms = {term.kind.name for term in objectives.parse(objective).terms}
    kept = {name: options for name, options in objective.options.items() if name in terms}
    others = sorted(objective.options.keys() - kept.keys())
    return dataclasses.replace(config, objective=dataclasses.replace(objective, options=kept)), others


def _what_it_is(kind: type[objectives.Objective]) -> str:
    """Return the first paragraph of the docstring of an objective's module, else of its class."""
    module = sys.modules.get(kind.__module__)
    text = inspect.cleandoc(getattr(module, "__doc__", None) or kind.__doc__ or kind.title)
    return " ".join(text.split("\n\n")[0].split())


def _was_given(name: str, given: Collection[str]) -> bool:
    return any(option == name or option.startswith(f"{name}.") for option in given)


def _values(config: Any, cls: type | None = None) -> dict[str, Any]:
    """Return the fields of a dataclass, or only the fields of `cls`, with their values, but without `options`."""
    names = [field.name for field in dataclasses.fields(cls or config)]
    return {name: getattr(config, name) for name in names if name != "options"}


def _subclass(cls: type, fields: list[Any]) -> type:
    return dataclasses.make_dataclass(
        cls.__name__, fields, bases=(cls,), namespace={"__doc__": cls.__doc__}, frozen=True, kw_only=True
    )
