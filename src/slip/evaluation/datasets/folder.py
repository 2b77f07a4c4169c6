"""Labelled images in folders: one folder a class, below one folder a split or directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slip.data.formats import EXTENSIONS
from slip.data.sources.files import read_image
from slip.errors import DataError
from slip.evaluation.datasets import splits
from slip.evaluation.datasets.classes import in_order
from slip.evaluation.datasets.labelled import Image, LabelledSet, Part, assemble


def open_folder(root: Path, name: str) -> LabelledSet:
    """Open the images of `<split>/<class>/*` or `<class>/*` below `root`. Raises DataError where there are none."""
    folders = _subfolders(root)
    divided = {split: p for p in folders if (split := splits.split_called(p.name))}
    parts = {split: _part(p, root) for split, p in divided.items()} if divided else {"all": _part(root, root)}
    if not any(len(part.images) for part in parts.values()):
        raise DataError(
            f"{root} holds no labelled images",
            cause="Labelled images lie in one folder a class, or in <split>/<class>/",
            fix="Sort the images into folders named like their classes.",
        )
    return assemble(
        name, str(root.absolute()), {split: parts[split] for split in splits.NAMES if split in parts} or parts
    )


class Files(Sequence[Image]):
    """Image files, read when indexed."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return read_image(self.paths[index])


def _part(parent: Path, root: Path) -> Part:
    """Return the images in the folders of `parent`, each a class."""
    classes = {p.name: p for p in _subfolders(parent)}
    values = in_order(classes)
    paths, codes = [], []
    for code, value in enumerate(values):
        for path in sorted(classes[str(value)].rglob("*")):
            if path.suffix[1:].lower() in EXTENSIONS and not path.name.startswith("."):
                paths.append(path)
                codes.append(code)
    keys = [path.relative_to(root).as_posix() for path in paths]
    return Part(Files([str(path) for path in paths]), values, np.array(codes, dtype=np.int64), keys)


def _subfolders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
