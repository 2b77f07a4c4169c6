"""Configurations as TOML files."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from openslip.addresses import without_keys
from openslip.config import Config
from openslip.errors import ConfigError, did_you_mean, printable, shortened
from openslip.files import LARGEST, read_whole

LONGEST = 1 << 18
"""Most bytes of a configuration file; ours have three thousand."""
MOST_DOTS = 1000
"""Most dots in a line of a configuration file. The parser's time and memory grow with the square of a key's parts: 256
kB of `a.a.a.a` take all memory."""

MOVED = {
    "training.tensorboard": ("tracking.tensorboard",),
    "objective.temperature": ("objective.simclr.temperature",),
    "objective.block": ("objective.clip.block", "objective.simclr.block"),
    "objective.gradient": ("objective.clip.gradient",),
    "model.ssl.width": ("objective.simclr.width",),
    "model.ssl.dim": ("objective.simclr.dim",),
    "model.image.pretrained": ("init",),
}
"""Keys of earlier versions → their present places, so that old run folders can still be read."""
_told: set[tuple[str, ...]] = set()


def to_dict(config: Any) -> dict[str, Any]:
    """Return the nested plain form of a configuration (tuples become lists).

    Sections in a field of mappings become sections beside the fields: `options["simclr"]` of `objective` becomes
    `objective.simclr`.
    """
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        plain |= (
            value
            if isinstance(value, dict) and field.name == _open_field(type(config))
            else {field.name: value}
        )
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _open_field(cls: type) -> str:
    """Return the field of a class that holds sections whose names are no fields, such as `ObjectiveConfig.options`."""
    hints = typing.get_type_hints(cls)
    return next((name for name, hint in hints.items() if typing.get_origin(hint) is Mapping), "")


def flat(config: Config) -> dict[str, Any]:
    """Return the values of a configuration by their full keys, `training.batch`."""
    return _flat(to_dict(config))


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in data.items():
        values |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def dumps(config: Config) -> str:
    """Return the configuration as TOML text that `loads` reads back to an equal one.

    Raises ConfigError for texts that no file in UTF-8 can hold.
    """
    import tomli_w

    text = tomli_w.dumps(to_dict(config))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            "A value cannot be written into a configuration file",
            got=text[max(0, error.start - 60) : error.end + 20],
            cause="It has characters that are no text, like the name of a file that is not in UTF-8",
            fix="Rename the file or folder",
        ) from None
    return text


def shareable(config: Config) -> dict[str, Any]:
    """Return `to_dict` of a configuration without passwords and signatures of addresses, to leave this machine."""
    return tomllib.loads(without_keys(dumps(config)))


def from_dict(data: dict[str, Any], cls: type = Config, base: Any = None, where: str = "") -> Any:
    """Build a `cls` from its nested plain form; keys left out keep the value of `base` (default: the defaults).

    Raises ConfigError on an unknown key (with the closest known one) or a value of the wrong type. Sections with open
    names, such as `objective.NAME`, are taken unchecked: the code that knows the name checks them.
    """
    base = cls() if base is None else base
    hints, field = typing.get_type_hints(cls), _open_field(cls)
    sections = dict(getattr(base, field)) if hints.pop(field, None) else {}
    changes = {}
    for key, value in data.items():
        if key not in hints:
            if field and isinstance(value, dict):
                sections[key] = {**sections.get(key, {}), **value}
                continue
            key = shortened(key, 60)
            raise ConfigError(f"Unknown configuration key '{where}{key}'", fix=did_you_mean(key, hints))
        hint, current = hints[key], getattr(base, key)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ConfigError(f"'{where}{key}' is a section, not a value", got=value)
            changes[key] = from_dict(value, typing.cast(type, hint), current, f"{where}{key}.")
        else:
            changes[key] = _coerce(value, hint, where + key)
    if field:
        changes[field] = sections
    return dataclasses.replace(base, **changes)


def loads(text: str, base: Config | None = None, *, only: Collection[str] = ()) -> Config:
    """Parse TOML text into a configuration; keys left out keep the value of `base`.

    only: the sections and keys to read (`model`, `objective.loss`), if others may be of another version.
    """
    data = parsed(text)
    _move(data)
    return from_dict(_kept(data, only) if only else data, Config, base)


def parsed(text: str, what: str = "The configuration") -> dict[str, Any]:
    """Return the values of untrusted TOML text. Raises ConfigError. what: the name of the file in the error."""
    try:
        if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
            raise RecursionError
        return tomllib.loads(text)
    except ValueError as error:  # also of a number of more digits than Python converts
        raise ConfigError(f"{what} is not valid TOML", cause=shortened(str(error))) from None
    except RecursionError:
        raise ConfigError(f"{what} is not valid TOML", cause="Its values are nested too deeply") from None


def _kept(data: dict[str, Any], only: Collection[str]) -> dict[str, Any]:
    """Return only the named sections and keys of a configuration."""
    kept: dict[str, Any] = {}
    for path in only:
        section, _, key = path.partition(".")
        found = data.get(section)
        if not key and section in data:
            kept[section] = found
        elif isinstance(found, dict) and key in found:
            kept[section] = {key: found[key]}
    return kept


def _move(data: dict[str, Any]) -> tuple[str, ...]:
    """Move keys of an earlier version to their present places; return the old keys that were found."""
    found = []
    if _take(data, ["model", "image", "pretrained"]):
        # If it was false, nothing follows from it.
        found.append("model.image.pretrained")
        name = data.get("model", {}).get("image", {}).get("name", "")
        data.setdefault("init", f"timm:{name}")
    for old, new in MOVED.items():
        value = _take(data, old.split("."))
        if value is not None:
            found.append(old)
            for target in new:
                _put(data, target.split("."), value)
    return tuple(found)


def _take(data: dict[str, Any], path: list[str]) -> Any:
    """Remove a value, with sections that hold nothing else; return the value, None if there is none."""
    name, *rest = path
    inner = data.get(name)
    if isinstance(inner, dict) != bool(rest):
        return None
    if not rest:
        return data.pop(name, None)
    value = _take(inner, rest) if isinstance(inner, dict) else None
    if value is not None and not inner:
        del data[name]
    return value


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value unless the key exists: the new name takes precedence.

    If a section's name has another value, nothing is set, and `from_dict` reports the error.
    """
    *sections, key = path
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            return
    data.setdefault(key, value)


