"""Public data sets as cards: the facts that are needed to measure on a set as others do.

`cards.toml` is the table, with a section for each set. `templates.json` has the sets of prompt templates, and
`labels.json` has the names of classes in prompts, both in the format of the SLIP paper's code. LICENCES.md says where
these files come from. `places` finds sets on disk. Importing this package needs neither torch nor numpy.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from openslip.errors import ConfigError, did_you_mean

Kind = Literal["classes", "captions", "pairs", "masks"]
"""The kind of a set: pictures in classes, pictures with captions, right and wrong pairs, or masks of pixels."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARDS = "https://huggingface.co/datasets/clip-benchmark/wds_"
"""The address of shards of many sets, up to a card's `hub`."""

Names = tuple[str, ...]
"""The names of one class, mostly one. The embeddings of several names are averaged."""


@dataclass(frozen=True)
class Card:
    """The facts about a public data set.

    name: its name in tasks, `food101`. title: its name in words. metric: the metric that the SLIP paper reports for the
    set, else the usual metric, a name of `openslip.evaluation.measures`. where: where to get the set. licence: the
    licence of the pictures. aliases: other names in tasks and folders. classes: the number of classes. splits: the
    published number of samples, by split. prompts: the name of its set of templates; "" for the default templates.
    told_by: how its classes identify the set: "labels", by all of them; "imagenet", because all are ImageNet's; "name",
    not at all; or names, where the set has one name of each `a|b`. file: the file in its folder that is measured. hub:
    the name of its shards. paper: whether it is one of the paper's 26 sets. note: what is special about its protocol.
    """

    name: str
    title: str
    metric: str
    where: str
    licence: str
    kind: Kind = "classes"
    aliases: tuple[str, ...] = ()
    classes: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    prompts: str = ""
    told_by: str | tuple[str, ...] = "name"
    file: str = ""
    hub: str = ""
    paper: bool = False
    note: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts for its classes; () for the default prompts."""
        return templates(self.prompts) if self.prompts else ()

    @property
    def labels(self) -> Mapping[str, Names]:
        """The names of each class in prompts, by the class's name in the data, in the order of the labels from 0 on; {}
        if the data's own names are used."""
        return labels(self.name)

    @property
    def names_from(self) -> str:
        """The origin of the names of its classes, in words."""
        if self.name == "scenes":
            return "openslip"
        if self.prompts == "imagenet":
            return "CLIP's names of ImageNet's classes, as open_clip has them"
        return "labels.json, as CLIP calls them" if self.labels else "the data themselves"

    @property
    def shards(self) -> str:
        """The address of its shards, which `slip evaluate` reads; "" if there are none."""
        return SHARDS + self.hub if self.hub else ""

    def called(self, values: Sequence[str | int], names: Sequence[str] = ()) -> tuple[Names, ...] | None:
        """Return the names of C classes in prompts, given their values in the data; None if the card lacks them.

        values: names, or numbers that count all of the card's classes from 0 or from 1. names: other names of the
        classes in the data.
        """
        numbers = [int(value) if re.fullmatch(r"\d{1,9}", str(value)) else -1 for value in values]
        if self.prompts == "imagenet":
            return _of_imagenet(numbers, names)
        known = self.labels
        every = list(known.values())
        spelled = {plain(one): called for key, called in known.items() for one in (*called, key)}
        for some in (values, names):
            found = [spelled.get(plain(str(one))) for one in some]
            if found and all(found) and len(set(map(str, found))) == len(found):
                return tuple(one for one in found if one)
        from_one = not all(key.isdigit() for key in known)  # else a label is the digit itself
        for first in range(1 + from_one if known else 0):
            if numbers == list(range(first, first + len(every))):
                return tuple(every)
        return None


def _of_imagenet(numbers: Sequence[int], names: Sequence[str]) -> tuple[Names, ...] | None:
    """Return CLIP's names of all of ImageNet's classes, given their labels or names; None for other classes."""
    from openslip.data.labelled import imagenet

    clip = imagenet.clip_names()
    known = numbers if numbers == list(range(imagenet.SIZE)) else imagenet.labels_of(names)
    return tuple((clip[label],) for label in known) if known else None


