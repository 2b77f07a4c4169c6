"""Images and captions in Arrow tables, which Parquet files and the `datasets` library both give: columns and rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from slip.data.containers.row_groups import holds
from slip.data.record import Record
from slip.data.sources.columns import Columns, choose, guess_captions, guess_images
from slip.data.sources.files import read_named, say_outside, texts
from slip.data.sources.spelling import Spelling
from slip.data.storage.retry import is_url
from slip.errors import DataError

_SPELLING = Spelling()
EMBEDDED_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    *("image_bytes", "img_bytes", "bytes"),
)
"""Names of columns that hold encoded images, best first, in lower case."""


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the column descriptions that the `datasets` library leaves in the schema; {} if there are none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {n: f for n, f in info.get("info", {}).get("features", {}).items() if isinstance(f, dict)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def choose_typed(
    schema: pa.Schema,
    where: str,
    *,
    image_column: str = "",
    caption_column: str = "",
    captions_required: bool = True,
) -> Columns:
    """Choose the columns of a table that knows their types.

    An image column is guessed, in this order, among those that the schema marks as images, those of bytes with a
    well-known name, the only one of bytes, and those of text with a well-known name (paths); captions among those
    of text or lists of text, by well-known names. Raises DataError as `columns.choose` does, and for columns asked
    for that can hold no images or no captions.
    """
    kinds = {field.name: holds(field.type) for field in schema}
    embedded = [name for name, kind in kinds.items() if kind == "image"]
    marked = [n for n, f in features(schema).items() if f.get("_type") == "Image" and n in embedded]
    by_name = {name.lower(): name for name in embedded}
    known = [by_name[name] for name in EMBEDDED_COLUMNS if name in by_name]
    columns = choose(
        where,
        schema.names,
        image=image_column,
        caption=caption_column,
        image_guesses=[
            *(name for name in known if name in marked),
            *marked,
            *known,
            *(embedded if len(embedded) == 1 else ()),
            *guess_images(name for name, kind in kinds.items() if kind == "text"),
        ],
        # A column without a single caption in this file may have some in the next.
        caption_guesses=guess_captions([name for name, kind in kinds.items() if kind in ("text", "texts")])
        or guess_captions([name for name, kind in kinds.items() if kind == "nothing"]),
        captions_required=captions_required,
    )
    for name, fits, what in [
        (columns.image, ("image", "text"), "images, nor paths of images"),
        *((caption, ("text", "texts", "nothing"), "captions") for caption in columns.captions),
    ]:
        if kinds[name] not in fits:
            kind = str(schema.field(schema.names.index(name)).type)
            raise DataError(f"Column '{name}' of {where} holds no {what}", got=kind)
    return columns


def make_record(values: Sequence[Any], columns: Columns, *, key: str, name: str, root: str) -> Record:
    """Return the record of a row, whose `values` are those of the image column and of the caption columns.

    An image is bytes, a path, or a struct of both; relative paths are taken from `root`, "" when there is no such
    folder. Raises DataError when there is no image, or its file cannot be read.
    """
    image, *captions = values
    path = None
    if isinstance(image, dict):
        image, path = image.get("bytes"), image.get("path")
    elif isinstance(image, str):
        image, path = None, image
    if not isinstance(image, bytes):
        image = _read(path, columns.image, key, root, name)
    return Record(image, tuple(text for value in captions for text in texts(value)), key, name)


def _read(path: Any, column: str, key: str, root: str, name: str) -> bytes:
    """Return the bytes of an image that the row only names."""
    if not isinstance(path, str) or not path:
        raise DataError(f"Row {key} has no image in column '{column}'")
    elsewhere = is_url(name) or name.startswith("hf-stream:")  # whose rows know no place on this machine
    if is_url(path) or not (root or (os.path.isabs(path) and not elsewhere)):
        raise DataError(f"Row {key} does not hold its image, only the name of it", got=path)
    say_outside(name, root, path)
    return read_named(root, path, _SPELLING)
