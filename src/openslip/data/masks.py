"""Pictures with a class for each pixel: VOC-like folders, folders of images and masks, and the embedded scenes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openslip.data.decode import new_budget, open_image, strict, unknown
from openslip.data.formats import EXTENSIONS
from openslip.data.labelled import dataset_name
from openslip.data.labelled.names import TEXTS
from openslip.data.labelled.published.archive import lines
from openslip.data.labelled.scenes import SEEDS
from openslip.data.labelled.splits import splits_called, standing_for
from openslip.data.limits import PIXELS
from openslip.data.sources.image_files import read_image
from openslip.errors import DataError, did_you_mean, shortened
from openslip.files import expand

IGNORED = 255
"""The label of pixels that do not count."""
BACKGROUND = "background"
"""The name of the class that is no thing."""
VOC_CLASSES = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train"),
    "tv monitor",
)
SCENES = {"train": 1_000, "test": 500}
"""Scenes to train on and to measure on, unless another number is asked for."""
_MASKS = ("masks", "annotations", "labels")
_LAYOUTS = (
    "Use one of two layouts: VOC's (JPEGImages, SegmentationClass, ImageSets/Segmentation/train.txt and val.txt), or "
    "images/SPLIT/*.jpg with masks/SPLIT/*.png of the same names and classes.txt, one name a line"
)


class Masked(Protocol):
    """N pictures with their masks, read when asked for."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Any, np.ndarray]:
        """Return a picture, as bytes or RGB array, and its mask, (H, W) uint8 of classes and IGNORED.

        Raises DataError where one cannot be read.
        """
        ...


@dataclass(frozen=True)
class MaskedSet:
    """Pictures with masks, by split: `train`, `val`, `test`, or `all` of a set without splits.

    location: where the set is. class_names: C names, for the labels 0 to C - 1. notes: sentences for people.
    """

    name: str
    location: str
    class_names: tuple[str, ...]
    splits: dict[str, Masked]
    notes: tuple[str, ...] = ()

    @property
    def test(self) -> str:
        """Which split is measured: `test`, else `val`, else all of a set without splits. Raises DataError."""
        if found := standing_for("test", self.splits) or ("all" if "all" in self.splits else ""):
            return found
        raise DataError(
            f"{self.name} has no split to measure on", got=", ".join(self.splits), fix="Add test or val"
        )

    def require_training(self) -> None:
        """Raise DataError without a split to train on, or to measure on."""
        if "train" not in self.splits or self.test == "all":
            raise DataError(
                f"{self.name} has no split to train on",
                got=f"the splits {', '.join(self.splits)}",
                fix="Put pictures to train on into a split train, or measure it with zeroshot-segmentation",
            )

    def describe(self) -> str:
        """Return in a line what is in it."""
        names = ", ".join(self.class_names[:4]) + (", …" if len(self.class_names) > 4 else "")
        counts = ", ".join(f"{len(some):,} {split}" for split, some in self.splits.items())
        return f"{self.name}: masks of {len(self.class_names)} classes ({names}), {counts}"


def open_masks(spec: str) -> MaskedSet:
    """Open `scenes[:test|heldout|val[:count]]`, or a folder in one of the layouts of the docs (docs/measuring.md).

    Raises DataError for any other folder, and for a folder without masks or names of classes.
    """
    name = dataset_name(spec)
    if spec.split(":")[0] == "scenes":
        return _scenes(spec, name)
    folder = expand(spec)
    if not folder.is_dir():
        raise DataError("There is no such folder of pictures with masks", got=spec, fix=_LAYOUTS)
    for inside in (folder, *sorted(folder.glob("VOC20*")), *sorted(folder.glob("VOCdevkit/VOC20*"))):
        if (inside / "SegmentationClass").is_dir() and (inside / "JPEGImages").is_dir():
            return _voc(inside, name)
    masks = next((folder / name for name in _MASKS if (folder / name).is_dir()), None)
    if masks is None or not (folder / "images").is_dir():
        raise DataError("The folder holds no pictures with masks", got=spec, fix=_LAYOUTS)
    return _folders(folder, masks, name)


@dataclass(frozen=True)
class Files:
    """Pictures and masks in files: N pairs of paths. classes: how many there are."""

    paths: Sequence[tuple[str, str]]
    classes: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> tuple[bytes, np.ndarray]:
        """Return the bytes of a picture, and its mask, as `Masked` says."""
        image, mask = self.paths[index]
        return read_image(image), read_mask(mask, self.classes)


