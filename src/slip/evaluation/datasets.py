"""Labelled images: scenes, Parquet as data hubs store it, and folders of one folder a class.

Images stay where they are until asked for: `Labelled.images[i]` reads the i-th one, as encoded bytes or as an array.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slip.addresses import shown
from slip.data.formats import EXTENSIONS
from slip.data.sources.files import read_image
from slip.errors import ConfigError, DataError, did_you_mean
from slip.evaluation import note
from slip.files import expand

if TYPE_CHECKING:
    from slip.data.scenes import Scenes

Image = bytes | np.ndarray

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "validation", "val", "valid"),
    "val": ("validation", "val", "valid"),
}
"""The names a split goes by, best first: where no test set is published, the validation set is what people test on."""

HELD_OUT = 0.2
"""Share of each class that a data set without splits gives as its test split."""
SCENES_SEEDS = {"val": 1, "test": 2**40, "heldout": 2**40}
"""Of the scenes to measure on: those for choosing settings and those for reporting have no picture in common, and
the latter none with what any usual seed trains on."""
SCENES_COUNTS = {"train": 4_000, "test": 2_000}
KEPT_SCENES = 10_000
"""Up to so many scenes are kept once drawn: 27 kB each."""


@dataclass(frozen=True)
class Labelled:
    """N labelled images of one split.

    images: N encoded files or uint8 (height, width, 3) arrays, read when indexed; DataError for one that cannot be.
    labels: (N,) int64 in [0, C). class_names: C names, as words. name: the data set's, for people.
    named: False where the data give only numbers, and class_names are these; zero-shot then has nothing to go by.
    """

    name: str
    split: str
    images: Sequence[Image]
    labels: np.ndarray
    class_names: tuple[str, ...]
    named: bool = True

    def __len__(self) -> int:
        return len(self.labels)


def load_labelled(spec: str, split: str = "test") -> Labelled:
    """Open one split (`train`, `test` or `val`) of the labelled images that `spec` names.

    spec: `scenes[:test|heldout|val[:count]]` (`val` to choose settings by, the others to report); a folder or file of
    Parquet as hubs store it (`train-*.parquet`, an image column, a label column, class names in the schema or in
    `classes.json` beside it); or a folder of images, `<split>/<class>/*` or `<class>/*`. Data without splits are split
    by a hash of each image's name: 20 % of every class for `test`, the rest for `train`, the same each time.

    Raises DataError for data that cannot be used, ConfigError for an unknown split.
    """
    split = "val" if split in SPLITS["val"] else split
    if split not in SPLITS:
        raise ConfigError(f"There is no split {split!r} of labelled images", fix=did_you_mean(split, SPLITS))
    if spec.split(":")[0] == "scenes":
        return _scenes(spec, split)
    path = expand(spec)
    if not os.path.exists(path):
        siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
        close = difflib.get_close_matches(path.name, siblings)
        raise DataError(
            "There are no labelled images at this place",
            got=spec,
            fix=did_you_mean(path.name, close) if close else "Check the path.",
        )
    if not path.is_dir() and not (path.is_file() and path.suffix == ".parquet"):
        raise DataError(
            "Labelled images come from a folder or a .parquet file",
            got=spec,
            fix="Give the folder that holds it.",
        )
    try:
        labelled = _load(path, split, dataset_name(spec))
    except OSError as error:
        raise DataError("The labelled images cannot be listed", got=spec, cause=str(error)) from None
    if len(labelled.class_names) < 2:
        raise DataError(
            f"{spec} has fewer than two classes",
            got=", ".join(labelled.class_names),
            fix="Check how its folders lie.",
        )
    return labelled


def _load(path: Path, split: str, name: str) -> Labelled:
    if not path.is_dir() or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        from slip.evaluation.parquet import load_parquet

        return load_parquet(path, split, name)
    return _folder(path, split, name)


def dataset_name(spec: str) -> str:
    """Return the short name of labelled or captioned data, from what was given to open them (nothing is read)."""
    if spec.split(":")[0] == "scenes":
        kind = spec.partition(":")[2].partition(":")[0]
        return f"scenes:{kind}" if kind in ("heldout", "val") else "scenes"
    path = expand(shown(spec)).absolute()
    splits = "|".join(alias for aliases in SPLITS.values() for alias in aliases)
    while re.match(rf"(({splits})\b.*\.parquet|{splits}|data|images)$", path.name) and path.parent.name:
        path = path.parent
    stem = re.sub(r"[*?\[{].*$|\.(parquet|tar|csv|tsv|jsonl?)$", "", path.name)
    return stem.rstrip("-_. ") or path.parent.name or spec


def words(class_name: str) -> str:
    """Return a class name as people write it: `great_white_shark` becomes `great white shark`."""
    return " ".join(class_name.replace("_", " ").split())


def split_by_hash(keys: Sequence[str], labels: np.ndarray, split: str) -> np.ndarray:
    """Return the indices of a split of data that came without: HELD_OUT of every class, chosen by hash, is the test.

    A class of one image gives it to train. `val` is `test`.
    """
    encoded = [key.encode("utf-8", "surrogatepass") for key in keys]  # names need not be UTF-8
    digests = np.array([hashlib.blake2b(key, digest_size=8).digest() for key in encoded], dtype="S8")
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(digests[members], kind="stable")]
        test[members[: min(max(1, round(HELD_OUT * len(members))), len(members) - 1)]] = True
    return np.flatnonzero(~test if split == "train" else test)


class Subset(Sequence[Image]):
    """Some of other images, in the order of `indices`."""

    def __init__(self, images: Sequence[Image], indices: np.ndarray) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.images[int(self.indices[index])]


class _Files(Sequence[Image]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return read_image(self.paths[index])


class _Rendered(Sequence[Image]):
    """Rendered scenes, each kept once drawn: several models are measured on the same ones."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        if index in self.drawn:
            return self.drawn[index]
        image = self.scenes[index].image
        if len(self) <= KEPT_SCENES and not isinstance(image, bytes):
            self.drawn[index] = image
        return image

    def __getstate__(self) -> dict[str, object]:
        return {"scenes": self.scenes, "drawn": {}}


