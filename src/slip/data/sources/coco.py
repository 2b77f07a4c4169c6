"""COCO captions: one JSON file with `images` and `annotations`, the images in a folder nearby."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from slip.data.limits import TABLE_BYTES
from slip.data.sources.files import ImageFiles, texts
from slip.data.sources.near import PICTURES, choose, spread
from slip.errors import DataError
from slip.files import expand, read_whole

Id = int | str


class CocoCaptions(ImageFiles):
    """The images of a COCO captions file in its order, each with all its captions by annotation id.

    The images are looked for in `image_root` if given, else near the JSON file, first in the folder that
    its name speaks of (`annotations/captions_train2017.json` → `train2017/`); `root` is where they were found.
    Raises DataError when the file is no COCO captions file or its images are nowhere to be found.
    """

    def __init__(self, path: str | Path, *, image_root: str = "") -> None:
        path = Path(path)
        data = _load(path)
        if not data["images"]:
            raise DataError("The COCO file lists no images", got=str(path))
        ids = [_field(image, "id", (int, str), path) for image in data["images"]]
        names = [_field(image, "file_name", str, path) for image in data["images"]]
        captions = _captions_by_image(data["annotations"], path)
        if captions.keys().isdisjoint(ids):
            raise DataError("Not one annotation of the COCO file belongs to one of its images", got=str(path))
        root = _image_folder(path, image_root, [names[i] for i in spread(len(names))])
        super().__init__(str(path), root, ((name, captions.get(i, ())) for name, i in zip(names, ids)))
        self.probe("Give the folder that holds them with --data.image-root")


def _load(path: Path) -> dict[str, list[Any]]:
    """Read the JSON and check its outer form."""
    try:
        data = json.loads(read_whole(path, TABLE_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise DataError("The COCO file cannot be read", got=str(path), cause=str(error)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            "The file is not valid JSON",
            got=str(path),
            cause=str(error),
            fix="If it was cut off on the way, fetch it again; if it has one JSON object a line, name it .jsonl",
        ) from None
    if (
        isinstance(data, dict)
        and isinstance(data.get("images"), list)
        and isinstance(data.get("annotations"), list)
    ):
        return data
    raise DataError(
        "The .json file is not a COCO captions file, which has a list 'images' and a list 'annotations'",
        got=str(path),
        cause=f"It holds the keys {', '.join(list(data)[:10])}"
        if isinstance(data, dict)
        else "It holds no object",
        fix='For captions in another form write a .jsonl file, one {"image": path, "caption": text} a line',
    )


def _captions_by_image(annotations: list[Any], path: Path) -> dict[Id, tuple[str, ...]]:
    """Group the captions by image id, each group sorted by annotation id."""
    if not any(isinstance(a, dict) and "caption" in a for a in annotations[:100]):
        raise DataError(
            "The annotations hold no captions",
            got=str(path),
            cause="It may be another kind of COCO file: instances, keypoints",
            fix="Use the captions_….json that comes with the same images",
        )
    groups: dict[Id, list[tuple[bool, Id, str]]] = defaultdict(list)
    for annotation in annotations:
        caption = _field(annotation, "caption", str, path)
        number = _field(annotation, "id", (int, str), path)
        order = isinstance(number, str), number  # int and str do not compare
        groups[_field(annotation, "image_id", (int, str), path)].append((*order, caption))
    return {image: texts([caption for *_, caption in sorted(group)]) for image, group in groups.items()}


def _field(item: Any, key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """Return `item[key]`, or raise DataError when it is missing or of another kind."""
    if isinstance(item, dict) and isinstance(item.get(key), kind):
        return item[key]
    raise DataError(f"An entry of {path} has no usable '{key}'", got=str(item)[:200])


def _image_folder(path: Path, image_root: str, names: list[str]) -> Path:
    """Return the folder that holds most of the image files `names`, or the likeliest one if none does."""
    split = re.search(r"(train|val|test)\d{4}", path.stem)
    folders = [split.group(), f"images/{split.group()}"] if split else []
    if image_root:
        candidates = [expand(image_root) / folder for folder in ("", *folders)]
    else:
        near = path.absolute().parent
        candidates = [base / folder for base in (near.parent, near) for folder in (*folders, "", *PICTURES)]
    return choose(names, candidates)[0]