def load(path: str | Path) -> Config:
    """Read a configuration file written by `dumps` or by hand. Warns once about keys of an earlier version."""
    text = read(path)
    try:
        data = parsed(text)
        moved = _move(data)
        config = from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"In {path}: {error}") from None
    if moved and moved not in _told:
        _told.add(moved)
        told = "; ".join(f"{old} is {' and '.join(MOVED[old])}" for old in moved)
        import logging

        logging.getLogger("openslip.toml").warning(
            printable(f"{path} was written by an earlier version, and is read as follows: {told}")
        )
    return config


def read(path: str | Path) -> str:
    """Return the text of a configuration file. Raises ConfigError."""
    try:
        return read_whole(path, LONGEST).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "The configuration file cannot be read", got=str(path), cause=str(error), fix="Check the path."
        ) from None


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Check `value` against a field's type: bool, int, float, str, Literal, or a tuple of those."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"'{where}' takes a list", got=value)
        if args[-1] is Ellipsis:
            return tuple(_coerce(v, args[0], where) for v in value)
        if len(value) != len(args):
            raise ConfigError(f"'{where}' takes {len(args)} values", got=value)
        return tuple(_coerce(v, a, where) for v, a in zip(value, args))
    if origin is Literal:
        if value not in args:
            given = shortened(str(value), 60)
            raise ConfigError(f"'{where}' has no choice {given!r}", fix=did_you_mean(given, map(str, args)))
        return value
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise ConfigError(f"'{where}' takes no number of so many digits", got=len(str(abs(value))))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"'{where}' takes a value of type {hint.__name__}", got=value)
    return value
