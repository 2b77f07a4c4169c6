"""Published data sets in the layouts of their archives, as authors pack them and torchvision unpacks them.

`open_published` recognises a layout by its files, never by the name of a folder. Each module here is one family of
layouts: `text_lists` (pictures, and text files that list them), `binaries` (pictures as bytes of one file), `matlab`
(lists or pictures in `.mat` files), `hdf5`, `annotation_files` (labels that follow from annotations of a picture).
Sets of one folder a class need no layout: `openslip.data.labelled.folder` reads them.
"""

from __future__ import annotations

import os
from pathlib import Path

from openslip.data.labelled.labelled_set import LabelledSet, assemble
from openslip.data.labelled.names import names_beside
from openslip.data.labelled.published import annotation_files, binaries, hdf5, matlab, text_lists
from openslip.data.labelled.published.archive import Archive
from openslip.data.labelled.tree import JUNK
from openslip.errors import DataError

ARCHIVES: tuple[Archive, ...] = (
    *text_lists.ARCHIVES,
    *binaries.ARCHIVES,
    *matlab.ARCHIVES,
    *hdf5.ARCHIVES,
    *annotation_files.ARCHIVES,
)
"""All layouts that are recognised."""
DEEP = 3
"""Levels of folders, each alone in its parent, that are followed."""
MOST_FOLDERS = 200
"""Folders of a folder that are searched. A folder with more is a folder of classes."""


def open_published(path: Path, name: str) -> LabelledSet | None:
    """Open the published set at `path`, called `name`; None if no layout is recognised.

    A folder that is alone in its parent is followed. Raises DataError for several sets side by side, and if a part of a
    recognised layout is missing or cannot be read.
    """
    if found := _recognised(path):
        place, archive = found
        try:
            contents = archive.read(place)
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise DataError(  # hostile bytes may cause any of these errors
                f"The files of {archive.title} cannot be read",
                got=str(place),
                cause=f"{type(error).__name__}: {error}",
                fix="If a file was cut off, unpack the archive or fetch it again.",
            ) from None
        naming, notes = contents.naming, [f"{name} is in the layout of {archive.title}.", *contents.notes]
        if naming is None:
            used = {value for part in contents.parts.values() for value in part.used}
            naming = names_beside(place, used, root=path)
            notes += [f"Class names from {naming.source}."] if naming and naming.source else []
        return assemble(name, os.path.realpath(path), contents.parts, naming, notes=notes)
    return None


def _recognised(path: Path) -> tuple[Path, Archive] | None:
    """Return the folder, or the one file, of the published set at `path`, and its layout."""
    if path.is_file():
        return next(((path, one) for one in ARCHIVES if path.name in one.files), None)
    folder = path
    for _ in range(DEEP + 1):
        here = [(folder, one) for one in ARCHIVES if one.is_in(folder)]
        below = _folders(folder)
        others = [one for one in ARCHIVES if all(one is not archive for _, archive in here)]
        inner = [(one, archive) for one in below for archive in others if archive.is_in(one)]
        if len(here) + len(inner) > 1 or (inner and len(below) > 1):
            listed = ", ".join(
                f"{archive.title} in {os.path.relpath(one, path)}" for one, archive in here + inner
            )
            raise DataError(
                f"{path} holds more than one data set",
                got=listed.replace(" in .", " in it"),
                fix=f"Name the folder of one of them, such as {(inner or here)[0][0]}.",
            )
        if here:
            return here[0]
        if len(below) != 1:
            return None
        folder = below[0]
    return None


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not empty, hidden, or left behind by operating systems."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in JUNK or not entry.is_dir():
                continue
            with os.scandir(entry.path) as inner:
                if next(inner, None) is not None:
                    found.append(Path(entry.path))
            if len(found) > MOST_FOLDERS:
                return []
    return sorted(found)
