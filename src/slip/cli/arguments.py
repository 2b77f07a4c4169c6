"""From command-line words to typed values, with tyro; what the subcommands share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from slip.errors import ConfigError, printable

if TYPE_CHECKING:
    from slip.data.record import Source

T = TypeVar("T")


def parse(cls: type[T], argv: list[str], *, prog: str, default: T | None = None, description: str = "") -> T:
    """Parse `argv` into dataclass `cls`; a wrong option ends the process with status 2 and a suggestion."""
    import tyro

    return tyro.cli(
        cls,
        args=argv,
        prog=prog,
        default=default,
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def say_note(source: Source) -> None:
    """Print what was guessed when a source was opened, if anything was, to stderr."""
    note = getattr(source, "note", "")
    if note:
        print(printable(note), file=sys.stderr)


def take_positional(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split a leading word that is no option off `argv`."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return None, argv


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Split `name VALUE` or `name=VALUE` off `argv`."""
    for i, word in enumerate(argv):
        if word == name:
            if i + 1 == len(argv):
                raise ConfigError(f"{name} takes a value")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if word.startswith(name + "="):
            return word.removeprefix(name + "="), argv[:i] + argv[i + 1 :]
    return None, argv
