"""Conceptual Captions, CC3M and CC12M, as SLIP's authors keep them: a .npy array of dicts, image files in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Any

from slip.data.containers.pickles import read_object_array
from slip.data.sources.files import ImageFiles, texts
from slip.data.sources.near import around, choose, spread
from slip.data.sources.options import Misfit
from slip.errors import DataError, did_you_mean
from slip.files import expand

IMAGE_KEYS = ("image_name", "image_id", "image", "file_name", "filename", "path")
CAPTION_KEYS = ("captions", "caption")
"""Looked for in each entry, the first one counts. CC12M's have an `image_name`, a file's, and a bare `image_id`."""


class Conceptual(ImageFiles):
    """The images of an object array of dicts, {"image_id": 1510438788, "captions": ["a field"]}, in its order.

    An image is `image_name`, else `image_id`, or what `image_column` names: a path, or a number that is a file's name.
    Captions are `captions`, a list or one text, or what `caption_column` names. Paths are relative to `image_root`,
    else to a folder near the array; where none of them exists as it stands, `.jpg` is added to all. The array is read
    without running code (see `pickles`).

    Raises DataError when the file is no such array, an entry names no image, or the images are nowhere to be found.
    """

    options = ("image_root", "image_column", "caption_column")

    def __init__(
        self, path: str | Path, *, image_root: str = "", image_column: str = "", caption_column: str = ""
    ) -> None:
        images = (image_column,) if image_column else IMAGE_KEYS
        captions = (caption_column,) if caption_column else CAPTION_KEYS
        super().__init__(str(path), Path(), _entries(path, images, captions))
        if not len(self):
            raise DataError("The array has no entries", got=str(path))
        roots = [expand(image_root)] if image_root else around(path, Path(path).stem)
        root, self._ending = choose([self._paths[i] for i in spread(len(self))], roots, ("", ".jpg"))
        self.root = str(root)
        said = [f"in {root}"] * (not image_root) + [f"with {self._ending} added to their names"] * bool(
            self._ending
        )
        self.note = f"Images of {path}: {', '.join(said)} (guessed)." if said else ""
        self.probe("Give the folder that holds them with --data.image-root")


def _entries(
    path: str | Path, image_keys: tuple[str, ...], caption_keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, entry in enumerate(read_object_array(path)):
        if number == 0:
            _check_asked_for(entry, image_keys, caption_keys, path)
        image = _first(entry, image_keys)
        if isinstance(image, int):
            image = str(image)
        if not isinstance(image, str) or not image:
            raise DataError(
                f"Entry {number:,} of the array names no image",
                got=f"{short(entry)}, in {path}",
                fix=f"It should be a dict with {' or '.join(map(repr, image_keys))}",
            )
        yield image, texts(_first(entry, caption_keys))


def _check_asked_for(
    entry: Any, image_keys: tuple[str, ...], caption_keys: tuple[str, ...], path: str | Path
) -> None:
    """Raise Misfit when the array's first entry lacks a key that was asked for: one that stands alone."""
    for option, keys in (("image_column", image_keys), ("caption_column", caption_keys)):
        if len(keys) == 1 and isinstance(entry, dict) and keys[0] not in entry:
            raise Misfit(
                option,
                f"{path} has no {keys[0]!r} in its entries",
                fix=did_you_mean(keys[0], map(str, entry)),
            )


def _first(entry: Any, keys: tuple[str, ...]) -> Any:
    """Return the value of the first of these keys that the entry has."""
    if not isinstance(entry, dict):
        return None
    return next((entry[key] for key in keys if key in entry), None)
