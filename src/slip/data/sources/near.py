"""Where the images of an annotation file are, when nobody says so."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from slip.data.sources.files import PROBED, is_file


def spread(length: int) -> range:
    """Return a few indices, spread over so many records."""
    return range(0, length, max(1, length // PROBED))


def around(path: str | Path, *folders: str) -> list[Path]:
    """Return the folders that the images of the file at `path` may be in: those of these names near it, its own."""
    near = Path(path).absolute().parent
    return [base / folder for base in (near, near.parent) for folder in (*folders, "images", "")]


def choose(names: Sequence[str], roots: Iterable[Path], endings: Sequence[str] = ("",)) -> tuple[Path, str]:
    """Return the folder and ending under which most of the image files `names` exist; the first if none does."""

    def found(place: tuple[Path, str]) -> int:
        return sum(is_file(os.path.join(place[0], name + place[1])) for name in names)

    return max(product(dict.fromkeys(roots), endings), key=found)
