"""Write the reference pages of the site from the code itself; `make docs` calls this before it builds.

    python scripts/reference.py docs/reference

commands.md has the help of every command, configuration.md every value of a configuration with its range and default,
python.md the public names of `import openslip`, recipes.md the recipes. What these pages say is therefore what the code
says; nobody edits the pages.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import os
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe  # pyrefly: ignore[missing-import]: of the extra docs
from typing_extensions import Doc

import openslip
from openslip import cli, objectives, recipes
from openslip.cli import data
from openslip.config import Config
from openslip.ranges import range_of

COLUMNS = 96
"""Characters a line of the help texts, so that a block fits the page."""
BESIDE = {"data": [f"data {name}" for name in data.COMMANDS], "evaluate": ["evaluate suite"]}
"""Commands that have others below them, which have a help of their own."""
TASKS = {
    "Train": ("quickstart", "train", "ablate", "recipes", "scenes"),
    "Data": ("data", "datasets"),
    "Measure": ("evaluate", "compare", "report"),
    "Use": ("embed", "search", "serve", "duplicates", "classify"),
    "Models": ("consolidate", "mix", "export", "push", "pull"),
}
NOT_EDITED = "<!-- Made by scripts/reference.py; not to be edited. -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / name).write_text(NOT_EDITED + "\n".join(make()) + "\n", encoding="utf-8")


def commands() -> Iterator[str]:
    """Yield the page of all commands: one section each, with the text that `--help` prints."""
    yield "# Commands and options\n"
    yield (
        "Each section is what `slip COMMAND --help` prints. [Exit status and output](../command-line.md) has what all "
        "commands have in common.\n"
    )
    listed = [name for names in TASKS.values() for name in names]
    others = tuple(name for name in cli.COMMANDS if name not in listed)
    for names in (*TASKS.values(), others):
        for name in names:
            if name in cli.COMMANDS:
                for command in (name, *BESIDE.get(name, ())):
                    yield f"## slip {command}\n"
                    what = cli.COMMANDS.get(command, "")
                    yield f"{what[:1].upper()}{what[1:]}.\n" if what else ""
                    yield f"```text\n{help_of(command)}\n```\n"


def help_of(command: str) -> str:
    """Return what the help of a command prints, all of its options among it, without boxes that depend on the width."""
    text = _printed([*command.split(), "--help"])
    return _printed([*command.split(), "--help-all"]) if "--help-all" in text else text


def _printed(words: list[str]) -> str:
    os.environ.update(COLUMNS=str(COLUMNS), NO_COLOR="1", TERM="dumb")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main(words)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def configuration() -> Iterator[str]:
    """Yield the page of all values of a configuration: a table for each section."""
    yield "# Configuration\n"
    yield (
        "Every value stands in the TOML file that `slip recipes show NAME` prints, and is an option of `slip train`: "
        "`training.micro_batch` in the file is `--training.micro-batch` on the command line. "
        "The defaults are those of the paper's SLIP ViT-S/16. [Recipes](recipes.md) have others.\n"
    )
    yield "## The run\n"
    yield from _table(Config, "")
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default):
            yield from _section(type(field.default), f"{field.name}.")
    yield "## objective.NAME\n"
    yield (
        "Each [objective](../objectives.md) has options of its own. They count where the objective is a term of "
        "`objective.loss`.\n"
    )
    for name, kind in objectives.known().items():
        if dataclasses.fields(kind.Config):
            yield f"### objective.{name}\n"
            yield from _table(kind.Config, f"objective.{name}.")


def _section(cls: type, prefix: str) -> Iterator[str]:
    yield f"{'##' if prefix.count('.') == 1 else '###'} {prefix.rstrip('.')}\n"
    yield f"{_escaped(inspect.cleandoc(cls.__doc__ or ''))}\n"
    yield from _table(cls, prefix)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            yield from _section(type(field.default), f"{prefix}{field.name}.")


def _table(cls: type, prefix: str) -> Iterator[str]:
    """Yield the rows of a dataclass's own values; sections in it are tables of their own."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = helps(cls)
    yield "| value | type | default | what it is |"
    yield "|---|---|---|---|"
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default) or field.default is dataclasses.MISSING:
            continue
        hint, allowed = hints[field.name], range_of(hints[field.name])
        said = " ".join(part for part in (texts.get(field.name, ""), _range(allowed)) if part)
        yield f"| `{prefix}{field.name}` | {_type(hint)} | `{_default(field.default)}` | {_escaped(said)} |"
    yield ""


def helps(cls: type) -> dict[str, str]:
    """Return what is said of each field of a dataclass: by `Doc` in its annotation, else by the string below it."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {name: doc for name, hint in hints.items() for doc in _docs(hint)}
    tree = griffe.visit(cls.__name__, Path("class.py"), textwrap.dedent(inspect.getsource(cls)))
    for name, member in tree.members[cls.__name__].members.items():
        if member.docstring and name not in found:
            found[name] = member.docstring.value
    return {name: " ".join(text.split()) for name, text in found.items()}


def _docs(hint: Any) -> list[str]:
    return [mark.documentation for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Doc)]


def _range(allowed: Any) -> str:
    return f"({allowed.words[0].upper()}{allowed.words[1:]}.)" if allowed else ""


def _type(hint: Any) -> str:
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if typing.get_origin(bare) is typing.Literal:
        return " ".join(f"`{value}`" for value in typing.get_args(bare))
    if typing.get_origin(bare) is tuple:
        inside = [one for one in typing.get_args(bare) if one is not Ellipsis]
        many = Ellipsis in typing.get_args(bare)
        return f"{inside[0].__name__}s" if many else f"{len(inside)} {inside[0].__name__}s"
    return getattr(bare, "__name__", str(bare))


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_default(one) for one in value)}]"
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _escaped(text: str) -> str:
    return re.sub(r"\s*\n\s*\n\s*", "<br>", text).replace("\n", " ").replace("|", "\\|")


def python() -> Iterator[str]:
    """Yield the page of the public names, each from its docstring."""
    yield "# Python\n"
    yield "What `import openslip` promises. Everything else may change without notice.\n"
    for name in openslip.__all__:
        if name != "recipes":  # a module with a page of its own
            yield f"::: openslip.{name}\n"
    yield "[`openslip.recipes`](recipes.md) is the module that holds the recipes.\n"


def recipe_list() -> Iterator[str]:
    """Yield the page of the recipes."""
    yield "# Recipes\n"
    yield (
        "A recipe is a complete configuration with a name. `slip train NAME` trains it. `slip recipes show NAME` "
        "prints it as TOML, and `slip train --config FILE` trains what you have made of that. In Python, "
        "`openslip.recipes.get(NAME)` returns the [configuration](configuration.md).\n"
    )
    yield "| recipe | is for | batch | epochs | views | loss |"
    yield "|---|---|--:|--:|--:|---|"
    for name, recipe in recipes.RECIPES.items():
        config = recipe.config
        size = f"{config.views.size} px" if config.views.size else "as the weights"
        numbers = f"{config.training.batch} | {config.training.epochs:g} | {size}"
        yield f"| `{name}` | {_escaped(recipe.summary)} | {numbers} | `{config.objective.loss}` |"


PAGES = {
    "commands.md": commands,
    "configuration.md": configuration,
    "python.md": python,
    "recipes.md": recipe_list,
}

if __name__ == "__main__":
    main()
