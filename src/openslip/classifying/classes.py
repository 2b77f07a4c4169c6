"""The classes that a user names for zero-shot classification: in a file, or as a list on the command line."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from openslip.data.labelled.class_names import class_names
from openslip.data.labelled.prompts import MOST_BYTES, for_set, given_templates, one_set
from openslip.errors import ConfigError, printable
from openslip.files import expand, read_json, read_whole

WAYS = "a text file with a class a line, a .json list or mapping, or a list such as 'dress,shirt,shoe'"
_FIX = 'Write ["dress", "shirt"] or {"Dresses": "dress", "Tops": "shirt"} as JSON, or one class a line of a text file'


@dataclass(frozen=True)
class Asked:
    """C classes for zero-shot classification.

    names: the name of each class in the output. words: what the templates call each class, such as "great white shark"
    for `great_white_shark`. templates: sentences with {}. notes: sentences on how the names were read.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    templates: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def mapping(self) -> dict[str, str]:
        """The words by the names, as `openslip.ZeroShotClassifier` takes them."""
        return dict(zip(self.names, self.words))


@dataclass(frozen=True)
class _Words:
    class_names: tuple[str, ...]


def read_classes(spec: str, templates: Sequence[str] = ()) -> Asked:
    """Return the classes that `spec` names: a file, or names separated by commas.

    A text file has a name a line. A .json file has a list of names, or a mapping from the name of a class to its words,
    {"Tops": "shirt"}. Without a mapping, words are made from names as for labelled pictures: `_` becomes a space,
    numbers before all names are removed, and WordNet ids become names.

    templates: sentences with {}, or only the name of a set of templates or a file; empty: a set that suits the classes.

    Raises ConfigError for a file that cannot be read, for fewer than two classes, for names that are empty or given
    twice, for numbers without names, and for templates without {}.
    """
    path = expand(spec)
    given: dict[str, str] = {}
    if os.path.isfile(path):
        names, given = _of_file(spec)
    elif "," in spec:
        names = [name.strip() for name in spec.split(",")]
        names = names[:-1] if not names[-1] else names
    else:
        raise ConfigError(
            "There is no such file of classes, and one class alone leaves no choice",
            got=spec,
            fix=f"Name {WAYS}",
        )
    _check(names, spec)
    found = class_names(names, "--classes", declared=False)
    if not given and not found.named:
        raise ConfigError(
            "The classes are numbers without names, and a text tower needs names",
            got=", ".join(names[:5]),
            fix='Give each number a name in a .json file: {"0": "cat", "1": "dog"}',
        )
    words = tuple(given[name] for name in names) if given else found.names
    asked = for_set(_Words(words))
    return Asked(
        tuple(names),
        words if given else asked.class_names,
        one_set(given_templates(templates), words) if templates else asked.templates,
        () if given else found.notes,
    )


def _of_file(spec: str) -> tuple[list[str], dict[str, str]]:
    """Return the names in a file, and the words for each name if the file has them. Raises ConfigError."""
    path = expand(spec)
    try:
        if path.suffix.lower() != ".json":
            lines = read_whole(path, MOST_BYTES).decode("utf-8-sig").splitlines()
            return [line.strip() for line in lines if line.strip()], {}
        found = read_json(path, MOST_BYTES)
        if isinstance(found, list):
            return [_text(name) for name in found], {}
        if not isinstance(found, dict):
            raise TypeError(f"It holds a {type(found).__name__}")
        given = {_text(name): _text(words) for name, words in found.items()}
        return [_text(name) for name in found], given  # _check refuses names that differ in spaces alone
    except UnicodeDecodeError as error:
        raise ConfigError(
            "The classes are not written in UTF-8", got=spec, cause=str(error), fix="Save the file as UTF-8"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError("The file holds no classes", got=spec, cause=str(error), fix=_FIX) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value.strip()


def _check(names: Sequence[str], spec: str) -> None:
    if not names:
        raise ConfigError("There are no classes to choose from", got=spec, fix=_FIX)
    if "" in names:
        raise ConfigError("The name of a class is empty", got=spec, fix="Remove the comma or the entry")
    if odd := [name for name in names if printable(name) != name or "\n" in name]:
        raise ConfigError("The name of a class holds control characters", got=odd[0])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError("A class is named twice", got=", ".join(twice[:5]), fix="Name each class once")
    if len(names) < 2:
        raise ConfigError(
            "One class leaves no choice: every picture would get this class, with a probability of 1",
            got=names[0],
            fix="Name also what the other pictures show, if only 'something else'",
        )


def check_none(none: str, names: Sequence[str]) -> None:
    """Raise ConfigError if the name for pictures of no class is also the name of a class."""
    if none in names:
        raise ConfigError(
            "Pictures below the threshold would get the name of a class",
            got=none,
            fix="Give these pictures another name with --none-class NAME",
        )


def nearly(name: str, names: Sequence[str]) -> str:
    """Return a sentence that suggests the name with almost the spelling of `name`, or "" if there is no such name."""
    found = difflib.get_close_matches(name.lower(), [one.lower() for one in names], n=1, cutoff=0.85)
    meant = next((one for one in names if found and one.lower() == found[0]), "")
    return f"{name!r} may mean {meant!r}." if meant else ""
