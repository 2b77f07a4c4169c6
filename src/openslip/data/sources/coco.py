"""COCO captions: one JSON file with `images` and `annotations`, the images in a folder nearby."""

from __future__ import annotations

import errno
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.captions import texts
from openslip.data.contents import Contents
from openslip.data.limits import TABLE_BYTES
from openslip.data.sources.entries import Unusable, short
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.roots import FOLDER_NAMES, choose_root, spread
from openslip.errors import DataError
from openslip.files import expand, read_whole

if TYPE_CHECKING:
    import pyarrow as pa

Id = int | str

_LISTS = ("images", "annotations")
_FOREIGN = "the file does not list its image"


class CocoCaptions(ImageFiles):
    """The images of a COCO captions file in the file's order, each with all its captions by annotation id.

    Ids are compared by value: 77, 77.0 and "77" are equal. Images with the same file name are one record. `contents`
    counts the annotations that are not used: without a caption, without an image, or of an image that is not listed.

    The images are looked for in `image_root` if given, else near the JSON file, first in the folder that
    the file's name mentions (`annotations/captions_train2017.json` → `train2017/`); `root` is the folder found.
    Raises DataError when the file is no COCO captions file, when it gives an image id to two files, or when the images
    are nowhere to be found.
    """

    def __init__(self, path: str | Path, *, image_root: str = "") -> None:
        self._path = path = Path(path)
        data = _load(path)
        if not data["images"]:
            raise DataError("The COCO file lists no images", got=str(path))
        self.contents = Contents("annotations")
        images = _images(data["images"], self.contents, path)
        captions = _captions_by_image(data["annotations"], images, self.contents, path)
        names = list(images.values())
        root = _image_folder(path, image_root, [names[i] for i in spread(len(names))])
        entries = ((name, captions.get(i, ())) for i, name in images.items())
        super().__init__(str(path), root, entries, merge=True)
        self.note = ""
        if self.merged:
            self.note = (
                f"{self.entries:,} image ids of {path.name} name {len(self):,} files: each file is one record, "
                "with the captions of its ids"
            )
        self.probe("Give the folder that holds the images with --data.image-root")

    def _read_own(self) -> pa.Table:
        """Read what the file says of each image, such as its `id` and `width`."""
        from openslip.data.typed_cells import Cells

        return self.of_entries(_fields(_load(self._path)["images"]), Cells())


def read_annotations(path: Path, lists: Iterable[str]) -> Any:
    """Return what a JSON file holds. Raises DataError when it cannot be read, or has one of these lists twice."""
    try:
        return parse(read_whole(path, TABLE_BYTES).decode("utf-8-sig"), lists)
    except OSError as error:
        fix = "Give several smaller files: 'A.json + B.json'" if error.errno == errno.EFBIG else ""
        raise DataError("The COCO file cannot be read", got=str(path), cause=str(error), fix=fix) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            "The file is not valid JSON",
            got=str(path),
            cause=str(error),
            fix="If the file was cut off on the way, fetch it again; if it has a JSON object per line, name it .jsonl",
        ) from None


def _load(path: Path) -> dict[str, list[Any]]:
    """Read the JSON and check the outer object."""
    data = read_annotations(path, _LISTS)
    if isinstance(data, dict) and all(isinstance(data.get(key), list) for key in _LISTS):
        return data
    fix = (
        'For captions in another form, write a .jsonl file with one {"image": path, "caption": text} per line'
    )
    if isinstance(data, dict):
        cause = f"It holds the keys {', '.join(list(data)[:10])}"
    elif isinstance(data, list) and data and isinstance(data[0], dict):
        cause = f"It is a list of objects, with the keys {', '.join(list(data[0])[:10])}"
        fix = (
            f"Write it as JSON lines, one object per line, which can be read: jq -c '.[]' {path.name} > "
            f"{path.stem}.jsonl; if need be, name the columns with --data.image-column and --data.caption-column"
        )
    else:
        cause = "It holds no object"
    raise DataError(
        "The .json file is not a COCO captions file, which has a list 'images' and a list 'annotations'",
        got=str(path),
        cause=cause,
        fix=fix,
    )


def parse(text: str, keys: Iterable[str]) -> Any:
    """Return what the JSON text holds. Raises ValueError when the outer object has one of these `keys` twice.

    Python would silently take the second one, and lose what the first one held.
    """
    data = json.loads(text)
    if isinstance(data, dict) and any(text.count(f'"{key}"') > 1 for key in keys):
        counts: dict[str, int] = {}

        def count(pairs: list[tuple[str, Any]]) -> None:
            counts.clear()  # the outer object is complete last
            for key, _ in pairs:
                counts[key] = counts.get(key, 0) + 1

        json.loads(text, object_pairs_hook=count)
        if twice := [key for key in keys if counts.get(key, 0) > 1]:
            raise ValueError(f"the key {twice[0]!r} is twice in the outer object: one list would be lost")
    return data


