"""RedCaps: annotation files, one for each subreddit and year, merged on the fly; images in one folder per subreddit."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from openslip.data.captions import texts
from openslip.data.contents import Contents
from openslip.data.limits import TABLE_BYTES, TEXT_BYTES
from openslip.data.sources.coco import parse
from openslip.data.sources.entries import Unusable, short
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.roots import around, choose_root, spread
from openslip.errors import DataError
from openslip.files import expand, open_regular, read_whole

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = 1 << 16
"""A file must show what it is within this many characters."""

CHUNK = 1 << 20
"""Characters of a list of annotations read at a time."""

LONGEST = TEXT_BYTES
"""The most characters of an annotation in a list; a longer one is an error, as it would be read over and over."""


class RedCaps(ImageFiles):
    """The images of RedCaps annotation files, file after file by name, each with its caption.

    `paths`: a folder of annotation files (`<subreddit>_<year>.json`), some of these files, or one file with the
    annotations of several in one list. `name`: the source's name. An image is `<subreddit>/<image_id>.jpg` below
    `image_root`, else below a folder near the annotations. The caption is `caption`, or `raw_caption` if `caption` is
    missing or blank. Annotations of the same image are one record, with all their captions. `contents` counts the
    annotations that are not used: those that name no image.

    Raises DataError when a file cannot be read or has another form, or when the images are nowhere to be found.
    """

    def __init__(
        self, paths: str | Path | Sequence[str | Path], *, image_root: str = "", name: str = ""
    ) -> None:
        found, self._files = _files(paths)
        files = self._files
        name = name or found
        self.contents = Contents("annotations")
        entries = (
            (image, captions) for file in files for image, captions, _ in _entries(file, self.contents)
        )
        super().__init__(name, Path(), entries, merge=True)
        if not len(self):
            raise DataError("The RedCaps annotations list no images", got=name)
        roots = [expand(image_root)] if image_root else around(files[0])
        if image_root:
            roots.append(roots[0] / "images")
        root, _ = choose_root([self._paths[i] for i in spread(len(self))], roots)
        self.root = str(root)
        guessed = "" if image_root else f"Images of {name}: in {root} (guessed)."
        twice = self.entries - len(self)
        merged = (
            f"{twice:,} annotations are of images listed before: each image is one record." if twice else ""
        )
        self.note = " ".join(filter(None, [guessed, merged]))
        self.probe("Give the folder that holds the subreddits' folders with --data.image-root")

    def _read_own(self) -> pa.Table:
        """Read the other fields of the annotations, such as `author` and `score`."""
        from openslip.data.typed_cells import Cells

        contents = Contents("annotations")
        entries = ((image, own) for file in self._files for image, _, own in _entries(file, contents))
        return self.of_entries(entries, Cells())


def is_redcaps(path: str | Path) -> bool:
    """Tell whether `path` is a RedCaps annotation file, or a folder whose first .json file is one.

    Reads only the beginning; False if that cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            first = min(_json_files(path), default=None)
            return first is not None and is_redcaps(first)
        with open_regular(path) as file:
            head = file.read(HEAD).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return False
    # Annotations of COCO have an image_id as well, but no subreddit.
    keys = all(re.search(rf'"{key}"\s*:', head) for key in ("image_id", "subreddit"))
    return keys and re.match(r'\s*[\[{]\s*["{]', head) is not None


def _files(paths: str | Path | Sequence[str | Path]) -> tuple[str, list[Path]]:
    """Return a name for the annotation files together, and the files."""
    if not isinstance(paths, str | Path):
        files = sorted(map(Path, paths), key=lambda file: (file.name, file))
        if not files:
            raise DataError("No annotation files are given")
        return str(files[0].parent), files
    path = Path(paths)
    if not path.is_dir():
        return str(path), [path]
    files = _json_files(path)
    if not files:
        raise DataError(
            "The folder holds no annotation files", got=str(path), fix="RedCaps annotation files end in .json"
        )
    return str(path), files


def _json_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))


def _annotations(path: Path) -> Iterator[Any]:
    """Yield the annotations of one file."""
    try:
        with open_regular(path) as opened, io.TextIOWrapper(opened, encoding="utf-8-sig") as file:
            if file.read(HEAD).lstrip().startswith("["):
                file.seek(0)
                yield from _elements(file)
                return
        data = parse(read_whole(path, TABLE_BYTES).decode("utf-8-sig"), ["annotations"])
    except OSError as error:
        raise DataError("The RedCaps file cannot be read", got=str(path), cause=str(error)) from None
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8
        raise DataError(
            "The file is not valid JSON",
            got=str(path),
            cause=str(error),
            fix="If the file was cut off, fetch it again",
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise DataError(
            "The .json file is not a RedCaps annotation file, which has a list 'annotations'",
            got=str(path),
            cause=f"It holds the keys {', '.join(data)[:200]}"
            if isinstance(data, dict)
            else "It holds no object",
        )
    yield from data["annotations"]


def _elements(file: TextIO) -> Iterator[Any]:
    """Yield the elements of a JSON list one by one: all of RedCaps in one would need some 30 GB of memory.

    Raises ValueError when the file is not a JSON list.
    """
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    text, size = file.read(CHUNK), CHUNK
    at = text.index("[") + 1
    while True:
        separator = gap.match(text, at)
        at = separator.end() if separator else at
        if text.startswith("]", at):
            return
        try:
            element, at = decoder.raw_decode(text, at)
        except ValueError:
            # Perhaps cut off where reading stopped: try again with more. Half an object is never valid.
            if len(text) - at > LONGEST:
                raise ValueError(f"an annotation goes on for {LONGEST:,} characters and more") from None
            added = file.read(size)
            if not added:
                raise
            text, at, size = text[at:] + added, 0, 2 * size
            continue
        yield element
        size = CHUNK


def _entries(path: Path, contents: Contents) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Yield the image, the captions and the other fields of each annotation of a file that names an image.

    All annotations are counted in `contents`.
    """
    unusable = Unusable(seen := Contents(contents.things))
    for annotation in _annotations(path):
        seen.see()
        match annotation:
            case {"image_id": str() as image, "subreddit": str() as subreddit} if image and subreddit:
                pass
            case {"image_id": str() as image, "subreddit": [str() as subreddit, *_]} if image and subreddit:
                pass
            case _:
                error = DataError(
                    "An annotation has no usable 'image_id' and 'subreddit'",
                    got=f"{short(annotation)}, in {path}",
                )
                unusable.count("the annotation has no usable 'image_id' and 'subreddit'", error)
                continue
        key = "caption" if (captions := texts(annotation.get("caption"))) else "raw_caption"
        captions = captions or texts(annotation.get(key))
        others = {name: value for name, value in annotation.items() if name not in ("caption", key)}
        yield f"{subreddit}/{image}.jpg", captions, others
    unusable.judge()
    contents.add(seen)
