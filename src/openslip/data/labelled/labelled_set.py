"""Labelled images: what every reader gives, and what is made of it.

A reader finds `Part`s: the images of each split, each with its class as the data tell it. `assemble` makes a
`LabelledSet` of them: the same classes in all splits, whatever order or numbers they had in each.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.labelled.class_names import class_names as named_by_values
from openslip.data.labelled.classes import Naming, Value, folded, in_order, number, same_number
from openslip.data.labelled.splits import held_out, split_asked_for, standing_for
from openslip.data.record import ImageFile
from openslip.errors import DataError, note, printable

if TYPE_CHECKING:
    import pyarrow as pa

Image = bytes | np.ndarray

SHOWN = 4
"""Names of classes that a line about them shows."""


@dataclass(frozen=True)
class Part:
    """N images of one split as a reader finds them.

    images: as those of `Labelled`. values: the classes that occur, as the data tell them. codes: (N,) int64 indices of
    `values`, -1 where an image has no label. keys: N names of the images, by which a set without splits is split.
    several: of images with several labels (N, V) int8, which of the V values each has: 1, 0, or -1 where that is not
    known; codes then say no more than which have labels.
    """

    images: Sequence[Image]
    values: Sequence[Value]
    codes: np.ndarray
    keys: Sequence[str] = ()
    several: np.ndarray | None = None

    @property
    def used(self) -> list[Value]:
        """The values that images have."""
        if self.several is not None:
            return [self.values[i] for i in np.flatnonzero((self.several == 1).any(axis=0)).tolist()]
        return [self.values[i] for i in np.unique(self.codes[self.codes >= 0]).tolist()]


@dataclass(frozen=True)
class Labelled:
    """N labelled images of one split.

    images: N encoded files or uint8 (height, width, 3) arrays, read when indexed; DataError for one that cannot be.
    labels: (N,) int64 in [0, C); of several labels an image (N, C) int8, 1 for the classes it has, 0 for others, -1
    where that is not known. class_names: C names, as words. name: the data set's, for people. split: `train`,
    `val` or `test`; `all` of a set without splits. location: where it lies, which tells it from others of its name.
    named: False where the data give only numbers, and class_names are these; zero-shot then has nothing to go by.
    """

    name: str
    split: str
    images: Sequence[Image]
    labels: np.ndarray
    class_names: tuple[str, ...]
    named: bool = True
    location: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledSet:
    """The labelled images at one location, all splits of them.

    splits: by `train`, `val`, `test`, all with the same C classes; `all` alone where the data came without splits.
    values: what the data have for each of the C classes, a number, a text or a folder's name.
    notes: what was guessed, or is odd about them, in sentences. templates: the prompts that lie beside the data, with
    `{}` for the class.
    """

    name: str
    location: str
    class_names: tuple[str, ...]
    named: bool
    splits: Mapping[str, Labelled]
    keys: Sequence[str] = ()
    notes: tuple[str, ...] = field(default=())
    values: tuple[Value, ...] = ()
    templates: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return any(part.labels.ndim == 2 for part in self.splits.values())

    def require_single(self) -> None:
        """Raise DataError where an image may have several labels."""
        if self.several:
            raise DataError(
                f"The images of {self.name} have several labels each (multi-label)",
                got=", ".join(self.class_names[:SHOWN]),
                cause="Here one class an image is needed",
                fix="Measure zeroshot: or linear:, which take them. Or name a column with one class an image.",
            )

    @property
    def undivided(self) -> bool:
        """Whether the data came without splits."""
        return "all" in self.splits

    def split(self, wanted: str) -> Labelled:
        """Return one split; the validation split for `test` where there is no test split; of a set without splits a
        fixed fifth of every class for `test` and `val`, and the rest for `train`.

        Raises DataError where there is none, ConfigError for an unknown name.
        """
        wanted = split_asked_for(wanted)
        if self.undivided:
            whole = self.splits["all"]
            one = np.zeros(len(whole), np.int64) if self.several else whole.labels
            test = held_out(self.keys, one)
            what = "all images" if self.several else "every class"
            note(f"{self.name} has no train and test split: a fixed fifth of {what} is its test split.")
            return _some(whole, np.flatnonzero(~test if wanted == "train" else test), wanted)
        if found := standing_for(wanted, self.splits):
            if found != wanted:
                note(f"{self.name} has no labelled {wanted} split: its {found} split is measured.")
            return self.splits[found]
        raise DataError(
            f"{self.name} has no labelled {wanted} split",
            got=", ".join(self.splits),
            cause=next((said for said in self.notes if f"The {wanted} split" in said), ""),
            fix=f"Name a folder or files of it '{wanted}'. Or give the folder or files of one split themselves: they "
            "are measured as a set without splits.",
        )

    def only(self, names: Mapping[Value, str]) -> LabelledSet:
        """Return the images of some classes alone, given what each is called by its value, in the order of these."""
        order = [self.values.index(value) for value in names]
        label_of = np.full(len(self.values), -1)
        label_of[order] = np.arange(len(order))
        called, splits = tuple(names.values()), {}
        for split, whole in self.splits.items():
            part = _some(whole, np.flatnonzero(label_of[whole.labels] >= 0), split)
            splits[split] = replace(part, labels=label_of[part.labels], class_names=called, named=True)
        keys = (
            [key for key, label in zip(self.keys, self.splits["all"].labels) if label_of[label] >= 0]
            if self.keys
            else ()
        )
        said = f"{len(order):,} of {len(self.values):,} classes of {self.name} are measured."
        return replace(
            self,
            class_names=called,
            named=True,
            splits=splits,
            keys=keys,
            values=tuple(names),
            notes=(*self.notes, said),
        )

    def require_training(self) -> None:
        """Raise DataError without a train and a test split, and where no class is in both."""
        require_common(self.split("train"), self.split("test"))

    def untrained(self) -> Labelled:
        """Return what to measure on where nothing is trained on the other splits: the test split, else all there is."""
        return self.splits["all"] if self.undivided else self.split("test")

    def describe(self) -> str:
        """Return one line that says which classes these are, how many images of them there are, and which lack some."""
        counts = ", ".join(
            f"{len(part):,} {'images' if split == 'all' else split}" for split, part in self.splits.items()
        )
        everything = range(len(self.class_names))
        line = f"{_shortened(self.name, 60)}: {_classes(everything)} ({self._some(everything)}), {counts}"
        if self.several:
            every = np.concatenate([part.labels for part in self.splits.values()])
            line += f", {(every == 1).sum() / len(every):.1f} labels an image"
        present = {split: _present(part.labels) for split, part in self.splits.items()}
        for tested in ("test", "val"):
            if "train" not in present or tested not in present:
                continue
            for here, there in ((tested, "train"), ("train", tested)):
                if lacking := sorted(set(present[here]) - set(present[there])):
                    line += (
                        f"; {_classes(lacking)} of {here} without a {there} picture ({self._some(lacking)})"
                    )
            break
        empty = sorted(
            set(range(len(self.class_names))) - {label for labels in present.values() for label in labels}
        )
        if empty:
            line += f"; {_classes(empty)} without any picture ({self._some(empty)})"
        return _one_line(line)

    def _some(self, labels: Sequence[int]) -> str:
        names = [_shortened(self.class_names[label]) for label in labels[:SHOWN]]
        return ", ".join(names) + (", …" if len(labels) > SHOWN else "")


def require_common(train: Labelled, test: Labelled) -> None:
    """Raise DataError where no class of the one split is in the other: nothing learned on it could be right."""
    labels = [_present(one.labels) for one in (train, test)]
    if not {*labels[0]} & {*labels[1]}:
        names = [", ".join(train.class_names[label] for label in some[:SHOWN]) for some in labels]
        raise DataError(
            f"The splits of {train.name} have no class in common",
            got=f"{train.split}: {names[0]}; {test.split}: {names[1]}",
            fix="Call the classes the same in both. Or give the folder or files of one split themselves.",
        )


def _present(labels: np.ndarray) -> list[int]:
    """Return the classes that images have."""
    found = np.unique(labels) if labels.ndim == 1 else np.flatnonzero((labels == 1).any(axis=0))
    return found.tolist()


def _classes(labels: Sequence[int]) -> str:
    return f"{len(labels):,} class{'es' if len(labels) > 1 else ''}"


def _shortened(name: str, longest: int = 30) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def assemble(
    name: str,
    location: str,
    parts: Mapping[str, Part],
    naming: Naming | None = None,
    *,
    notes: Sequence[str] = (),
) -> LabelledSet:
    """Make one set of the images of its splits, `all` alone for those without: C classes, the same in every split.

    Classes are the same by their value; where the splits differ, also those whose names differ in capitals, `-` or `_`.
    Classes come in the order in which their names are declared, else sorted, numbers as numbers.

    Raises DataError for labels that have no name where others have, and for fewer than two classes.
    """
    naming = naming or Naming()
    used = {split: part.used for split, part in parts.items()}
    everything = list(
        dict.fromkeys([*naming.names, *(value for values in used.values() for value in values)])
    )
    alike, merged = _alike(everything, [*used.values(), naming.names])
    names = {alike[value]: called for value, called in naming.names.items()}
    found = {alike[value] for values in used.values() for value in values}
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
            cause=" ".join(notes[:2]),
            fix="Check how its pictures are sorted.",
        )
    index = {value: i for i, value in enumerate(values)}
    several = any(part.several is not None for part in parts.values())
    named = named_by_values([str(names.get(value, value)) for value in values], name, declared=bool(names))
    made = {
        split: Labelled(
            name,
            split,
            part.images,
            _labels(
                part, [index.get(alike.get(value, value), -1) for value in part.values], len(values), several
            ),
            named.names,
            named.named,
            location,
        )
        for split, part in parts.items()
    }
    keys = parts["all"].keys if "all" in parts else ()
    notes = (*filter(None, notes), *merged, *named.notes)
    return LabelledSet(name, location, named.names, named.named, made, keys, notes, tuple(values))


def _labels(part: Part, classes: Sequence[int], count: int, several: bool) -> np.ndarray:
    """Return the labels of a split as `Labelled` has them. classes: of each of the part's values, -1 for none."""
    if not several:
        return np.array([*classes, -1])[part.codes]
    labels = np.zeros((len(part.codes), count), np.int8)
    if part.several is None:
        codes = np.array([*classes, -1])[part.codes]
        labels[np.arange(len(codes))[codes >= 0], codes[codes >= 0]] = 1
        return labels
    for column, one in zip(part.several.T, classes):
        if one >= 0:  # of values that are one class, one is enough
            unknown = (labels[:, one] < 0) | (column < 0)
            labels[:, one] = np.where((labels[:, one] == 1) | (column == 1), 1, -unknown.astype(np.int8))
    return labels


