"""From command-line words to typed values, with tyro; what the subcommands share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from openslip.cli import described, hints
from openslip.cli.described import Option
from openslip.cli.help import ALL, asks_for_help, help_text
from openslip.errors import ConfigError, DataError, UsageError, printable

if TYPE_CHECKING:
    import torch

    from openslip.data.record import Source

T = TypeVar("T")


def parse(
    cls: type[T],
    argv: list[str],
    *,
    prog: str,
    default: T | None = None,
    description: str = "",
    examples: str = "",
    first: Collection[str] = (),
) -> T:
    """Parse `argv` into dataclass `cls`; a wrong option ends the process with status 2 and a suggestion.

    With `--help` among the words, print the help and end the process with status 0. examples: command lines, each with
    an indented explanation below. first: names of the options that `--help` shows, if `--help-all` shows more.

    Raises UsageError for an option that is given twice or has another name here, and ConfigError for the files to which
    the shell has expanded a pattern without quotes.
    """
    if asks_for_help(argv):
        every = [*described.options(cls, default)]
        shown = () if ALL in argv else first
        print(help_text(every, prog=prog, description=description, examples=examples, first=shown))
        sys.exit(0)
    _check_options(cls, argv)

    import tyro

    run: Any = partial(
        tyro.cli,
        cls,
        args=argv,
        prog=prog,
        default=default,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    parsed, unknown = run(return_unknown_args=True)
    for files in _file_runs(argv):
        if not {*files}.isdisjoint([*unknown, str(getattr(parsed, "folder", ""))]):
            _refuse_expanded(files)
    if unknown and not any(word.startswith("-") for word in unknown):
        raise UsageError(
            "There are more words than the command takes",
            got=" ".join(unknown),
            fix=f"Values follow the name of their option; `{prog} --help` lists the options",
        )
    return run() if unknown else parsed


def given(cls: type, argv: list[str]) -> set[str]:
    """Return the options of dataclass `cls` that `argv` gives, by their names in Python: `out`, `data.image_column`.
    An alias counts as the option that it stands for."""
    known = by_spelling(cls)
    return {known[word].name for _, word in _spelled(argv) if word in known}


def refuse_idle(given: Collection[str], *names: str, because: str, fix: str = "Leave it out") -> None:
    """Raise UsageError if one of the options `names` was `given`, which has no effect: `because`. A name such as
    `views.ssl.` stands for all options of a section."""
    for name in names:
        for found in sorted(given):
            if found == name or (name.endswith(".") and found.startswith(name)):
                raise UsageError(f"--{_hyphens(found)} has no effect here", cause=because, fix=fix)


def _check_options(cls: type, argv: list[str]) -> None:
    """Raise UsageError for an option that is given twice, or has another name here."""
    known, positions = by_spelling(cls), dict[str, int]()
    for i, word in _spelled(argv):
        option = known.get(word)
        if option is None:
            if error := hints.unknown_option(word, {name.removeprefix("--") for name in known}):
                raise error
            continue
        if option.name in positions and not option.flag:  # a flag means the same twice: scripts add --resume
            _refuse_twice(argv, positions[option.name], i, option)
        positions[option.name] = i


def _refuse_twice(argv: list[str], first: int, second: int, option: Option) -> NoReturn:
    def at(position: int) -> str:
        words = [argv[position]]
        if "=" not in argv[position]:
            following = takewhile(lambda word: not word.startswith("--"), argv[position + 1 :])
            words += list(following) if option.several else list(following)[:1]
        return " ".join(words)

    name = argv[first].partition("=")[0]
    raise UsageError(
        f"The option {name} is given twice",
        got=f"{at(first)} and {at(second)}",
        cause="Only the second would count",
        fix=f"Give all values at once, `{name} A B`" if option.several else "Leave one of them out",
    )


def _spelled(argv: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the index of each word before `--` that may be an option, and the option as help spells it, without
    `=VALUE`."""
    for i, word in enumerate(takewhile(lambda word: word != "--", argv)):
        name = word.partition("=")[0]
        if name.startswith("--"):
            yield i, "--" + _hyphens(name[2:])
        elif name[:1] == "-" and name[1:2].isalpha():
            yield i, name


def by_spelling(cls: type) -> dict[str, Option]:
    """Return the options of dataclass `cls` by each of their spellings, `--image-root`."""
    return {spelling: option for option in described.options(cls) for spelling in option.spellings}


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _file_runs(argv: list[str]) -> Iterator[list[str]]:
    """Yield each group of several files with one ending that follow one another in `argv`."""
    for ending, found in groupby(argv, key=lambda word: os.path.splitext(word)[1]):
        files = list(found)
        if len(files) > 1 and ending and all(map(os.path.isfile, files)):
            yield files


def _refuse_expanded(files: list[str]) -> None:
    """Raise ConfigError if a pattern matches these files: the shell has probably expanded it."""
    if pattern := _pattern(files, os.path.splitext(files[0])[1]):
        raise ConfigError(
            f"The shell has put {len(files):,} files in the place of a pattern",
            got=f"{files[0]} … {files[-1]}",
            cause="This command expands patterns itself, and the shell leaves patterns in quotes alone",
            fix=f"Put it in quotes: {pattern!r}",
        )


def _pattern(files: list[str], ending: str) -> str:
    """Return the pattern that the user probably typed: one for exactly these files, else for more, else ""."""
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
    from openslip.data.storage.paths import find_paths

    try:
        return set(find_paths(pattern))
    except DataError:
        return set()


def chosen_device(name: str) -> torch.device:
    """Return the device that --device names. Raises ConfigError if the machine does not have it."""
    from openslip.training.precision import choose_device

    try:
        return choose_device(name)
    except ConfigError as error:
        raise ConfigError(error.what, got=f"--device {name}", fix="Use --device auto") from None


def refuse_several_processes(command: str, why: str, fix: str = "Start it without torchrun") -> None:
    """Raise ConfigError on rank 0 if torchrun has started several processes, each of which would do the same.

    command: the command, which works in one process. why: what several processes would do.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return
    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # without a message
        time.sleep(10)  # torchrun ends all processes once rank 0 has printed the reason and ended
        sys.exit(1)
    raise ConfigError(
        f"`{command}` works in one process", got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}", cause=why, fix=fix
    )


def print_notes(source: Source) -> None:
    """Print to stderr what was guessed when a source was opened, and large losses of records, if any."""
    from openslip.data.contents import losses

    for line in filter(None, (source.note, *losses(source))):
        print(printable(line), file=sys.stderr)


def take_positional(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split a leading word that is no option off `argv`."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return None, argv


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Split `name VALUE` or `name=VALUE` off `argv`. Raises UsageError if it has no value, or is given twice."""
    positions = [i for i, word in enumerate(argv) if word.partition("=")[0] == name]
    if not positions:
        return None, argv
    i, *others = positions
    if others:
        raise UsageError(
            f"The option {name} is given twice",
            got=f"{argv[i]} … {argv[others[0]]}",
            fix="Leave one of them out",
        )
    _, equals, value = argv[i].partition("=")
    if equals:
        return value, argv[:i] + argv[i + 1 :]
    if i + 1 == len(argv) or argv[i + 1].startswith("--"):
        raise UsageError(f"{name} takes a value")
    return argv[i + 1], argv[:i] + argv[i + 2 :]
