"""Find the folder of the images that a file names, when no option gives it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path

from openslip.data.sources.spelling import Spelling
from openslip.errors import DataError

FOLDER_NAMES = (
    *("images", "photos", "pictures", "img", "imgs", "pics", "image", "photo", "picture"),
    *("bilder", "fotos"),
)
"""Names of the folders beside a table that usually hold its pictures, likeliest first; also with capitals."""
LOOKED_INTO = 200
"""The most folders that are searched for missing images."""


def spread(length: int, count: int = 8) -> range:
    """Return about `count` indices, spread over `length` records."""
    return range(0, length, max(1, length // count))


def around(path: str | Path, *folders: str) -> list[Path]:
    """Return the folders that may hold the images of the file at `path`: its own, its parent, and these inside both."""
    near = Path(path).absolute().parent
    return [base / folder for base in (near, near.parent) for folder in (*folders, "images", "")]


def beside(path: str | Path) -> list[Path]:
    """Return the folders beside the table at `path` that may hold its images: with a usual name, or the table's."""
    near, stem = Path(path).parent, Path(path).stem
    forms = [form for name in FOLDER_NAMES for form in (name, name.capitalize(), name.upper())]
    return [folder for name in (*forms, stem) if os.path.isdir(folder := near / name)]


def choose_root(
    names: Sequence[str], roots: Iterable[Path], endings: Sequence[str] = ("",)
) -> tuple[Path, str]:
    """Return the folder and ending under which most of the image files `names` exist; the first if none does.

    Other spellings of the names count if no name exists as given.
    """
    candidates = list(product(dict.fromkeys(roots), endings))

    def found(candidate: tuple[Path, str]) -> int:
        return sum(os.path.isfile(os.path.join(candidate[0], name + candidate[1])) for name in names)

    best = max(candidates, key=found)
    for spelling in () if found(best) else (Spelling(), Spelling(any_format=True)):
        counts = [
            sum(_there(spelling, str(root), name + ending) for name in names) for root, ending in candidates
        ]
        if any(counts):
            return candidates[counts.index(max(counts))]
    return best


def advice(root: str, name: str) -> str:
    """Return what to do about images that are not below `root`, by the `name` of one; "" if that is nowhere near."""
    spelling = Spelling()
    *_, (form, _) = spelling.forms(name)
    base = os.path.basename(form)
    folders = [os.path.join(root, ".."), *_folders(root)]
    for folder in folders:
        if _there(spelling, folder, form):
            return f"The images are in '{os.path.normpath(folder)}': give that folder with --data.image-root"
    for folder in (root, *folders):
        if base != form and _there(spelling, folder, base):
            return (
                f"'{os.path.normpath(os.path.join(folder, base))}' is there: put the images where the paths say, or "
                f"write '{base}' as the path, and give the folder with --data.image-root"
            )
    return ""


def _folders(root: str) -> Iterator[str]:
    """Yield the folders in a folder, and the folders in these, at most LOOKED_INTO in all."""
    todo = [root]
    for _ in range(LOOKED_INTO):
        if not todo:
            return
        folder = todo.pop(0)
        if folder != root:
            yield folder
        if folder == root or os.path.dirname(folder) == root:
            try:
                with os.scandir(folder or ".") as entries:
                    some = [entry.path for entry in islice(entries, 10 * LOOKED_INTO) if entry.is_dir()]
                todo += sorted(path for path in some if not os.path.basename(path).startswith("."))
            except (OSError, ValueError):
                continue


def _there(spelling: Spelling, folder: str, name: str) -> bool:
    try:
        return spelling.find(folder, name) is not None
    except DataError:  # it could be two
        return True