def _alike(
    values: Sequence[Value], spellings: Sequence[Iterable[Value]]
) -> tuple[dict[Value, Value], list[str]]:
    """Return, for each value, the one that stands for its class, and what is to be said where these differ.

    Numbers are one class by their number. Texts are where they differ only in how an accent is written, or in spaces
    around them; and where they differ in capitals, `-` or `_`, unless one of `spellings` (the values of a split) has
    several of them: then somebody means them to differ.
    """
    numeric = all(number(value) is not None for value in values)
    plain = {value: str(number(value)) if numeric else _plain(value) for value in values}
    groups: dict[str, list[Value]] = defaultdict(list)
    for value in values:
        groups[folded(plain[value])].append(value)
    differ = {
        group
        for some in spellings
        for group, count in Counter(folded(one) for one in {plain[value] for value in some}).items()
        if count > 1
    }
    alike: dict[Value, Value] = {}
    for key, group in groups.items():
        for value in group:
            alike[value] = next(one for one in group if key not in differ or plain[one] == plain[value])
    alike = {value: same_number(one) if numeric else one for value, one in alike.items()}
    # Numbers of several widths are usual, such as 7 in one split and 007 in another.
    odd = [
        group
        for group in groups.values()
        if len({str(value) for value in group}) > max(1, len({alike[value] for value in group}))
        and not (numeric and all(len({str(v) for v in some if v in group}) < 2 for some in spellings))
    ]
    listed = ", ".join(" = ".join(repr(str(value)) for value in group) for group in odd[:SHOWN])
    listed += ", …" if len(odd) > SHOWN else ""
    return alike, [f"Classes that are spelled in several ways are taken for one: {listed}."] if odd else []


