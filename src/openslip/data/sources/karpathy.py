"""Karpathy's splits of COCO, Flickr30k and Flickr8k: one JSON file with images, their captions and their splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.captions import texts
from openslip.data.contents import Contents
from openslip.data.sources.coco import read_annotations
from openslip.data.sources.entries import Unusable, short
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.roots import FOLDER_NAMES, around, choose_root, spread
from openslip.errors import DataError, did_you_mean
from openslip.files import expand, open_regular

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = 1 << 16
"""The first image of such a file must be within this many bytes."""
TRAINING = {"train": ("train", "restval")}
"""Splits that include others: `restval` is the part of COCO's validation set outside `val` and `test`."""
_SPEC = re.compile(r"(.+\.json):([A-Za-z_]+)", re.DOTALL)
_FOLDERS = (
    *("flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr8k_images"),
    *FOLDER_NAMES,
)
_NOT_COLUMNS = ("filepath", "filename", "sentences", "sentids")


class KarpathySplit(ImageFiles):
    """One split of such a file (Karpathy and Fei-Fei 2015): its images in the file's order, each with all captions.

    split: `train` (with `restval`), `val`, `test`, `restval`, or `all`. The images are looked for in `image_root` if
    given, else near the file, by folder and name as the file has them, or by name alone.
    Raises DataError for another kind of file, a split that the file lacks, and images that are nowhere to be found.
    """

    def __init__(self, path: str | Path, split: str = "train", *, image_root: str = "") -> None:
        self._path = path = Path(path)
        entries = _load(path)
        self.split, self._taken = split, _of(entries, split, path)
        self.contents = Contents("images", len(entries))
        unusable = Unusable(self.contents)
        found: list[tuple[dict[str, Any], tuple[str, ...]]] = []
        for entry in entries:
            if isinstance(entry, dict) and _split(entry) not in self._taken:
                self.contents.leave_out(f"the split {_split(entry)}", _name(entry), lost=False)
            elif not isinstance(entry, dict) or not _name(entry):
                error = DataError(f"An image of {path} has no usable 'filename'", got=short(entry))
                unusable.count("the image has no usable 'filename'", error)
            else:
                found.append((entry, _captions(entry)))
        unusable.judge()
        if not any(captions for _, captions in found):
            raise DataError("Not one image of the split has a caption", got=f"{path}, split {split}")
        some = [found[i][0] for i in spread(len(found))]
        near = (
            [expand(image_root) / folder for folder in ("", *_FOLDERS)]
            if image_root
            else around(path, *_FOLDERS)
        )
        # Folders that the file names, such as train2014, may not exist: then only the names are looked for.
        alone = [str(entry["filename"]).strip() for entry in some]
        root, _ = choose_root([_name(entry) for entry in some], near)
        self._alone = not any(os.path.isfile(root / _name(entry)) for entry in some)
        if self._alone:
            plain, _ = choose_root(alone, near)
            self._alone = any(os.path.isfile(plain / name) for name in alone)
            root = plain if self._alone else root
        named = ((self._named_in(entry), captions) for entry, captions in found)
        super().__init__(f"{path}:{split}", root, named, merge=True)
        counts = Counter(_split(entry) for entry in entries if isinstance(entry, dict))
        others = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name not in self._taken)
        self.note = f"From {path.name} the split {' and '.join(self._taken)}, {len(self):,} images"
        if others:
            self.note += f"; left out: {others} ({path.name}:SPLIT takes another)"
        self.probe("Give the folder that holds the images with --data.image-root")

    def _named_in(self, entry: dict[str, Any]) -> str:
        return str(entry["filename"]).strip() if self._alone else _name(entry)

    def _read_own(self) -> pa.Table:
        """Read the other fields of each image, such as `cocoid` and `split`."""
        from openslip.data.typed_cells import Cells

        def rows() -> Iterator[tuple[str, dict[str, Any]]]:
            for entry in _load(self._path):
                if isinstance(entry, dict) and _split(entry) in self._taken and _name(entry):
                    own = {key: value for key, value in entry.items() if key not in _NOT_COLUMNS}
                    yield self._named_in(entry), own

        return self.of_entries(rows(), Cells())


def split_of(spec: str) -> tuple[str, str]:
    """Return the file and the split of `dataset_coco.json:test`; for another spec, the spec and ""."""
    found = _SPEC.fullmatch(spec)
    return (found[1], found[2]) if found and not os.path.exists(spec) else (spec, "")


def with_split(spec: str, split: str) -> str:
    """Return a spec with this split if it is only the path of such a file, else unchanged."""
    path = expand(spec)
    is_file = spec.lower().endswith(".json") and os.path.isfile(path) and is_karpathy(path)
    return f"{spec}:{split}" if is_file else spec


def is_karpathy(path: str | Path) -> bool:
    """Tell from its beginning whether `path` is such a file; False if it cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except (OSError, ValueError):
        return False
    return all(re.search(rb'"%s"\s*:' % key, head) for key in (b"images", b"filename", b"sentences"))


def _load(path: Path) -> list[Any]:
    data = read_annotations(path, ("images",))
    images = data.get("images") if isinstance(data, dict) else None
    if isinstance(images, list) and any(
        isinstance(e, dict) and "sentences" in e and "split" in e for e in images
    ):
        return images
    raise DataError(
        "The file has no splits",
        got=str(path),
        cause='It is none of Karpathy\'s: {"images": [{"filename": …, "split": …, "sentences": [{"raw": …}]}, …]}',
        fix="Name the file without a split after it",
    )


def _of(entries: list[Any], split: str, path: Path) -> tuple[str, ...]:
    """Return the splits of the file that `split` stands for. Raises DataError where the file has none of them."""
    there = dict.fromkeys(_split(entry) for entry in entries if isinstance(entry, dict))
    wanted = tuple(there) if split == "all" else TRAINING.get(split, (split,))
    if taken := tuple(name for name in wanted if name in there):
        return taken
    raise DataError(
        f"{path} has no split {split!r}",
        got=f"it has {', '.join(there)}",
        fix=did_you_mean(split, [*there, "all"]),
    )


def _split(entry: dict[str, Any]) -> str:
    """Return the split of an image as text, whatever type it has in the file."""
    return str(entry.get("split"))


def _name(entry: dict[str, Any]) -> str:
    """Return the path of an image as the file gives it, "" if the file gives none."""
    folder, name = entry.get("filepath"), entry.get("filename")
    if not isinstance(name, str) or not name.strip():
        return ""
    return (
        f"{folder.strip().rstrip('/')}/{name.strip()}"
        if isinstance(folder, str) and folder.strip()
        else name.strip()
    )


def _captions(entry: dict[str, Any]) -> tuple[str, ...]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        return ()
    return tuple(text for one in sentences if isinstance(one, dict) for text in texts(one.get("raw")))
