"""A folder of images, searched to any depth: no captions, for self-supervision alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from slip.data.formats import EXTENSIONS, image_endings
from slip.data.sources.files import ImageFiles
from slip.errors import DataError


class ImageFolder(ImageFiles):
    """Every image below `folder`, sorted by relative path, which is also the record's key.

    Hidden files and folders are left out; links are followed, each folder once.
    Raises DataError when a folder cannot be listed or there is no image.
    """

    options = ()

    def __init__(self, folder: str | Path) -> None:
        others: Counter[str] = Counter()
        paths = sorted(_images(str(folder), others))
        if not paths:
            raise DataError(
                "The folder holds no images",
                got=str(folder),
                cause=_what_is_there(others),
                fix=f"Images end in {image_endings()}; if there are captions, "
                "give the table or annotation file that holds them instead of the folder",
            )
        super().__init__(str(folder), Path(folder), ((path, ()) for path in paths))


def _images(folder: str, others: Counter[str]) -> Iterator[str]:
    """Yield the relative paths of all images below `folder`, with slashes; count the other files' extensions."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # reached again through a link, perhaps for ever
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted: which of two links to one folder is taken must not depend on the file system.
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/") + "/" if parent != folder else ""
        for file in files:
            extension = os.path.splitext(file)[1].lower()
            if file.startswith("."):
                continue
            if extension[1:] in EXTENSIONS:
                yield prefix + file
            else:
                others[extension or "without extension"] += 1


def _cannot_list(error: OSError) -> None:
    raise DataError("A folder cannot be listed", got=str(error.filename), cause=str(error.strerror))


def _what_is_there(others: Counter[str]) -> str:
    if not others:
        return "It is empty"
    return "It holds only " + ", ".join(
        f"{count} × {extension}" for extension, count in others.most_common(5)
    )
