"""Labelled images: what every reader gives, and what is made of it.

A reader finds `Part`s: the images of each split, each with its class as the data tell it. `assemble` makes a
`LabelledSet` of them: the same classes in all splits, whatever order or numbers they had in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slip.errors import DataError
from slip.evaluation import note
from slip.evaluation.datasets import splits
from slip.evaluation.datasets.classes import Naming, Value, in_order, number, same, same_number, words

Image = bytes | np.ndarray

SHOWN = 4
"""Names of classes that a line about them shows."""


@dataclass(frozen=True)
class Part:
    """N images of one split as a reader finds them.

    images: as those of `Labelled`. values: the classes that occur, as the data tell them. codes: (N,) int64 indices of
    `values`, -1 where an image has no label. keys: N names of the images, by which a set without splits is split.
    """

    images: Sequence[Image]
    values: Sequence[Value]
    codes: np.ndarray
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class Labelled:
    """N labelled images of one split.

    images: N encoded files or uint8 (height, width, 3) arrays, read when indexed; DataError for one that cannot be.
    labels: (N,) int64 in [0, C). class_names: C names, as words. name: the data set's, for people. split: `train`,
    `val` or `test`; `all` of a set without splits. place: where it lies, which tells it from others of its name.
    named: False where the data give only numbers, and class_names are these; zero-shot then has nothing to go by.
    """

    name: str
    split: str
    images: Sequence[Image]
    labels: np.ndarray
    class_names: tuple[str, ...]
    named: bool = True
    place: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledSet:
    """The labelled images at one place, all splits of them.

    splits: by `train`, `val`, `test`, all with the same C classes; `all` alone where the data came without splits.
    notes: what was guessed, or is odd about them, in sentences.
    """

    name: str
    place: str
    class_names: tuple[str, ...]
    named: bool
    splits: Mapping[str, Labelled]
    keys: Sequence[str] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def undivided(self) -> bool:
        """Whether the data came without splits."""
        return "all" in self.splits

    def split(self, wanted: str) -> Labelled:
        """Return one split; the validation split for `test` where there is no test split; of a set without splits a
        fixed fifth of every class for `test` and `val`, and the rest for `train`.

        Raises DataError where there is none, ConfigError for an unknown name.
        """
        wanted = splits.asked_for(wanted)
        if self.undivided:
            whole = self.splits["all"]
            test = splits.held_out(self.keys, whole.labels)
            note(f"{self.name} has no train and test split: a fixed fifth of every class is its test split.")
            return _some(whole, np.flatnonzero(~test if wanted == "train" else test), wanted)
        if found := splits.standing_for(wanted, self.splits):
            return self.splits[found]
        raise DataError(
            f"{self.name} has no labelled {wanted} split",
            got=", ".join(self.splits),
            fix=f"Name a folder or files of it '{wanted}'.",
        )

    def untrained(self) -> Labelled:
        """Return what to measure on where nothing is trained on the other splits: the test split, else all there is."""
        return self.splits["all"] if self.undivided else self.split("test")

    def describe(self) -> str:
        """Return one line that says which classes these are, and how many images of them there are."""
        shown = ", ".join(self.class_names[:SHOWN]) + (", …" if len(self.class_names) > SHOWN else "")
        counts = ", ".join(
            f"{len(part):,} {'images' if split == 'all' else split}" for split, part in self.splits.items()
        )
        return f"{self.name}: {len(self.class_names):,} classes ({shown}), {counts}"


def assemble(
    name: str,
    place: str,
    parts: Mapping[str, Part],
    naming: Naming | None = None,
    *,
    notes: Sequence[str] = (),
) -> LabelledSet:
    """Return the set that the parts of its splits make.

    parts: by `train`, `val`, `test`, or `all` alone. naming: what the values are called, where that is known. notes:
    what the reader has to say.

    Raises DataError for labels that have no name where others have, and for fewer than two classes.
    """
    naming = naming or Naming()
    used = {
        part.values[i] for part in parts.values() for i in np.unique(part.codes[part.codes >= 0]).tolist()
    }
    alike = same_number if all(number(value) is not None for value in [*used, *naming.names]) else same
    names = {alike(value): called for value, called in naming.names.items()}
    found = {alike(value) for value in used}
    if names and not found <= names.keys():
        raise DataError(
            f"{name} has labels that name no class",
            got=", ".join(str(value) for value in in_order(found - names.keys())[:5])
            + f"; {len(names)} have names",
            fix="Remove these images, or give classes.json the names of all classes.",
        )
    values = list(names) if naming.declared else in_order(found)
    if len(values) < 2:
        raise DataError(
            f"{name} has fewer than two classes",
            got=", ".join(map(str, values)),
            fix="Check how its folders lie.",
        )
    index = {value: i for i, value in enumerate(values)}
    class_names = tuple(words(str(names.get(value, value))) for value in values)
    named = bool(names) or alike is same
    made = {
        split: Labelled(
            name,
            split,
            part.images,
            np.array([*(index.get(alike(value), -1) for value in part.values), -1])[part.codes],
            class_names,
            named,
            place,
        )
        for split, part in parts.items()
    }
    keys = parts["all"].keys if "all" in parts else ()
    return LabelledSet(name, place, class_names, named, made, keys, tuple(filter(None, notes)))


class Subset(Sequence[Image]):
    """Some of other images, in the order of `indices`."""

    def __init__(self, images: Sequence[Image], indices: np.ndarray) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.images[int(self.indices[index])]


def _some(labelled: Labelled, chosen: np.ndarray, split: str) -> Labelled:
    return Labelled(
        labelled.name,
        split,
        Subset(labelled.images, chosen),
        labelled.labels[chosen],
        labelled.class_names,
        labelled.named,
        labelled.place,
    )
