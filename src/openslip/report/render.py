"""Pages from the templates in `templates/`: plain data in, HTML out, and every value in it escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from markupsafe import Markup

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that no page may hold, and that would steer a terminal that shows the page."""


def render(template: str, **data: object) -> str:
    """Return the HTML of a template, filled with `data`.

    Whatever a template prints is text: markup in it is escaped, and control characters are replaced. A name that is
    not among `data` raises jinja2.UndefinedError.
    """
    return _environment().get_template(template).render(data)


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` …"""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("openslip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        extensions=[_LineBreaks],
        auto_reload=False,
    )
    environment.filters |= {"thousands": "{:,}".format, "ordinal": ordinal}
    return environment


def _printable(value: object) -> object:
    """Return what a template prints without control characters; jinja2 escapes it afterwards."""
    return value if isinstance(value, Markup) else _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(value))


class _LineBreaks(Extension):
    """Leaves out the line breaks and the indentation between two tags, of HTML or of jinja2.

    Between inline elements they would become a visible space. A line break within a text stays.
    """

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            if token.type == "data":
                token = Token(token.lineno, "data", re.sub(r"(^|(?<=>))\s*\n\s*($|(?=<))", "", token.value))
            yield token
