"""Classes as the data have them (values), and the names that people know them by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NUMBER, LONGEST = re.compile("-?[0-9]+"), 40
"""The form of whole numbers, and their most characters."""

Value = str | int
"""A class as the data give it: the name of a folder, a text, or a number."""


@dataclass(frozen=True)
class Naming:
    """The names of classes, if the data tell more than the values themselves.

    names: by value. declared: whether these are all classes in their order, including classes without pictures.
    source: the file beside the data that has the names, if there is one.
    """

    names: Mapping[Value, str] = field(default_factory=dict)
    declared: bool = False
    source: str = ""


def in_order(values: Iterable[Value]) -> list[Value]:
    """Return distinct values sorted as people count: numbers as numbers, also those in a text (`c2` before `c10`)."""
    return sorted(set(values), key=_counted)


def number(value: Value) -> int | None:
    """Return a value's number, even if it is written as text; None for other text."""
    return int(value) if _is_number(value) else None


def same_number(value: Value) -> Value:
    """Return the number that identifies a class if all classes are numbers, even if it is written as text."""
    return int(value)


def as_words(class_name: str) -> str:
    """Return a class name as people write it: `great_white_shark` becomes `great white shark`."""
    return " ".join(class_name.replace("_", " ").split()) or class_name


def folded(value: Value) -> str:
    """Return a class name in the form that its spellings share, those in capitals, or with `-` or `_` for spaces.

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
