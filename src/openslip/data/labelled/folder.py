"""Labelled images in folders: one folder a class, either directly or in one folder a split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from openslip.data.labelled.classes import in_order
from openslip.data.labelled.labelled_set import Image, LabelledSet, Part, assemble
from openslip.data.labelled.layout import understand
from openslip.data.labelled.names import names_beside
from openslip.data.labelled.splits import split_called
from openslip.data.labelled.tree import scan
from openslip.data.labelled.within import CONTAINERS
from openslip.data.record import ImageFile
from openslip.data.sources.image_files import Strings, find_image, image_file, read_image
from openslip.errors import DataError


def open_folder(root: Path, name: str) -> LabelledSet:
    """Open the images of `<split>/<class>/*` or `<class>/*` below `root`, or in another form that `layout` knows.

    Raises DataError if there are no images, or if their classes are unclear.
    """
    tree = scan(os.fspath(root))
    if not tree.count:
        raise DataError(
            f"{root} holds no labelled images",
            got=", ".join([*tree.others, *(f"{name}/" for name in tree.bare)][:5]),
            cause=tree.what_is_missed()
            or "Labelled images belong in one folder a class, or in <split>/<class>/; archives are not read",
            fix="Sort the images into folders named like their classes.",
        )
    layout = understand(tree, name)
    parts = {split: _part(classes, root) for split, classes in layout.parts.items()}
    folders = [Path(folder) for folder in layout.folders]
    used = in_order(value for part in parts.values() for value in part.values)
    if split_called(root.absolute().name) or root.absolute().name.lower() in CONTAINERS:
        folders.append(root.absolute().parent)
    naming = next((found for folder in folders if (found := names_beside(folder, used))), None)
    told = [f"Class names from {naming.source}."] if naming and naming.source else []
    return assemble(name, os.path.realpath(root), parts, naming, notes=[*layout.notes, *told])


class Files(Sequence[Image]):
    """Image files at `paths` below `root`, read when indexed. Picklable: processes share the paths."""

    def __init__(self, root: str, paths: Iterable[str]) -> None:
        self.root, self.paths = root, Strings(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return read_image(os.path.join(self.root, self.paths[index]))

    def key(self, index: int) -> str:
        return self.paths[index]

    def file(self, index: int) -> ImageFile:
        return image_file(*find_image(os.path.join(self.root, self.paths[index])), (), self.paths[index])


def _part(classes: dict[str, list[str]], root: Path) -> Part:
    """Return the images of a split by class."""
    values = in_order(classes)
    paths = [path for value in values for path in classes[str(value)]]
    codes = np.repeat(np.arange(len(values)), [len(classes[str(value)]) for value in values])
    beginning = len(os.path.join(os.fspath(root), ""))
    files = Files(os.fspath(root), (path[beginning:] for path in paths))
    return Part(files, values, codes, cast(Sequence[str], files.paths))
