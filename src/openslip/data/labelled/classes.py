"""What classes are called: values as the data have them, and the names that people know them by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NUMBER, LONGEST = re.compile("-?[0-9]+"), 40
"""How whole numbers are written, and in how many characters."""

Value = str | int
"""A class as the data tell it: the name of a folder, a text, or a number."""


@dataclass(frozen=True)
class Naming:
    """The names of classes, where the data say more than the values themselves.

    names: by value; declared: whether these are all the classes there are, in their order, also those without pictures.
    source: the file that has the names, where it is one beside the data.
    """

    names: Mapping[Value, str] = field(default_factory=dict)
    declared: bool = False
    source: str = ""


def in_order(values: Iterable[Value]) -> list[Value]:
    """Return distinct values sorted as people count: numbers as numbers, also those in a text (`c2` before `c10`)."""
    return sorted(set(values), key=_counted)


def number(value: Value) -> int | None:
    """Return the number that a value is, also one written as text; None for other text."""
    return int(value) if _is_number(value) else None


def same_number(value: Value) -> Value:
    """Return what tells a class from others where all are numbers: the number, also where it is written as text."""
    return int(value)


def as_words(class_name: str) -> str:
    """Return a class name as people write it: `great_white_shark` becomes `great white shark`."""
    return " ".join(class_name.replace("_", " ").split()) or class_name


def folded(value: Value) -> str:
    """Return what a class name has in common with other spellings of it: in capitals, with `-` or `_` for spaces.

    Signs at the ends stay: `-1` is not `1`, and `A-` not `A`.
    """
    plain = unicodedata.normalize("NFC", str(value)).casefold().strip()
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", plain)


def _is_number(value: Value) -> bool:
    return isinstance(value, int) or (len(value) <= LONGEST and _NUMBER.fullmatch(value) is not None)


def _counted(value: Value) -> tuple[object, ...]:
    text = str(value)
    parts: list[object] = re.split(r"([0-9]+)", text)
    # Numbers of any length are compared by their digits.
    parts[1::2] = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in map(str, parts[1::2])]
    return (not _is_number(value), int(value) if _is_number(value) else 0, parts, text)
