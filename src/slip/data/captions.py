"""What counts as a caption."""

from __future__ import annotations

from typing import Any


def texts(value: Any) -> tuple[str, ...]:
    """Return the captions that a cell, field or sidecar holds: its non-blank texts, stripped of outer space.

    A str is one caption, a list several; anything else is none. Half characters, which JSON can spell but no
    encoding can write, become question marks.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return ()
    stripped = (text.strip() for text in value if isinstance(text, str))
    return tuple(text.encode("utf-8", "replace").decode() for text in stripped if text)
