"""Tell which folders of a labelled set are splits, which are classes, and which are neither.

A folder is a split only if all folders beside it are splits, or if the folders in it are classes. Unclear layouts are
refused, and notes say what is left out: a wrong guess would look like a result.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openslip.data.labelled.annotated import read as read_annotations
from openslip.data.labelled.splits import SPLITS, split_called, splits_called
from openslip.data.labelled.tree import Node
from openslip.data.labelled.within import (
    CONTAINERS,
    are_parts,
    by_letter,
    copies,
    held,
    masks,
    may_be_classes,
)
from openslip.errors import DataError, printable

_MASKS = re.compile(
    r"(annotation|label|mask|trimap|segmentation|ground_?truth|bounding|depth)s?\w*", re.IGNORECASE
)
"""Folders beside a folder of CONTAINERS whose pictures only annotate the pictures in it."""
_ALMOST_SPLIT = re.compile(r"(train|test|val)(ing|id|idation)?[-_. ]?\w{0,2}", re.IGNORECASE)
_CLASS_IN_NAME = re.compile(r"([^\W\d_][^\W\d]+?)[-_. ]*\(?\d+\)?\.\w+")
_NO_CLASSES = ("BACKGROUND_Google",)
"""Folders of pictures beside Caltech-101's classes that are not classes."""
_TABLES = ("csv", "tsv", "jsonl", "parquet", "xlsx")