@cache
def cards() -> Mapping[str, Card]:
    """Return all cards by name: the paper's 26 first, in its order."""
    table = tomllib.loads(_text("cards.toml"))
    return {name: _card(name, facts) for name, facts in table.items()}


def _card(name: str, facts: dict[str, Any]) -> Card:
    """Return the card of a section of the table. Missing facts follow from the lists that contain its name."""
    own = name if name in _json("templates.json") or name in _ELSEWHERE else ""
    usual: dict[str, Any] = {"prompts": own, "told_by": "labels" if name in _json("labels.json") else "name"}
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()
    }
    return Card(name=name, **(usual | given))


def find(name: str) -> Card | None:
    """Return the card of a set by its name or an alias, in any spelling: `Food-101`, `wds_food101`; else None."""
    return _by_alias().get(short(name))


def get(name: str) -> Card:
    """Return the card of a set by its name or an alias. Raises ConfigError if there is none."""
    if card := find(name):
        return card
    raise ConfigError(
        f"There is no card for a data set {name!r}",
        fix=f"{did_you_mean(name, cards())} `slip datasets` lists all cards",
    )


def told(class_names: Iterable[str]) -> Card | None:
    """Return the card of the set that has these classes; None if the classes identify no set.

    Ten or more classes, all of them ImageNet's, identify ImageNet.
    """
    from openslip.data.labelled import imagenet

    names = tuple(class_names)
    known = {plain(name) for name in names}
    for card in cards().values():
        if _tells(card, known, len(names)):
            return card
    return cards()["imagenet"] if imagenet.holds(names) else None


def _tells(card: Card, known: set[str], count: int) -> bool:
    if isinstance(card.told_by, tuple):
        # Copies may lack a class, such as Caltech-101's backgrounds.
        return card.classes - 2 <= count <= card.classes and all(
            known & set(map(plain, one.split("|"))) for one in card.told_by
        )
    if card.told_by != "labels" or count != card.classes:
        return False
    spelled = [{plain(key), *map(plain, called)} for key, called in card.labels.items()]
    return all(known & one for one in spelled)


def templates(name: str) -> tuple[str, ...]:
    """Return a set of prompt templates by its name, with `{}` for the class. Raises KeyError if there is none."""
    match name:
        case "scenes":
            from openslip.scenes import TEMPLATES

            return tuple(TEMPLATES)
        case "imagenet":
            from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

            return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return tuple(_json("templates.json")[name])


def template_sets() -> tuple[str, ...]:
    """Return the names of all sets of templates."""
    return (*_json("templates.json"), *_ELSEWHERE)


def labels(name: str) -> Mapping[str, Names]:
    """Return the names of a set's classes in prompts, by their names in the data; {} if the data's names are used."""
    if name == "scenes":
        from openslip.scenes import Scenes

        return {one: (one,) for one in Scenes.class_names}
    found = _json("labels.json").get(name, {})
    pairs = found.items() if isinstance(found, dict) else zip(found, found)
    return {key: (called,) if isinstance(called, str) else tuple(called) for key, called in pairs}


_ELSEWHERE = ("imagenet", "scenes")
"""Sets of templates that come from open_clip and from the scenes."""


def plain(name: str) -> str:
    """Return the name of a class in a form that is equal for all spellings: `ApplyEyeMakeup`, `apply eye makeup`."""
    return re.sub(r"[\W_]+", "", name.casefold())


def short(name: str) -> str:
    """Return the name of a data set in a form that is equal for all spellings, without clip-benchmark's prefix."""
    return re.sub(r"^wds_?(vtab[-_/])?", "", name.strip().casefold()).translate(_SIGNS)


_SIGNS = str.maketrans("", "", " _-./()")


@cache
def _by_alias() -> Mapping[str, Card]:
    found: dict[str, Card] = {}
    for card in cards().values():
        for name in (card.name, card.title, *card.aliases, *filter(None, [card.hub])):
            found.setdefault(short(name), card)
    return found


@cache
def _json(name: str) -> Mapping[str, Any]:
    return json.loads(_text(name))


def _text(name: str) -> str:
    return files("openslip.evaluation.datasets").joinpath(name).read_text(encoding="utf-8")
