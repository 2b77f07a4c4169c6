"""Judge the folders inside class folders: parts of classes, classes themselves, or copies of folders beside them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from openslip.data.labelled import imagenet
from openslip.data.labelled.tree import Node

CONTAINERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "pics"))
"""A folder of this name that is alone in its parent holds the pictures, and is no class."""
_ASPECTS = frozenset(
    (
        *("front", "back", "rear", "left", "right", "top", "bottom", "side", "above", "below", "up", "down"),
        *("inside", "outside", "interior", "exterior", "indoor", "indoors", "outdoor", "outdoors"),
        *("day", "night", "near", "far", "close", "closeup", "view", "views", "high", "low"),
        *(
            "small",
            "medium",
            "large",
            "big",
            "original",
            "originals",
            "raw",
            "cropped",
            "resized",
            "augmented",
        ),
        *(
            "color",
            "colour",
            "gray",
            "grey",
            "grayscale",
            "rgb",
            "edited",
            "good",
            "old",
            "new",
            "clean",
            "noisy",
            "x",
            "px",
        ),
    )
)
"""Words that tell how a thing is shown, not what it is."""
_PART = frozenset(
    (
        *("part", "batch", "chunk", "shard", "archive", "volume", "vol", "fold", "section", "subset", "page"),
        *("data", "frames", "files", "photo", "picture", *CONTAINERS),
    )
)
"""Words that, before a number, name a part of a set: `images_part_1`, `fold2`."""
_NUMBER_LAST = re.compile(r"(.*?)[-_. ]*\d+", re.DOTALL)
_MASK = re.compile(
    r"(.+?)[-_ ](mask|masks|gt|groundtruth|seg|segmentation|trimap)([-_ ]?\d+)?", re.IGNORECASE
)


def held(folder: Node) -> Node:
    """Return the folder that holds a class's pictures: a folder of CONTAINERS in it if there is nothing else."""
    while not folder.pictures and len(folder.folders) == 1 and folder.folders[0].name.lower() in CONTAINERS:
        folder = folder.folders[0]
    return folder


def may_be_classes(folders: Iterable[Node]) -> list[str]:
    """Return the names of inner folders that occur in several of `folders` and may be the classes, [] for none.

    Most of the inner folders have to occur several times: `photo/cat`, `photo/dog`, `sketch/cat`, `sketch/dog`. Parts
    of classes do not count: `day 1` and `day 2`, `front` and `back`.
    """
    outer = [held(folder) for folder in folders]
    if len(outer) < 2 or any(folder.pictures for folder in outer):
        return []
    inner = [below for folder in outer for below in folder.folders if below.name.lower() not in CONTAINERS]
    counts = Counter(below.name for below in inner)
    shared = [name for name, count in counts.items() if count > 1]
    if 2 * len(shared) <= len(counts):
        return []
    return may_be_classes(inner) if len(shared) < 2 or _say_no_class(shared) else sorted(shared)


def are_parts(names: Collection[str]) -> bool:
    """Return whether folders are named like numbered parts of one set: `images_001`, `images_002`."""
    found = [_NUMBER_LAST.fullmatch(name) for name in names]
    before = {match[1].lower() for match in found if match}
    return all(found) and len(before) == 1 and re.split(r"[\W\d_]+", before.pop())[-1] in _PART


def by_letter(folders: Sequence[Node]) -> dict[str, Node]:
    """Return the classes in folders named by one letter, as in SUN397 and Places; {} for other folders.

    `a/abbey` is `abbey`, and `c/church/indoor` `church indoor`.
    """
    classes: dict[str, Node] = {}
    for letter in folders:
        is_letter = len(letter.name) == 1 and letter.name.isalpha() and not letter.pictures
        starts = all(below.name.lower().startswith(letter.name.lower()) for below in letter.folders)
        if not (is_letter and starts) or all(_is_counted(below.name) for below in letter.folders):
            return {}
        for below in letter.folders:
            if below.pictures or held(below) is not below:
                classes[below.name] = below
            else:
                classes |= {f"{below.name} {leaf.name}": leaf for leaf in below.folders}
    return classes if len(folders) > 1 else {}


def copies(folders: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return the folders that hold folders named like those beside them: those with copies, and those with others.

    Archives often hold a whole set twice: `cat`, `dog` and `animals/cat`, `animals/dog`.
    """
    beside = {folder.name: folder for folder in folders}
    copied, others = [], []
    for folder in folders:
        again = {below.name: below for below in folder.folders}
        if folder.pictures or not again or not again.keys() <= beside.keys() - {folder.name}:
            continue
        if all(_inside(below) <= _inside(beside[name]) for name, below in again.items()):
            copied.append(folder)
            del beside[folder.name]
        elif len(again) > 1:
            others.append(folder)
    return copied, others


def masks(paths: Sequence[str]) -> list[str]:
    """Return the pictures that are masks of others by their names: `1_mask.png` beside `1.png`."""
    found = [(path, _MASK.fullmatch(os.path.splitext(path)[0])) for path in paths]
    if not any(match for _, match in found):
        return []
    stems = {os.path.splitext(path)[0] for path in paths}
    return [path for path, match in found if match and match[1] in stems]


def _inside(folder: Node) -> set[str]:
    return {os.path.relpath(path, folder.path) for path in folder.paths()}


def _say_no_class(names: Collection[str]) -> bool:
    if {*names} == {*map(str, range(10))}:  # digits to be read, rather than numbers of parts
        return False
    if all({*re.split(r"[\W\d_]+", name.lower())} - {""} <= _ASPECTS for name in names):  # also mere numbers
        return True
    return all(map(_is_counted, names)) and len({_NUMBER_LAST.sub(r"\1", name) for name in names}) == 1


def _is_counted(name: str) -> bool:
    """Return whether a name is that of a numbered part, such as `day 3` or `patient_17`, rather than of a class."""
    return _NUMBER_LAST.fullmatch(name) is not None and not imagenet.is_wordnet_id(name)
