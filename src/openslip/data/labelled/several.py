"""Find cells of a column that hold several labels: lists, and texts in which a sign separates labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from openslip.data.sources.columns import plain_name
from openslip.errors import DataError, shortened

SIGNS = ("|", ";")
"""Signs that separate labels in a text. A comma does not, because names of classes have commas."""
PLURAL = (
    "labels",
    "classes",
    "tags",
    "categories",
    "attributes",
    "findings",
    "genres",
    "objects",
    "keywords",
)
"""Names of columns that say that there are several labels."""
_LIST = re.compile(r"\[.*\]", re.DOTALL)
_LONGEST = 1 << 16


def several_in(texts: Sequence[str], called: str) -> dict[str, list[str]] | None:
    """Return the labels in each distinct text of a column, None if each text is one label.

    A text holds several labels if it looks like a list, or if a sign separates labels in it. With a sign one of three
    facts has to show that the parts are labels: a part is the whole text elsewhere, a part is first in one text and
    later in another, or the column's name says so (`PLURAL`). Texts with equally many parts, of which only the first
    recurs, are names of classes within others: `Leaf|dry` and `Leaf|wet`. Raises DataError if it is unclear.
    """
    if texts and all(map(_LIST.fullmatch, texts)):
        return {text: _listed(text, called) for text in texts}
    for sign in SIGNS:
        parted = {text: [part.strip() for part in text.split(sign) if part.strip()] for text in texts}
        if _are_several(list(parted.values()), sign, called):
            return parted
    return None


def _are_several(cells: Sequence[Sequence[str]], sign: str, called: str) -> bool:
    """Return whether each part of a cell is a separate label. Raises DataError if that is unclear."""
    several = [parts for parts in cells if len(parts) > 1]
    if not several:
        return False
    if plain_name(called).endswith(PLURAL):
        return True
    alone = {parts[0] for parts in cells if len(parts) == 1}
    first, later = {parts[0] for parts in several}, {part for parts in several for part in parts[1:]}
    lengths = {len(parts) for parts in several}
    if any(part in alone for parts in several for part in parts) or first & later:
        return True
    total = sum(len(parts) - 1 for parts in several)
    if len(later) == total and len(lengths) == 1:
        return False
    raise DataError(
        f"It is unclear whether column '{called}' holds several labels an image (multi-label)",
        got=shortened(", ".join(repr(sign.join(parts)) for parts in several[:3]), 200),
        cause=f"The cells contain '{sign}', and the parts after it recur",
        fix="If they are several labels, call the column 'labels', or write lists in a .jsonl. If each cell is the "
        f"name of one class, write it with another sign than '{sign}'.",
    )


def _listed(text: str, called: str) -> list[str]:
    """Return the labels in a text like `["dress", "red"]`, in JSON or Python. Raises DataError for other texts."""
    try:
        found = ast.literal_eval(text.strip()) if len(text) < _LONGEST else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
        raise DataError(
            f"Column '{called}' holds lists of labels that cannot be read",
            got=shortened(text, 100),
            fix='Write them as ["dress", "red"].',
        )
    return [str(one) for one in found]