def _plain(value: Value) -> str:
    return " ".join(unicodedata.normalize("NFC", str(value)).split())


class Subset(Sequence[Image]):
    """Some of other images, in the order of `indices`."""

    def __init__(self, images: Sequence[Image], indices: np.ndarray) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.images[int(self.indices[index])]

    def key(self, index: int) -> str:
        return key_of(self.images, int(self.indices[index]))

    def file(self, index: int) -> ImageFile | None:
        return file_of(self.images, int(self.indices[index]))

    def own_columns(self, indices: Sequence[int]) -> pa.Table | None:
        return columns_of(self.images, self.indices[np.asarray(indices, np.int64)].tolist())

    @property
    def columns_note(self) -> str:
        return getattr(self.images, "columns_note", "")


def key_of(images: Sequence[Image], index: int) -> str:
    """Return what names an image for people: its file, or its row."""
    return images.key(index) if hasattr(images, "key") else f"#{index}"


def file_of(images: Sequence[Image], index: int) -> ImageFile | None:
    """Return where an image lies as a file of its own, None where it is none; captions and key are not the record's.

    Raises DataError where `images[index]` does.
    """
    return images.file(index) if hasattr(images, "file") else None


def columns_of(images: Sequence[Image], indices: Sequence[int]) -> pa.Table | None:
    """Return what lies beside these images in other columns, as `openslip.data.record.Source.columns` does."""
    return images.own_columns(indices) if hasattr(images, "own_columns") else None


def _some(labelled: Labelled, chosen: np.ndarray, split: str) -> Labelled:
    return Labelled(
        labelled.name,
        split,
        Subset(labelled.images, chosen),
        labelled.labels[chosen],
        labelled.class_names,
        labelled.named,
        labelled.location,
    )
