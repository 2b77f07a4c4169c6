"""The smallest HTML builder that cannot forget to escape: every plain string is text, only `Html` is markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that no page may hold, and that steer a terminal which it is shown in."""
_VOID = {"img", "meta", "link", "br", "hr"}


class Html(str):
    """A string that already is markup; what `tag` returns."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Return `text` as markup, quotes included, control characters replaced; an `Html` stays what it is."""
    return text if isinstance(text, Html) else Html(_escaped(text))


def _escaped(text: object) -> str:
    return html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def join(parts: Iterable[object], between: str = "") -> Html:
    """Return the parts, escaped where they are plain text, one after the other; None is left out."""
    return Html(between.join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return one element; children and attribute values are escaped unless they are `Html`.

    Attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens (`aria_label`);
    None and False leave an attribute out, True writes it bare.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{_escaped(value)}"')
    if name in _VOID:
        return Html(f"<{' '.join(parts)}>")
    return Html(f"<{' '.join(parts)}>{join(children)}</{name}>")


def div(class_: str, /, *children: object, **attributes: object) -> Html:
    """Return a <div> of a class."""
    return tag("div", *children, class_=class_, **attributes)


def span(class_: str, /, *children: object, **attributes: object) -> Html:
    """Return a <span> of a class."""
    return tag("span", *children, class_=class_, **attributes)


def quoted(text: str) -> Html:
    """Return words that people wrote, kept apart from the page's own writing direction."""
    return tag("bdi", text, class_="caption")
