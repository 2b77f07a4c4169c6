"""From command-line words to typed values, with tyro; what the subcommands share."""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
import sys
import time
import typing
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from openslip.cli import hints
from openslip.errors import ConfigError, DataError, UsageError, printable
from openslip.ranges import Range, range_of

if TYPE_CHECKING:
    import torch

    from openslip.data.record import Source

T = TypeVar("T")


def parse(cls: type[T], argv: list[str], *, prog: str, default: T | None = None, description: str = "") -> T:
    """Parse `argv` into dataclass `cls`; a wrong option ends the process with status 2 and a suggestion.

    Raises UsageError for an option that is given twice, or called otherwise here, and ConfigError for what the shell
    has made of a pattern that did not stand in quotes.
    """
    import tyro

    if not asks_for_help(argv):
        _check_options(cls, argv)
    run: Any = partial(
        tyro.cli,
        _with_ranges(cls) if asks_for_help(argv) else cls,
        args=argv,
        prog=prog,
        default=default,
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if asks_for_help(argv):
        return run()
    parsed, unknown = run(return_unknown_args=True)
    for files in _file_runs(argv):
        if not {*files}.isdisjoint([*unknown, str(getattr(parsed, "folder", ""))]):
            _refuse_expanded(files)
    if unknown and not any(word.startswith("-") for word in unknown):
        raise UsageError(
            "There are more words than the command takes",
            got=" ".join(unknown),
            fix=f"Values follow the name of their option; `{prog} --help` lists these",
        )
    return run() if unknown else parsed


def _with_ranges(cls: type, values: object = None) -> type:
    """Return a dataclass whose help shows the range of every number that has one.

    values: an instance of `cls` that has what are the defaults then; None for those of `cls`.
    """
    import tyro

    types, fields = typing.get_type_hints(cls, include_extras=True), list[Any]()
    for field in dataclasses.fields(cls):
        hint, default = types[field.name], field.default
        if values is not None:
            default = getattr(values, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        bare, *marks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if not field.init:
            continue
        if dataclasses.is_dataclass(bare):
            section = _with_ranges(typing.cast(type, bare), default)
            hint = typing.Annotated[(section, tyro.conf.arg(help=inspect.getdoc(bare)), *marks)]
            default = section()
        elif allowed := range_of(hint):
            hint = typing.Annotated[hint, tyro.conf.arg(help_behavior_hint=_hint_of(allowed))]
        fields.append((field.name, hint, dataclasses.field(default=default)))
    doc = {"__doc__": cls.__doc__}
    return dataclasses.make_dataclass(
        cls.__name__, fields, bases=(cls,), namespace=doc, frozen=True, kw_only=True
    )


def _hint_of(allowed: Range) -> Callable[[str], str]:
    return lambda default: f"[{allowed.words}] (default: {default})"


def asks_for_help(argv: list[str]) -> bool:
    """Return whether `--help` is among the words."""
    return not {"-h", "--help"}.isdisjoint(argv)


def given(cls: type, argv: list[str]) -> set[str]:
    """Return the options of dataclass `cls` that `argv` holds, by the names that they have in Python: `out`,
    `data.image_column`. An alias counts as what it stands for."""
    options = _options(cls)
    return {options[option].name for _, option in _spelled(argv) if option in options}


def refuse_idle(given: Collection[str], *names: str, because: str, fix: str = "Leave it out") -> None:
    """Raise UsageError if one of the options `names`, or one of a section `views.ssl.`, was `given`, which would have
    no effect: `because`."""
    for name in names:
        for found in sorted(given):
            if found == name or (name.endswith(".") and found.startswith(name)):
                raise UsageError(f"--{_hyphens(found)} has no effect here", cause=because, fix=fix)


class _Option(NamedTuple):
    """An option by its name in Python, what type it has, and whether it takes several values."""

    name: str
    flag: bool
    several: bool


def _check_options(cls: type, argv: list[str]) -> None:
    """Raise UsageError for an option that is given twice, or is called otherwise here."""
    options, positions = _options(cls), dict[str, int]()
    for i, spelled in _spelled(argv):
        option = options.get(spelled)
        if option is None:
            if error := hints.unknown_option(spelled, {name.removeprefix("--") for name in options}):
                raise error
            continue
        if option.name in positions and not option.flag:  # a flag means the same twice: scripts add --resume
            _refuse_twice(argv, positions[option.name], i, option)
        positions[option.name] = i


def _refuse_twice(argv: list[str], first: int, second: int, option: _Option) -> NoReturn:
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
    """Yield the index of each word before `--` that may be an option, and how help spells it: without a value that is
    joined to it by `=`."""
    for i, word in enumerate(takewhile(lambda word: word != "--", argv)):
        name = word.partition("=")[0]
        if name.startswith("--"):
            yield i, "--" + _hyphens(name[2:])
        elif name[:1] == "-" and name[1:2].isalpha():
            yield i, name


def _options(cls: type) -> dict[str, _Option]:
    """Return the options of dataclass `cls` by each of their spellings, `--image-root`, as tyro derives them."""
    return {f"--{_hyphens(spelling)}": option for spelling, option in _fields(cls)}


def _fields(cls: type) -> Iterator[tuple[str, _Option]]:
    import tyro

    types = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, marks = types[field.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        if tyro.conf.Positional in marks or not field.init:
            continue
        names = [mark.name for mark in marks if isinstance(getattr(mark, "name", None), str)]
        name = names[0] if names else field.name
        if dataclasses.is_dataclass(hint):
            dot = f"{name}." if name else ""
            for spelling, option in _fields(typing.cast(type, hint)):
                yield dot + spelling, option._replace(name=dot + option.name)
        else:
            aliases = [alias.lstrip("-") for mark in marks for alias in getattr(mark, "aliases", None) or ()]
            option = _Option(field.name, hint is bool, typing.get_origin(hint) is tuple)
            yield from ((spelling, option) for spelling in (name, *aliases))


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


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
    from openslip.data.storage.paths import find_paths

    try:
        return set(find_paths(pattern))
    except DataError:
        return set()


def chosen_device(name: str) -> torch.device:
    """Return the device that --device names. Raises ConfigError where the machine has none."""
    from openslip.training.precision import choose_device

    try:
        return choose_device(name)
    except ConfigError as error:
        raise ConfigError(error.what, got=f"--device {name}", fix="Use --device auto") from None


def refuse_several_processes(command: str, why: str, fix: str = "Start it without torchrun") -> None:
    """Raise ConfigError under torchrun with several processes, on the first of them: each would do the same.

    command: what works in one process, as `slip evaluate` does. why: what several would do.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return
    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # without a word
        time.sleep(10)  # torchrun ends all when one has ended: the first, which says why
        sys.exit(1)
    raise ConfigError(
        f"`{command}` works in one process", got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}", cause=why, fix=fix
    )


def print_notes(source: Source) -> None:
    """Print to stderr what was guessed when a source was opened, and what of it is not used, if so much is lost."""
    from openslip.data.contents import losses

    for line in filter(None, (source.note, *losses(source))):
        print(printable(line), file=sys.stderr)


def take_positional(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split a leading word that is no option off `argv`."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return None, argv


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """Split `name VALUE` or `name=VALUE` off `argv`. Raises UsageError where it has no value, or stands there twice."""
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
