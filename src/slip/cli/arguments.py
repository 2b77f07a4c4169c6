"""From command-line words to typed values, with tyro; what the subcommands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from slip.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from slip.data.record import Source

T = TypeVar("T")


def parse(cls: type[T], argv: list[str], *, prog: str, default: T | None = None, description: str = "") -> T:
    """Parse `argv` into dataclass `cls`; a wrong option ends the process with status 2 and a suggestion.

    Raises ConfigError for what the shell has made of a pattern that did not stand in quotes.
    """
    import tyro

    run: Any = partial(
        tyro.cli,
        cls,
        args=argv,
        prog=prog,
        default=default,
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    for files in _file_runs(argv):
        parsed, unknown = run(return_unknown_args=True)
        if not {*files}.isdisjoint([*unknown, str(getattr(parsed, "folder", ""))]):
            _refuse_expanded(files)
    return run()


def _file_runs(argv: list[str]) -> Iterator[list[str]]:
    """Yield each several files of one ending that follow one another in `argv`."""
    for ending, found in groupby(argv, key=lambda word: os.path.splitext(word)[1]):
        files = list(found)
        if len(files) > 1 and ending and all(map(os.path.isfile, files)):
            yield files


def _refuse_expanded(files: list[str]) -> None:
    """Raise ConfigError if a pattern stands for these files: the shell has put them in its place."""
    if pattern := _pattern(files, os.path.splitext(files[0])[1]):
        raise ConfigError(
            f"The shell has put {len(files):,} files in the place of a pattern",
            got=f"{files[0]} … {files[-1]}",
            cause="Patterns are for this command to expand, and the shell leaves those in quotes alone",
            fix=f"Put it in quotes: {pattern!r}",
        )


def _pattern(files: list[str], ending: str) -> str:
    """Return the pattern that the files were probably named by: one for these alone, else for more, else ""."""
    stems = [file.removesuffix(ending) for file in files]
    head = stems[0][: sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*stems)))]
    parts = [part[0] if len({*part}) == 1 else "*" for part in zip(*(file.split("/") for file in files))]
    anywhere = "/".join([*parts[:-1], f"*{ending}" if parts[-1] == "*" else parts[-1]])
    listed = f"{head}{{{','.join(stem[len(head) :] for stem in stems)}}}{ending}"
    patterns = (anywhere, f"{head}*{ending}", listed)
    found = {pattern: _found(pattern) for pattern in patterns}
    exact = (pattern for pattern in patterns if found[pattern] == {*files})
    return next(exact, next((pattern for pattern in patterns if found[pattern] > {*files}), ""))


def _found(pattern: str) -> set[str]:
    from slip.data.storage.paths import find_paths

    try:
        return set(find_paths(pattern))
    except DataError:
        return set()


def say_note(source: Source) -> None:
    """Print to stderr what was guessed when a source was opened, and what of it is not used, if so much is lost."""
    from slip.data.contents import losses

    for line in filter(None, (getattr(source, "note", ""), *losses(source))):
        print(printable(line), file=sys.stderr)


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
