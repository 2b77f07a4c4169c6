"""Read names of classes from their values: WordNet ids, numbers before names, and numbers without names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openslip.data.labelled import imagenet
from openslip.data.labelled.classes import as_words, number

_DIGITS = re.compile(r"-?\d+", re.ASCII)
_NUMBER_FIRST = re.compile(r"(\d{1,9})[._-]+ *([^\W\d].*)", re.ASCII | re.DOTALL)
_ID_FIRST = re.compile(r"(n\d{8})[._ -]+(\S.*)", re.ASCII | re.DOTALL)
_NUMBER_LAST = re.compile(r"(\D*?)[-_. ]*\d+", re.ASCII)
_SAY_NOTHING = frozenset(
    (
        *(
            "class",
            "cls",
            "c",
            "category",
            "cat",
            "label",
            "lbl",
            "l",
            "id",
            "idx",
            "index",
            "n",
            "no",
            "nr",
            "num",
        ),
        *("number", "folder", "dir", "group", "cluster", "target", "y", "type", "synset"),
    )
)
"""Words that do not turn a number into a name: `class_3`."""


@dataclass(frozen=True)
class ClassNames:
    """The names of C classes. named: whether they are names, not numbers. notes: sentences on their origin."""

    names: tuple[str, ...]
    named: bool
    notes: tuple[str, ...] = ()


def class_names(values: Sequence[str], data: str, *, declared: bool = False) -> ClassNames:
    """Return the names that follow from C distinct values, in the order of the classes.

    data: the name of the set. declared: whether the values already are names that somebody gave the classes.
    """
    if not declared and all(map(_DIGITS.fullmatch, values)):  # ids of any length, also negative ones
        return _of_numbers(values, data)
    if any(map(imagenet.is_wordnet_id, values)):
        return _of_ids(values)
    if rests := _behind_ids(values) or _behind_numbers(values):
        note = (
            f"Numbers before the names of classes are left out: {values[0]} is called '{as_words(rests[0])}'."
        )
        return ClassNames(tuple(map(as_words, rests)), True, (note,))
    ends = [_NUMBER_LAST.fullmatch(value) for value in values]
    prefixes = {match[1].lower() for match in ends if match}
    named = declared or not (all(ends) and len(prefixes) == 1 and prefixes <= _SAY_NOTHING)
    return ClassNames(tuple(map(as_words, values)), named, () if named else (_nameless(values),))


def _of_numbers(values: Sequence[str], data: str) -> ClassNames:
    """Numbers have no names, except for ImageNet's 1,000 labels in a set with ImageNet in its name."""
    if "imagenet" in data.lower() and [number(value) for value in values] == list(range(imagenet.SIZE)):
        note = f"The numbers 0 to 999 are taken for ImageNet's labels, because the set is called {data}."
        return ClassNames(imagenet.clip_names(), True, (note,))
    return ClassNames(tuple(values), False, (_nameless(values),))


def _of_ids(values: Sequence[str]) -> ClassNames:
    """WordNet ids have known names if they are ImageNet's."""
    ids = [value for value in values if imagenet.is_wordnet_id(value)]
    names = imagenet.names_of(ids)
    unknown = [value for value in ids if value not in names]
    notes = []
    if names:
        example = next(value for value in ids if value in names)
        notes.append(
            f"The names of {len(names):,} WordNet id{'s' * (len(names) != 1)} are ImageNet's "
            f"({example}: {names[example]})."
        )
    if unknown:
        notes.append(
            f"{len(unknown):,} of {len(ids):,} WordNet ids {'has' if len(unknown) == 1 else 'have'} no known name, "
            f"such as {unknown[0]}: zero-shot needs all names."
        )
    return ClassNames(tuple(as_words(names.get(value, value)) for value in values), not unknown, tuple(notes))


def _behind_ids(values: Sequence[str]) -> list[str]:
    """Return the names in values like `n02085620-Chihuahua` if all are written so, [] otherwise."""
    rests = [match[2] for value in values if (match := _ID_FIRST.fullmatch(value))]
    return rests if len({as_words(rest) for rest in rests}) == len(values) else []


def _behind_numbers(values: Sequence[str]) -> list[str]:
    """Return the names in values like `001.Black_footed_Albatross` if all are written and numbered so, else []."""
    found = [match for value in values if (match := _NUMBER_FIRST.fullmatch(value))]
    if len(found) < len(values) or len(values) < 2:
        return []
    numbers = sorted(int(match[1]) for match in found)
    padded = len({len(match[1]) for match in found}) == 1 and any(match[1].startswith("0") for match in found)
    counting = numbers in (list(range(len(found))), list(range(1, len(found) + 1)))
    rests = [match[2] for match in found]
    if (
        len(set(numbers)) < len(found)
        or not (padded or counting)
        or len(set(map(as_words, rests))) < len(found)
    ):
        return []
    return rests


def _nameless(values: Sequence[str]) -> str:
    some = ", ".join(values[:3]) + (", …" if len(values) > 3 else "")
    return f"The classes are numbers without names ({some}): zero-shot needs names in a classes.json."
