"""Finds data sets: `food101` is looked for in folders of data sets, and `food101@/data/mine` names its place."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from openslip.addresses import is_url
from openslip.errors import DataError, shortened
from openslip.evaluation.datasets import Card, Kind, cards, find, short
from openslip.files import expand

ROOTS = "OPENSLIP_DATASETS"
"""The environment variable that names folders of data sets, separated by the system's separator of paths."""

TEST_SHARDS = ("test/*.tar", "*-test-*.tar", "test-*.tar", "test.tar")
"""Shards of the test split in the folder of a set with captions."""


def roots() -> tuple[Path, ...]:
    """Return the folders in which data sets are looked for."""
    return tuple(expand(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root.strip())


def add_roots(folders: Sequence[str | os.PathLike[str]]) -> None:
    """Have this process, and processes that it starts, look for data sets in further folders first.

    Raises DataError for a path that is not a folder.
    """
    for folder in folders:
        if not expand(folder).is_dir():
            raise DataError(
                "Data sets are looked for in folders, and this is not a folder",
                got=str(folder),
                cause="" if os.path.lexists(expand(folder)) else "There is nothing of that name",
                fix="Name the folder that contains the folders of the sets",
            )
    if folders:
        named = [os.path.abspath(expand(folder)) for folder in folders]
        os.environ[ROOTS] = os.pathsep.join([*named, *map(str, roots())])


def named(dataset: str) -> Card | None:
    """Return the card that a task names, as `food101` or `food101@/data/mine`; None for a path, an address or a source.

    If the path `food101` exists, the task means that path.
    """
    name, at, _ = dataset.partition("@")
    if not _is_name(name) or os.path.lexists(expand(dataset)):
        return None
    card = find(name)
    return None if card is None or (card.name == "scenes" and not at) else card


def short_name(dataset: str) -> str:
    """Return the short name of a task's data set: the name of its card, else a name from its path."""
    from openslip.data.labelled import dataset_name

    card = named(dataset)
    return card.name if card else dataset_name(dataset)


def place_of(dataset: str, *kinds: Kind) -> str:
    """Return the location of a task's data set: a path as it is, or the place where a card's set is found.

    kinds: the kinds of sets that the task is for; none: all. Raises DataError for a set that is not found, with the
    address to get it from, and for a set of another kind.
    """
    if (card := named(dataset)) is None:
        _refuse_misspelt(dataset)
        return dataset
    if kinds and card.kind not in kinds:
        raise DataError(
            f"{card.title} has {card.kind}, and the task is for {' or '.join(kinds)}",
            got=dataset,
            fix=f"`slip datasets show {card.name}` says what the set is for",
        )
    if place := dataset.partition("@")[2]:
        return _inside(card, place)
    if found := on_disk(card):
        return _inside(card, str(found))
    raise missing(card)


def _inside(card: Card, place: str) -> str:
    """Return the part of a set's folder that is measured: for captions, the card's file or the shards of the test
    split; else the folder."""
    folder = expand(place)
    if card.kind != "captions" or not folder.is_dir():
        return place
    if card.file and (folder / card.file).is_file():
        return str(folder / card.file)
    for pattern in TEST_SHARDS:
        if next(folder.glob(pattern), None):
            return str(folder / pattern)
    return place


def on_disk(card: Card, folders: Sequence[Path] | None = None) -> Path | None:
    """Return the folder of a card's set in the first of `folders` that has the set, or None. Default: `roots()`.

    The folder has the name of the card or one of its aliases, in any spelling.
    """
    for root in roots() if folders is None else folders:
        if found := next((path for path in _entries(root) if find(path.name) is card), None):
            return found
    return None


def _entries(root: Path) -> list[Path]:
    """Return the folders in a folder, short names before long ones."""
    try:
        with os.scandir(root) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda path: (len(path.name), path.name))


def missing(card: Card) -> DataError:
    """Return the error for a set that is not on disk."""
    folders = roots()
    return DataError(
        f"{card.title} is not on this machine",
        got=card.name,
        cause=f"No folder in {shortened(', '.join(map(str, folders)))} is called {card.name} or by one of its aliases"
        if folders
        else f"Neither --datasets FOLDER nor the environment variable {ROOTS} names a folder of data sets",
        fix=f"Get it from {card.where}"
        + (f", or as shards from {card.shards}" if card.hub and card.shards not in card.where else "")
        + f". To name another place, write {card.name}@FOLDER",
    )


def _is_name(text: str) -> bool:
    return bool(text) and not is_url(text) and not any(sign in text for sign in "*?[{:" + os.sep + "/")


def _refuse_misspelt(dataset: str) -> None:
    """Raise DataError for a name that neither exists as a path nor names a card, but is nearly the name of a card."""
    name = dataset.partition("@")[0]
    if not _is_name(name) or os.path.lexists(expand(dataset)):
        return
    close = difflib.get_close_matches(short(name), map(short, cards()), n=1, cutoff=0.8)
    if close and (meant := find(close[0])) and meant.name != name:
        raise DataError(
            "There is neither such a folder nor a data set of this name",
            got=dataset,
            fix=f"Did you mean {meant.name!r}? `slip datasets` lists the sets that have names",
        )
