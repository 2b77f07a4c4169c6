"""Conceptual Captions, CC3M and CC12M, as SLIP's authors store them: a .npy array of dicts, and a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.captions import texts
from openslip.data.containers.pickles import read_object_array
from openslip.data.contents import Contents
from openslip.data.sources.entries import Texts, Unusable, short
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.options import Misfit
from openslip.data.sources.roots import around, choose_root, spread
from openslip.errors import DataError, did_you_mean
from openslip.files import expand

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_KEYS = ("image_name", "image_id", "image", "file_name", "filename", "path")
CAPTION_KEYS = ("captions", "caption")
"""Keys looked for in each entry; the first one counts. CC12M has a file's `image_name` and a bare `image_id`."""


class Conceptual(ImageFiles):
    """The images of an object array of dicts, {"image_id": 1510438788, "captions": ["a field"]}, in the array's order.

    The image is `image_name`, else `image_id`, or the key `image_column`: a path, or a number that is a file's name.
    The captions are `captions`, a list or one text, or the key `caption_column`. Paths are relative to `image_root`,
    else to a folder near the array. If no path exists as given, `.jpg` is added to all. The array is read without
    running code (see `pickles`). Entries with the same image are one record, with all their captions.
    `contents` counts the entries that are not used: those that name no image.

    Raises DataError when the file is no such array, when most entries name no image, or when the images are nowhere to
    be found.
    """

    options = ("image_root", "image_column", "caption_column")

    def __init__(
        self, path: str | Path, *, image_root: str = "", image_column: str = "", caption_column: str = ""
    ) -> None:
        images = (image_column,) if image_column else IMAGE_KEYS
        captions = (caption_column,) if caption_column else CAPTION_KEYS
        self.contents = Contents("entries")
        self._asked = path, images, captions
        entries = ((image, texts) for image, texts, _ in _entries(*self._asked, self.contents))
        super().__init__(str(path), Path(), entries, merge=True)
        if not len(self):
            raise DataError("The array has no entries", got=str(path))
        roots = [expand(image_root)] if image_root else around(path, Path(path).stem)
        root, self._ending = choose_root([self._paths[i] for i in spread(len(self))], roots, ("", ".jpg"))
        self.root = str(root)
        said = [f"in {root}"] * (not image_root) + [f"with {self._ending} added to their names"] * bool(
            self._ending
        )
        guessed = f"Images of {path}: {', '.join(said)} (guessed)." if said else ""
        twice = self.entries - len(self)
        merged = f"{twice:,} entries are of images listed before: each image is one record." if twice else ""
        self.note = " ".join(filter(None, [guessed, merged]))
        self.probe("Give the folder that holds the images with --data.image-root")

    def _read_own(self) -> pa.Table:
        """Read the other fields of the entries."""
        from openslip.data.typed_cells import Cells

        entries = _entries(*self._asked, Contents("entries"))
        return self.of_entries(((image, own) for image, _, own in entries), Cells())


def _entries(
    path: str | Path, image_keys: tuple[str, ...], caption_keys: tuple[str, ...], contents: Contents
) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Yield the image, the captions and the other fields of each entry that names an image.

    All entries are counted in `contents`.
    """
    unusable, drawn = Unusable(contents), Texts(path)
    for number, entry in enumerate(read_object_array(path)):
        contents.see()
        if number == 0:
            _check_asked_for(entry, image_keys, caption_keys, path)
        image = _first(entry, image_keys)
        if isinstance(image, int) and not isinstance(image, bool):
            image = str(image) if abs(image) < 10**30 else ""
        if isinstance(image, str) and image:
            drawn.draw(image, captions := _first(entry, caption_keys))
            used = [next((key for key in keys if key in entry), "") for keys in (image_keys, caption_keys)]
            yield image, texts(captions), {str(k): value for k, value in entry.items() if k not in used}
            continue
        error = DataError(
            f"Entry {number:,} of the array names no image",
            got=f"{short(entry)}, in {path}",
            fix=f"It should be a dict with {' or '.join(map(repr, image_keys))}",
        )
        unusable.count("the entry names no image", error)
    unusable.judge()


def _check_asked_for(
    entry: Any, image_keys: tuple[str, ...], caption_keys: tuple[str, ...], path: str | Path
) -> None:
    """Raise Misfit when the array's first entry lacks a key that an option names: then it is the only key."""
    for option, keys in (("image_column", image_keys), ("caption_column", caption_keys)):
        if len(keys) == 1 and isinstance(entry, dict) and keys[0] not in entry:
            raise Misfit(
                option,
                f"{path} has no {keys[0]!r} in its entries",
                fix=did_you_mean(keys[0], map(str, entry)),
            )


def _first(entry: Any, keys: tuple[str, ...]) -> Any:
    """Return the value of the first of these keys that the entry has, None without any."""
    if not isinstance(entry, dict):
        return None
    return next((entry[key] for key in keys if key in entry), None)
