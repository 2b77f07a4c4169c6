"""Labelled images: what every reader gives, and the set that is made of it.

A reader finds `Part`s: the images of each split, with the classes as the data give them. `assemble` makes one
`LabelledSet` of the parts: all splits have the same classes, whatever order or numbers the classes had in each part.
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

    images: as in `Labelled`. values: the classes that occur, as the data give them. codes: (N,) int64 indices of
    `values`, -1 for an image without a label. keys: N names of the images; a set without splits is split by them.
    several: for images with several labels, (N, V) int8, whether an image has each of the V values: 1, 0, or -1 if
    unknown; codes then tell only which images have labels.
    """

    images: Sequence[Image]
    values: Sequence[Value]
    codes: np.ndarray
    keys: Sequence[str] = ()
    several: np.ndarray | None = None

    @property
    def used(self) -> list[Value]:
        """The values that occur as labels."""
        if self.several is not None:
            return [self.values[i] for i in np.flatnonzero((self.several == 1).any(axis=0)).tolist()]
        return [self.values[i] for i in np.unique(self.codes[self.codes >= 0]).tolist()]


@dataclass(frozen=True)
class Labelled:
    """N labelled images of one split.

    images: N encoded files or uint8 (height, width, 3) arrays, read when indexed; DataError if one cannot be read.
    labels: (N,) int64 in [0, C); with several labels an image (N, C) int8: 1 for the image's classes, 0 for others, -1
    if unknown. class_names: C names, as words. name: of the data set, for people. split: `train`, `val` or `test`;
    `all` for a set without splits. location: the place of the data, which tells apart sets of one name. named: False
    if the data give only numbers, which then are the class_names; zero-shot is not possible with them.
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
    """All splits of the labelled images at one location.

    splits: by `train`, `val`, `test`, all with the same C classes; `all` alone if the data have no splits.
    values: what the data have for each of the C classes: a number, a text or a folder's name.
    notes: sentences on what was guessed, or is odd. templates: the prompts in a file beside the data, with `{}` for
    the class.
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
        """Raise DataError if an image may have several labels."""
        if self.several:
            raise DataError(
                f"The images of {self.name} have several labels each (multi-label)",
                got=", ".join(self.class_names[:SHOWN]),
                cause="One class an image is needed here",
                fix="Measure zeroshot: or linear:, which take several. Or name a column with one class an image.",
            )

    @property
    def undivided(self) -> bool:
        """Whether the data have no splits."""
        return "all" in self.splits

    def split(self, wanted: str) -> Labelled:
        """Return one split.

        `test` is the validation split if there is no test split. In a set without splits, `test` and `val` are a fixed
        fifth of every class, and `train` is the rest. Raises DataError if there is no such split, ConfigError for an
        unknown name.
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
            fix=f"Name a folder or files of it '{wanted}'. Or pass the folder or files of one split alone: they "
            "are measured as a set without splits.",
        )

    def only(self, names: Mapping[Value, str]) -> LabelledSet:
        """Return the images of some classes alone. names: of these classes, by value, in their new order."""
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
        """Raise DataError unless there are a train and a test split with a class in common."""
        require_common(self.split("train"), self.split("test"))

    def untrained(self) -> Labelled:
        """Return the images to measure on if no split is trained on: the test split, or all images without splits."""
        return self.splits["all"] if self.undivided else self.split("test")

    def describe(self) -> str:
        """Return one line: the classes, the number of images of each split, and classes that lack images."""
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
    """Raise DataError if the splits share no class: nothing learned on the one could be right on the other."""
    labels = [_present(one.labels) for one in (train, test)]
    if not {*labels[0]} & {*labels[1]}:
        names = [", ".join(train.class_names[label] for label in some[:SHOWN]) for some in labels]
        raise DataError(
            f"The splits of {train.name} have no class in common",
            got=f"{train.split}: {names[0]}; {test.split}: {names[1]}",
            fix="Give the classes the same names in both. Or pass the folder or files of one split alone.",
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
    """Make one set of the images by split, with the same C classes in every split. parts: `all` alone without splits.

    Equal values are one class. If splits spell a class differently, names that differ only in capitals, `-` or `_` are
    one class too. Classes come in the order in which their names are declared, else sorted, numbers as numbers.

    Raises DataError if some labels have names and others have none, and for fewer than two classes.
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
            fix="Check how the pictures are sorted.",
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
    """Return the labels of a split as `Labelled` has them. classes: the class of each of the part's values, or -1."""
    if not several:
        return np.array([*classes, -1])[part.codes]
    labels = np.zeros((len(part.codes), count), np.int8)
    if part.several is None:
        codes = np.array([*classes, -1])[part.codes]
        labels[np.arange(len(codes))[codes >= 0], codes[codes >= 0]] = 1
        return labels
    for column, one in zip(part.several.T, classes):
        if one >= 0:  # if several values are one class, one of them is enough
            unknown = (labels[:, one] < 0) | (column < 0)
            labels[:, one] = np.where((labels[:, one] == 1) | (column == 1), 1, -unknown.astype(np.int8))
    return labels


def _alike(
    values: Sequence[Value], spellings: Sequence[Iterable[Value]]
) -> tuple[dict[Value, Value], list[str]]:
    """Return, for each value, the value that represents its class, and notes on classes with several spellings.

    Equal numbers are one class. Texts are one class if they differ only in the encoding of an accent, or in spaces
    around them. Texts that differ in capitals, `-` or `_` are one class too, unless one of `spellings` (the values of a
    split) has several of them: then the difference is meant.
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
    """A selection of other images, in the order of `indices`."""

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
    """Return the name of an image for people: its file, or its row."""
    return images.key(index) if hasattr(images, "key") else f"#{index}"


def file_of(images: Sequence[Image], index: int) -> ImageFile | None:
    """Return the file of an image, None if the image is not a separate file. Captions and key are not the record's.

    Raises DataError if `images[index]` does.
    """
    return images.file(index) if hasattr(images, "file") else None


def columns_of(images: Sequence[Image], indices: Sequence[int]) -> pa.Table | None:
    """Return the other columns of these images, as `openslip.data.record.Source.columns` does."""
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