def _images(entries: list[Any], contents: Contents, path: Path) -> dict[Id, str]:
    """Return file name by image id, in order. Raises DataError where an id has two file names."""
    images: dict[Id, str] = {}
    unusable = Unusable(seen := Contents("images", len(entries)))
    for entry in entries:
        number = _identity(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if number is not None else None
        if number is None or not isinstance(name, str) or not name.strip():
            key = "id" if number is None else "file_name"
            error = DataError(f"An image of {path} has no usable '{key}'", got=short(entry))
            unusable.count("the image has no usable 'id' and 'file_name'", error)
        elif number not in images:
            images[number] = name
        elif images[number] == name:
            seen.leave_out(
                "the image is listed before, with the same file name", f"id {number}, {name}", lost=False
            )
        else:
            raise DataError(
                f"The image id {number} of {path} stands for two files",
                got=f"{images[number]} and {name}",
                cause="Two sets with overlapping ids were joined: each picture would also get the captions of another",
                fix="Renumber the images of one set, and their annotations, or give both files: 'A.json + B.json'",
            )
    unusable.judge()
    seen.seen -= len(images)  # `contents` counts annotations, and images only where they are left out
    contents.add(seen)
    return images


def _fields(entries: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file name of each image that `_images` gives, and the other fields of its entry."""
    seen = set()
    for entry in entries:
        number = _identity(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if number is not None else None
        if number not in seen and isinstance(name, str) and name.strip():
            seen.add(number)
            yield name, {key: value for key, value in entry.items() if key != "file_name"}


def _captions_by_image(
    annotations: list[Any], images: dict[Id, str], contents: Contents, path: Path
) -> dict[Id, tuple[str, ...]]:
    """Group the captions of the `images` by their ids, each group sorted by annotation id."""
    if not any(isinstance(a, dict) and "caption" in a for a in annotations):
        raise DataError(
            "The annotations hold no captions",
            got=str(path),
            cause="It may be another kind of COCO file: instances or keypoints",
            fix="Use the captions_….json file of the same images",
        )
    groups: dict[Id, list[tuple[bool, Id, str]]] = defaultdict(list)
    seen = Contents("annotations", len(annotations))
    unusable = Unusable(seen)
    for position, annotation in enumerate(annotations):
        image = _identity(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image is None:
            error = DataError(f"An annotation of {path} has no usable 'image_id'", got=short(annotation))
            unusable.count("the annotation has no usable 'image_id'", error)
        elif image not in images:
            seen.leave_out(_FOREIGN, f"image_id {image}")
        elif found := texts(caption := annotation.get("caption")):
            number = annotation.get("id")
            number = number if isinstance(number, (int, str)) else position
            text = isinstance(number, str)  # int and str do not compare
            groups[image].extend([(text, number, caption) for caption in found])
        else:
            seen.leave_out(_reason(caption), short(annotation))
    unusable.judge()
    if not groups:
        if foreign := seen.left_out.get(_FOREIGN):
            ids = ", ".join(map(str, list(images)[:3]))
            raise DataError(
                "Not one annotation of the COCO file belongs to one of its images",
                got=str(path),
                cause=f"One annotation is of {foreign.example}; the images have the ids {ids}, …",
            )
        raise DataError(
            "Not one caption of the COCO file is a text", got=str(path), cause="; ".join(seen.reasons())
        )
    contents.add(seen)
    return {image: tuple(caption for *_, caption in sorted(group)) for image, group in groups.items()}


def _reason(caption: Any) -> str:
    """Return why this is no caption."""
    if caption is None:
        return "the annotation has no caption"
    return "the caption is blank" if isinstance(caption, (str, list)) else "the caption is no text"


def _identity(number: Any) -> Id | None:
    """Return an id in the form that is compared, None for no valid id. Spreadsheets turn 77 into "77" and 77.0."""
    if type(number) is int:
        return number
    if isinstance(number, float):
        return int(number) if number.is_integer() else None
    if not isinstance(number, str):
        return None
    return int(number) if re.fullmatch(r"0|[1-9]\d{0,17}", number, re.ASCII) else number.strip() or None


def _image_folder(path: Path, image_root: str, names: list[str]) -> Path:
    """Return the folder that holds most of these image files, or the likeliest one if none does."""
    split = re.search(r"(train|val|test)\d{4}", path.stem)
    folders = [split.group(), f"images/{split.group()}"] if split else []
    if image_root:
        candidates = [expand(image_root) / folder for folder in ("", *folders)]
    else:
        near = path.absolute().parent
        candidates = [
            base / folder for base in (near.parent, near) for folder in (*folders, "", *FOLDER_NAMES)
        ]
    return choose_root(names, candidates)[0]
