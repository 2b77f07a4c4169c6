"""The options of a command as its dataclass describes them: how each is spelled, what it takes, what it is for.

The parser, the help, the completion of a shell and the checks of a command line all take a command's options from here.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import Doc

from openslip.ranges import range_of

VALUES = {str: "STR", int: "INT", float: "FLOAT", Path: "PATH"}
"""The name of an option's value in help, by its type."""


class Section(NamedTuple):
    """Options whose names begin alike, as with `data` in `--data.train`; "" is the section of all others."""

    name: str
    text: str


class Option(NamedTuple):
    """An option, or a positional word, of a command."""

    name: str
    """In Python: `data.image_column`."""
    spellings: tuple[str, ...]
    """On the command line: `--data.image-column`, `--image-column`; empty for a positional word."""
    hint: Any
    """Its type, with the marks of its annotation."""
    default: Any
    """The value if the option is not given; dataclasses.MISSING if the option is required."""
    owner: type
    """The dataclass that has it as a field."""
    section: Section

    @property
    def bare(self) -> Any:
        """Its type without marks and without None."""
        hint = typing.get_args(self.hint)[0] if self.marks else self.hint
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(one for one in typing.get_args(hint) if one is not type(None))
        return hint

    @property
    def marks(self) -> tuple[Any, ...]:
        return _marks(self.hint)

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> bool:
        return self.bare is bool

    @property
    def several(self) -> bool:
        return typing.get_origin(self.bare) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The possible values, if the type is a Literal; else empty."""
        one = typing.get_args(self.bare)[0] if self.several else self.bare
        return tuple(map(str, typing.get_args(one))) if typing.get_origin(one) is Literal else ()

    @property
    def path(self) -> bool:
        """Whether it takes the name of a file or folder."""
        one = typing.get_args(self.bare)[0] if self.several else self.bare
        return one is Path

    @property
    def value(self) -> str:
        """The name of its value in help: `INT`, `{cpu,cuda}`, `STR ...`; empty for a flag."""
        named = _marked(self.marks, "metavar")
        if named or self.flag:
            return named or ""
        if not self.spellings:
            return f"{self.name.upper().removesuffix('S')} ..." if self.several else self.name.upper()
        if not self.several:
            return _value(self.bare)
        first, *others = typing.get_args(self.bare)
        return f"{_value(first)} ..." if others == [...] else " ".join(map(_value, (first, *others)))

    @property
    def text(self) -> str:
        """The help text, a line for each paragraph; empty if there is none."""
        said = next((mark.documentation for mark in self.marks if isinstance(mark, Doc)), "")
        said = _marked(self.marks, "help") or said or _docs(self.owner).get(self.name.rpartition(".")[2], "")
        return paragraphs(said)

    @property
    def range(self) -> str:
        allowed = range_of(self.hint)
        return allowed.words if allowed else ""

    @property
    def usual(self) -> str:
        """The default as a user types it; empty for None, False, 0 and empty values."""
        if self.required or self.default in (None, "", (), False):
            return ""
        if isinstance(self.default, tuple):
            return " ".join(map(str, self.default))
        return str(self.default)


def options(
    cls: type, values: object = None, *, within: str = "", spelled: str = "", section: Section | None = None
) -> Iterator[Option]:
    """Yield the options of dataclass `cls`, including those of nested dataclasses, in the order of help.

    values: an instance whose values are the defaults; None for the defaults of `cls`. within, spelled: the prefix of
    its fields' names, in Python and on the command line.
    """
    import tyro

    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        of_objectives = typing.get_origin(hints[field.name]) is Mapping  # by the names of these
        if not field.init or of_objectives:
            continue
        hint, marks = hints[field.name], _marks(hints[field.name])
        default = field.default
        if values is not None:
            default = getattr(values, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        renamed = [mark.name for mark in marks if isinstance(getattr(mark, "name", None), str)]
        name = renamed[0] if renamed else field.name
        bare = typing.get_args(hint)[0] if marks else hint
        if dataclasses.is_dataclass(bare):
            inner = typing.cast(type, bare)
            dot = f"{name}." if name else ""
            about = _marked(marks, "help") or inspect.getdoc(inner) or ""
            yield from options(
                inner,
                None if default is dataclasses.MISSING else default,
                within=within + dot,
                spelled=spelled + dot,
                section=Section((within + name).replace("_", "-"), paragraphs(about)) if name else section,
            )
            continue
        aliases = [alias.lstrip("-") for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        spellings = tuple(f"--{(spelled + one).replace('_', '-')}" for one in (name, *aliases))
        yield Option(
            within + field.name,
            () if tyro.conf.Positional in marks else spellings,
            hint,
            default,
            cls,
            section or Section("", ""),
        )


def paragraphs(text: str) -> str:
    """Return text with one line for each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _marks(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()


def _marked(marks: tuple[Any, ...], what: Literal["help", "metavar"]) -> str:
    found = (getattr(mark, what, None) for mark in marks)
    return next((text for text in found if isinstance(text, str)), "")


def _value(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(map(str, typing.get_args(kind)))}}}"
    return VALUES.get(kind, "VALUE")


@cache
def _docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a class, or of a class that it derives from."""
    found = dict[str, str]()
    for base in reversed(cls.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # built in, or made while the program runs
            continue
        (definition,) = ast.parse(source).body
        for statement, following in pairwise(getattr(definition, "body", [])):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = text
    return found
