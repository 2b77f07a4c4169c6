"""What `slip COMMAND --help` prints: usage, examples, and the options that matter first; all with `--help-all`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterable
from itertools import groupby

from openslip.cli.described import Option

WIDEST = 110
"""Columns of a line of help at most."""
COLUMN = 26
"""Where the text of an option begins."""
ALL = "--help-all"


def asks_for_help(argv: Collection[str]) -> bool:
    """Return whether `--help` or `--help-all` is among the words."""
    return not {"-h", "--help", ALL}.isdisjoint(argv)


def help_text(
    options: Iterable[Option],
    *,
    prog: str,
    description: str,
    examples: str,
    first: Collection[str] = (),
) -> str:
    """Return the help of a command.

    examples: command lines, each with an indented explanation below. first: names of the options to show, in their
    order; empty: all.
    """
    options = list(options)
    words = [option for option in options if not option.spellings]
    named = [option for option in options if option.spellings]
    if first:
        known = {option.name: option for option in named}
        named = [known[name] for name in first]
    required = [f"{option.spellings[0]} {option.value}" for option in named if option.required]
    usage = " ".join(
        [prog, *(word.value if word.required else f"[{word.value}]" for word in words), *required]
    )
    parts = [f"usage: {usage}{' [OPTION ...]' * bool(named)}", filled(description), examples_text(examples)]
    if words:
        parts.append("\n".join(_entry(word.value, word) for word in words))
    if first:
        title = "The options that matter first:"
        parts.append("\n".join([title, *(_entry(_spelled(option), option) for option in named)]))
        parts.append(f"`{prog} {ALL}` shows every option.")
    else:
        parts += _sections(named)
    return "\n\n".join(filter(None, parts))


def examples_text(examples: str) -> str:
    """Return examples as help shows them. A command line stays one line in any terminal, so that it can be pasted."""
    lines = (filled(line, indent=6) if line[:1] == " " else f"  {line}" for line in examples.splitlines())
    return "\n".join(["Examples:", *lines]) if examples else ""


def command_lines(examples: str) -> list[str]:
    """Return the command lines among examples, without the indented explanations."""
    return [line for line in examples.splitlines() if line[:1] != " "]


def columns() -> int:
    """Return how many characters a line of help has."""
    return max(COLUMN + 20, min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns))


def filled(text: str, indent: int = 0) -> str:
    """Return text in lines that fit the terminal, paragraph by paragraph."""
    return "\n\n".join(
        textwrap.fill(
            " ".join(part.split()),
            columns(),
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for part in text.split("\n\n")
    )


def _sections(named: list[Option]) -> list[str]:
    """Return the options by section. Options without a section come first: the required ones, then the others, and last
    those with several spellings, which name columns and folders."""
    named = sorted(named, key=lambda one: (one.section.name != "", not one.required, len(one.spellings) > 1))
    parts = []
    for section, several in groupby(named, key=lambda option: option.section):
        title = f"{section.name} options:" if section.name else "Options:"
        about = [filled(section.text, indent=2)] if section.text else []
        parts.append("\n".join([title, *about, *(_entry(_spelled(one), one) for one in several)]))
    return parts


def _spelled(option: Option) -> str:
    return f"{', '.join(option.spellings)} {option.value}".strip()


def _entry(head: str, option: Option) -> str:
    """Return an option and its help text, in lines."""
    notes = [f"[{option.range}]"] * bool(option.range)
    if option.required and option.spellings:
        notes.append("(required)")
    elif option.usual:
        notes.append(f"(default: {option.usual})")
    text = " ".join([*option.text.split("\n\n"), *notes])
    lines = filled(text, indent=COLUMN).splitlines() if text else [""]
    if len(head) + 4 > COLUMN or not text:
        return "\n".join([f"  {head}", *filter(None, lines)])
    return "\n".join([f"  {head:<{COLUMN - 2}}{lines[0].lstrip()}", *lines[1:]])
