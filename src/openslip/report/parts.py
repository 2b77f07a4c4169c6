"""Pieces that several parts of the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openslip.report.gallery import Picture
from openslip.report.html import Html, join, span, tag
from openslip.report.rows import Row

Rows = Mapping[str, Row]
"""Rows by label."""
Colours = Mapping[str, str]
"""Colour classes of the page's style by label."""
NOTHING = Html()


def section(title: str, note: str, *content: object) -> Html:
    """Return a part of the page under its title and a sentence about it."""
    return tag("section", tag("h2", title), tag("p", note, class_="quiet") if note else None, *content)


def who(name: str, colours: Colours) -> Html:
    """Return a run's label in its colour."""
    return span(f"who {colours[name]}", name)


def enumerate_(parts: Sequence[Html]) -> Html:
    """Return `a, b and c`."""
    if len(parts) < 2:
        return join(parts)
    return join([join(parts[:-1], ", "), " and ", parts[-1]])


def with_code(text: str) -> Html:
    """Return a text whose parts in backticks are code."""
    return join(tag("code", part) if k % 2 else part for k, part in enumerate(text.split("`")))


def image(picture: Picture, class_: str | None = None) -> Html:
    """Return a picture, its first caption as the text for those who cannot see it."""
    alt = next((caption for caption in picture.captions if caption.strip()), "picture without a caption")
    return tag("img", src=picture.data_url(), alt=alt, class_=class_, loading="lazy")