@lru_cache(maxsize=4)
def _scenes(spec: str, split: str) -> Labelled:
    """Scenes to measure on. The train split has a seed of its own: its pictures are not those a model trained on."""
    from slip.data.scenes import Scenes

    kind, _, count = spec.removeprefix("scenes").removeprefix(":").partition(":")
    kind = kind or "test"
    if kind not in SCENES_SEEDS:
        fix = did_you_mean(kind, SCENES_SEEDS)
        raise DataError("There are no such scenes to measure on", got=spec, fix=fix)
    if count and not re.fullmatch(r"[1-9]\d*", count):
        raise DataError("Scenes to measure on are written scenes[:test|heldout|val[:count]]", got=spec)
    counts = {"test": int(count), "train": 2 * int(count)} if count else SCENES_COUNTS
    drawn = "train" if split == "train" else "heldout" if kind == "heldout" else "test"
    scenes = Scenes(drawn, counts.get(split, counts["test"]), seed=SCENES_SEEDS[kind])
    labels = np.array([scenes.label(i) for i in range(len(scenes))], dtype=np.int64)
    return Labelled(dataset_name(spec), split, _Rendered(scenes), labels, tuple(scenes.class_names))


def _folder(root: Path, split: str, name: str) -> Labelled:
    """One folder a class, below one folder a split or directly in `root`."""
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    known = {alias for aliases in SPLITS.values() for alias in aliases}
    split_folders = {n: p for n, p in folders.items() if n.lower() in known}
    if split_folders:
        found = [n for alias in SPLITS[split] for n in split_folders if n.lower() == alias]
        if not found:
            raise DataError(
                f"{root} has no {split} split",
                got=", ".join(split_folders),
                fix=f"Add a folder '{split}' of one folder a class.",
            )
        split, parent, classes = found[0], split_folders[found[0]], _subfolders(*split_folders.values())
    else:
        parent, classes = root, list(folders)
    paths, labels = [], []
    for label, class_name in enumerate(classes):
        for path in sorted((parent / class_name).rglob("*")):
            if path.suffix[1:].lower() in EXTENSIONS and not path.name.startswith("."):
                paths.append(path)
                labels.append(label)
    if not paths:
        raise DataError(
            f"{parent} holds no labelled images",
            cause="Labelled images lie in one folder a class, or in <split>/<class>/",
            fix="Sort the images into folders named like their classes.",
        )
    class_names = tuple(words(c) for c in classes)
    images, label_array = _Files([str(p) for p in paths]), np.array(labels, dtype=np.int64)
    if split_folders:
        return Labelled(name, split, images, label_array, class_names)
    note(
        f"{name} has no train and test folders: a fixed fifth of every class, chosen by file name, is its test split."
    )
    chosen = split_by_hash([p.relative_to(root).as_posix() for p in paths], label_array, split)
    return Labelled(name, split, Subset(images, chosen), label_array[chosen], class_names)


def _subfolders(*parents: Path) -> list[str]:
    """Names of the folders in any of `parents`, sorted: the same classes whatever split is asked for."""
    return sorted({p.name for parent in parents for p in parent.iterdir() if p.is_dir() and p.name[0] != "."})