@dataclass
class Layout:
    """The class of each picture. parts: the paths of each class's pictures, by split or as `all`.

    folders: the folders on the way from the root to the classes. notes: sentences for people.
    """

    parts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def understand(tree: Node, name: str) -> Layout:
    """Return the layout of a labelled set called `name`. Raises DataError if it is unclear."""
    return _Reader(name).read(tree)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.layout = Layout()
        self.passed: list[Node] = []
        self.bare: list[str] = []

    def read(self, tree: Node) -> Layout:
        top = self._inside(tree)
        divided = self._divided(top)
        if divided is None:
            self._whole(top)
        else:
            self._by_split(divided, top)
        if missed := tree.what_is_missed():
            self._say(missed)
        return self.layout

    def _whole(self, top: Node) -> None:
        """Take the folders of a set without folders for splits as its classes."""
        if not self._is_sorted(top):
            classes = self._annotated(top, "all", None)
            if classes is None:
                raise self._unsorted([top])
            self.layout.parts["all"] = classes
            return
        almost = [_ALMOST_SPLIT.fullmatch(folder.name) for folder in top.folders]
        if all(almost) and len({found[1].lower() for found in almost if found}) > 1:
            raise DataError(
                f"It is unclear whether the folders of {self.name} are splits or classes",
                got=_some(folder.name for folder in top.folders),
                fix="Name splits train, val and test, and name the folders in them after the classes.",
            )
        if turned := self._splits_within_classes(top):
            self.layout.parts = turned
            return
        self.layout.parts["all"] = self._classes(top)

    def _by_split(self, divided: dict[str, Node], top: Node) -> None:
        self._stray(top)
        folders = {split: self._inside(node) for split, node in divided.items()}
        unsorted = {split: node for split, node in folders.items() if not self._is_sorted(node)}
        parts = {split: self._classes(node) for split, node in folders.items() if split not in unsorted}
        known = {value for classes in parts.values() for value in classes}
        for split, node in unsorted.items():
            if classes := self._annotated(node, split, known or None):
                parts[split] = classes
        if not parts:
            raise self._unsorted([*divided.values()])
        self.layout.parts = {split: parts[split] for split in SPLITS if split in parts}
        for split, node in unsorted.items():
            if split not in parts:
                self._say(
                    f"The {split} split ({_shown(divided[split].name)}) is left out: {_pictures(node.count)} "
                    "in no class folders"
                )
        for split in SPLITS:
            bare = [name for name in top.bare if split_called(name) == split]
            if bare and split not in divided:
                self._say(f"The {split} split ({_shown(bare[0])}) holds no pictures")

    def _inside(self, node: Node) -> Node:
        """Go down as long as a folder holds one folder of folders: `images`, or the folder of an unpacked archive."""
        while True:
            self.layout.folders.append(node.path)
            self.passed.append(node)
            self.bare += node.bare
            self._drop_masks(node)
            self._drop_copies(node)
            if len(node.folders) != 1 or not node.folders[0].folders:
                return node
            only = node.folders[0]
            inner = [split_called(folder.name) for folder in only.folders]
            if split_called(only.name) and not split_called(node.name) and not all(inner):
                return node
            self._stray(node)
            node = only

    def _drop_masks(self, *nodes: Node) -> None:
        """Leave out the folders beside `images` whose pictures only annotate the pictures in `images`."""
        dropped: list[Node] = []
        for node in nodes:
            if any(folder.name.lower() in CONTAINERS for folder in node.folders):
                dropped += _drop(node, [folder for folder in node.folders if _MASKS.fullmatch(folder.name)])
        self._leave_out(dropped, "annotate other pictures")

    def _drop_copies(self, node: Node) -> None:
        """Leave out folders that hold copies of those beside them. Raises DataError if they hold other pictures."""
        copied, others = copies(node.folders)
        self._leave_out(_drop(node, copied), "hold copies of those beside them")
        for folder in others:
            inner = [below.name for below in folder.folders]
            if not any(map(split_called, (folder.name, *inner))):
                raise DataError(
                    f"It is unclear whether {_shown(folder.name)} in {self.name} is a class",
                    got=f"It holds folders with the same names as folders beside it: {_some(inner)}",
                    fix=f"Move it away, or put its pictures into the folders beside it; or give {folder.path} itself.",
                )

    def _divided(self, top: Node) -> dict[str, Node] | None:
        """Return the folders that are splits, None if the folders are classes."""
        called = splits_called(folder.name for folder in top.folders)
        named = [(called[folder.name], folder) for folder in top.folders if folder.name in called]
        others = [folder for folder in top.folders if folder.name not in called]
        if not named:
            return None
        several = len({split for split, _ in named}) > 1
        sorted_ones = [folder for _, folder in named if self._is_sorted(folder, 2)]
        held = any(folder.name.lower() in CONTAINERS for folder in others)
        if others and not sorted_ones and not several and not held:
            self._say(
                f"The folder {_shown(named[0][1].name)} is taken for a class, as {_some(f.name for f in others)} "
                "beside it are no splits"
            )
            return None
        if others and not (sorted_ones and several):
            raise DataError(
                f"It is unclear whether {_some(f.name for _, f in named)} in {self.name} is a split or a class",
                got=f"beside it: {_some(f.name for f in others)}",
                fix=f"Rename it, or give {named[0][1].path} itself to measure on the pictures in it.",
            )
        found: dict[str, Node] = {}
        for split, folder in named:
            if split in found:
                raise DataError(
                    f"{self.name} has two folders for its {split} split",
                    got=f"{found[split].name}, {folder.name}",
                    fix="Move one of them away, or rename it.",
                )
            found[split] = folder
        self._leave_out(others, "are neither splits nor classes")
        return found

    def _is_sorted(self, node: Node, fewest: int = 1) -> bool:
        """Return whether the pictures are in folders of at least `fewest` classes, not all in one folder."""
        if len(node.folders) != 1:
            return len(node.folders) >= fewest
        only = node.folders[0]
        is_container = only.name.lower() in CONTAINERS or only.name == node.name
        if is_container or split_called(only.name) or only.folders:
            return self._is_sorted(only, fewest)
        return fewest < 2

    def _classes(self, node: Node) -> dict[str, list[str]]:
        """Return the pictures of each class: those in its folder, and in all folders below."""
        self._stray(node)
        self._leave_out(
            _drop(node, [folder for folder in node.folders if folder.name in _NO_CLASSES]),
            "hold pictures of no class (CLIP measured with one more, `background`: rename the folder to do so)",
        )
        self._drop_masks(*node.folders)
        classes = by_letter(node.folders)
        if classes:
            self._say(
                f"The folders {_some(f.name for f in node.folders)} only sort the folders of classes in them"
            )
        else:
            classes = {folder.name: folder for folder in node.folders}
        inner = [
            below.name
            for folder in classes.values()
            for below in held(folder).folders
            if below.name.lower() not in CONTAINERS
        ]
        if inner and all(map(split_called, classes)) and split_called(node.name):
            raise DataError(
                f"It is unclear whether {_some(classes)} in {node.path} are splits or classes",
                fix=f"Put the splits of {self.name} beside each other.",
            )
        self._refuse_unclear([*classes.values()], node.folders)
        if are_parts([folder.name for folder in node.folders]):
            raise self._parts(node)
        if inner:
            self._say(
                f"The classes are the {len(classes):,} folders {_some(classes)}: the "
                f"{len(inner):,} folder{'s' * (len(inner) != 1)} inside them ({_some(inner)}) "
                f"{'is' if len(inner) == 1 else 'are'} not told apart"
            )
        if node.bare:
            self._say(
                f"Folders without pictures in {_shown(node.name)} do not count as classes: {_some(node.bare)}"
            )
        return self._without_masks({name: [*folder.paths()] for name, folder in classes.items()})

    def _refuse_unclear(self, classes: Sequence[Node], shown: Sequence[Node]) -> None:
        """Raise DataError if folders within `classes` may be the classes. shown: the folders that the error names."""
        if unclear := may_be_classes(classes):
            raise DataError(
                f"It is unclear which folders of {self.name} are its classes",
                got=f"{_some(folder.name for folder in shown)}, and in them {_some(unclear)}",
                fix=f"To tell the inner folders apart, give one of the outer, such as {shown[0].path}. To tell the "
                "outer apart, put their pictures directly into them, or give a table of image files and classes.",
            )

    def _without_masks(self, classes: dict[str, list[str]]) -> dict[str, list[str]]:
        found = {mask for paths in classes.values() for mask in masks(paths)}
        if found:
            self._say(
                f"{_pictures(len(found))} left out, named like masks of pictures beside them: "
                f"{_some(map(os.path.basename, sorted(found)))}"
            )
        return {name: [path for path in paths if path not in found] for name, paths in classes.items()}

    def _parts(self, node: Node) -> DataError:
        tables = [
            name for one in (node, *self.passed) for name in one.others if name.lower().endswith(_TABLES)
        ]
        return DataError(
            f"The folders of {self.name} are named like parts of one set, not like classes",
            got=_some(folder.name for folder in node.folders),
            fix="Sort the images into folders named like their classes"
            + (f", or give {tables[0]} if it holds the class of each image." if tables else "."),
        )

    def _splits_within_classes(self, top: Node) -> dict[str, dict[str, list[str]]] | None:
        """Return the parts of a set whose class folders hold its splits, None for other sets."""
        found: dict[str, dict[str, Node]] = defaultdict(dict)
        others: list[Node] = []
        for folder in top.folders:
            inside = held(folder)
            inner = {split: f for f in inside.folders if (split := split_called(f.name))}
            if inside.pictures or len(inner) < min(2, len(inside.folders)):
                return None
            for split, below in inner.items():
                found[split][folder.name] = below
            others += [f for f in inside.folders if f is not inner.get(split_called(f.name))]
        if len(top.folders) < 2 or len(found) < 2:
            return None
        for classes in found.values():
            self._refuse_unclear([*classes.values()], top.folders)
        self._leave_out(others, "are no splits")
        self._stray(top)
        return {
            split: {name: [*below.paths()] for name, below in found[split].items()}
            for split in SPLITS
            if split in found
        }

    def _annotated(self, node: Node, split: str, known: set[str] | None) -> dict[str, list[str]] | None:
        """Return the classes of a split's pictures in one folder, from a file there or above (see `annotated`).

        known: the classes of the other splits. Returns None without such a file.
        """
        held = node.folders[0] if len(node.folders) == 1 and not node.pictures else node
        above = [one for one in self.passed if node.path.startswith(os.path.join(one.path, ""))]
        for folder in (node, *above):
            for file, named in read_annotations(folder, split):
                classes: dict[str, list[str]] = defaultdict(list)
                for path in held.paths():
                    name = os.path.basename(path)
                    if value := named.get(name) or named.get(os.path.splitext(name)[0]):
                        classes[value].append(path)
                count = sum(map(len, classes.values()))
                if not count or (known is not None and not known & classes.keys()):
                    continue
                where = f"{_pictures(held.count)} in {_shown(node.name)}"
                self._say(f"The classes of {where} are those in {_shown(file)}")
                if count < held.count:
                    self._say(f"{_pictures(held.count - count)} left out, which {_shown(file)} does not name")
                return dict(classes)
        return None

    def _unsorted(self, nodes: Sequence[Node]) -> DataError:
        """Return the error for pictures that are in no class folders."""
        pictures = [os.path.basename(path) for node in nodes for path in node.paths()]
        others = [name for node in nodes for name in (*node.others, *node.bare)]
        in_names = Counter(found[1].lower() for name in pictures if (found := _CLASS_IN_NAME.fullmatch(name)))
        cause = "Labelled images belong in one folder a class, or in <split>/<class>/"
        if "labels" in (*others, *self.bare):
            cause = "Files in a folder 'labels' usually say where things are in a picture, not the picture's class"
        elif 1 < len(in_names) < 100 and in_names.total() == len(pictures):
            cause = f"The names of files seem to say the class: {_some(in_names)}"
        tables = [name for name in others if name.lower().endswith(_TABLES)]
        return DataError(
            f"The pictures of {self.name} are in no class folders",
            got="; ".join(f"{_pictures(node.count)} in {node.name}" for node in nodes),
            cause=cause,
            fix="Sort the images into folders named like their classes"
            + (f", or give {tables[0]} if it holds the class of each image." if tables else "."),
        )

    def _stray(self, node: Node) -> None:
        if node.pictures and node.folders:
            self._say(
                f"{_pictures(len(node.pictures))} left out, beside the folders of classes in {_shown(node.name)}: "
                f"{_some(node.pictures)}"
            )

    def _leave_out(self, folders: Sequence[Node], why: str) -> None:
        if folders:
            count = sum(folder.count for folder in folders)
            listed = _some(folder.name for folder in folders)
            self._say(f"{_pictures(count)} left out, in folders that {why}: {listed}")

    def _say(self, sentence: str) -> None:
        if f"{sentence}." not in self.layout.notes:
            self.layout.notes.append(f"{sentence}.")


def _drop(node: Node, folders: list[Node]) -> list[Node]:
    """Remove folders from their parent, and return them."""
    node.folders = [folder for folder in node.folders if folder not in folders]
    node.count -= sum(folder.count for folder in folders)
    return folders


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' if count > 1 else ''}"


def _some(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(map(_shown, names[:3])) + (", …" if len(names) > 3 else "")


def _shown(name: str) -> str:
    """Return a file's name for a sentence: without control characters, at most 40 long."""
    name = " ".join(printable(name).split()) or repr(name)
    return name if len(name) <= 40 else f"{name[:39]}…"