class Rendered:
    """Scenes with the masks of their things."""

    def __init__(self, scenes: Any) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a rendered picture and its mask, as `Masked` says."""
        return self.scenes.picture_and_mask(index)


def read_mask(path: str, classes: int) -> np.ndarray:
    """Return the labels of a mask, (H, W) uint8: grey levels, or the indices of a palette, whatever its colours.

    Raises DataError for any other picture, and for labels that are not a class.
    """
    data = read_image(path)
    try:
        with strict():
            opened = open_image(data, new_budget())
            if opened.width * opened.height > PIXELS:
                raise DataError(
                    "The mask has too many pixels", got=f"{path}, {opened.width} × {opened.height}"
                )
            mode = opened.mode
            labels = np.asarray(opened)
    except DataError:
        raise
    except Exception:  # Pillow's readers raise almost anything on damaged files
        raise unknown(data) from None
    if labels.ndim != 2 or (mode not in ("P", "L", "1") and not mode.startswith("I")):
        raise DataError(
            "A mask must have one number for each pixel, the class",
            got=f"{path}, a picture of mode {mode}",
            cause="The mask has colours in place of numbers",
            fix="Write the mask as a PNG with a palette or in grey, where 0 is the first class and 255 does not count",
        )
    labels = labels.astype(np.int64)
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise DataError(
            "A mask has a label that is not a class",
            got=f"{path}, label {wrong[0]}, and there are {classes} classes",
            fix="Name all classes in classes.txt, and give pixels that do not count the label 255",
        )
    return labels.astype(np.uint8)


def _voc(folder: Path, name: str) -> MaskedSet:
    lists = folder / "ImageSets" / "Segmentation"
    names = _class_names(folder) or VOC_CLASSES
    splits: dict[str, Masked] = {}
    for split in ("train", "val", "test"):
        if (file := lists / f"{split}.txt").is_file():
            stems = lines(file)
            masks = {stem: folder / "SegmentationClass" / f"{stem}.png" for stem in stems}
            if away := next((stem for stem in stems if os.path.basename(stem) != stem or stem == ".."), None):
                raise DataError(
                    "A list names a picture outside of JPEGImages",
                    got=f"{file}, {shortened(away, 60)}",
                    fix="Write the names of files in JPEGImages, without .jpg, one a line",
                )
            if split == "test" and not any(map(os.path.isfile, masks.values())):
                continue  # VOC's own has no masks
            paths = [(str(folder / "JPEGImages" / f"{stem}.jpg"), str(masks[stem])) for stem in sorted(masks)]
            splits[split] = Files(paths, len(names))
    if not splits:
        raise DataError("The folder has no lists of pictures with masks", got=str(lists), fix=_LAYOUTS)
    return _checked(name, folder, names, splits, [])


def _folders(folder: Path, masks: Path, name: str) -> MaskedSet:
    names = _class_names(folder)
    if not names:
        raise DataError(
            "The names of the masks' classes are missing",
            got=str(folder),
            fix="Put a classes.txt into the folder: one name a line, the name of label 0 first",
        )
    inside = [one.name for one in (folder / "images").iterdir() if one.is_dir()]
    called = {split: one for one, split in sorted(splits_called(inside).items())}
    places = {split: one for split in ("train", "val", "test") if (one := called.get(split))} or {"all": ""}
    splits, notes = {}, []
    for split, place in places.items():
        own = {path.stem: str(path) for path in _pictures(masks / place)}
        found = [
            (str(path), own[path.stem]) for path in _pictures(folder / "images" / place) if path.stem in own
        ]
        if without := len(_pictures(folder / "images" / place)) - len(found):
            notes.append(f"Pictures of {name}, {split}, without a mask, which are left out: {without:,}")
        splits[split] = Files(found, len(names))
    return _checked(name, folder, names, splits, notes)


def _checked(
    name: str, folder: Path, names: Sequence[str], splits: dict[str, Masked], notes: list[str]
) -> MaskedSet:
    """Return the set. Raises DataError for too many classes, and where a split is empty."""
    if len(names) > IGNORED or len(names) < 2:
        raise DataError("Masks must have 2 to 255 classes", got=f"{folder}, {len(names)} classes")
    if empty := [split for split, some in splits.items() if not len(some)]:
        raise DataError(
            f"The split {empty[0]} of {name} has no picture with a mask", got=str(folder), fix=_LAYOUTS
        )
    return MaskedSet(name, os.path.realpath(folder), tuple(names), splits, tuple(notes))


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix[1:].lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    file = next((folder / name for name in TEXTS if (folder / name).is_file()), None)
    return tuple(lines(file)) if file else ()


def _scenes(spec: str, name: str) -> MaskedSet:
    from openslip.scenes import Scenes

    kind, _, count = spec.removeprefix("scenes").removeprefix(":").partition(":")
    kind = kind or "test"
    if kind not in SEEDS or (count and not re.fullmatch(r"[1-9]\d*", count)):
        fix = "Write scenes[:test|heldout|val[:count]]" if kind in SEEDS else did_you_mean(kind, SEEDS)
        raise DataError("There are no such scenes to measure on", got=spec, fix=fix)
    counts = {"test": int(count), "train": 2 * int(count)} if count else SCENES
    drawn = {"train": "train", "test": "heldout" if kind == "heldout" else "test"}
    splits: dict[str, Masked] = {
        split: Rendered(Scenes(of, counts[split], seed=SEEDS[kind])) for split, of in drawn.items()
    }
    return MaskedSet(name, spec, (BACKGROUND, *Scenes.class_names), splits)
