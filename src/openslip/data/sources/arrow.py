"""Choose the columns and read the rows of Arrow tables, as Parquet files and the `datasets` library give them."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from openslip.data.containers.row_groups import RowGroups, holds, is_bytes, is_list, plain_type
from openslip.data.record import ImageFile, Record
from openslip.data.sources.cells import looks_like_paths, path_of, refuse_pictures
from openslip.data.sources.columns import Columns, choose, find_keys, guess_captions, guess_images
from openslip.data.sources.image_files import find_named, image_file, read_named, warn_outside
from openslip.data.sources.spelling import Spelling
from openslip.data.storage.retry import is_url
from openslip.errors import DataError

_SPELLING = Spelling()
EMBEDDED_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    *("image_bytes", "img_bytes", "bytes"),
)
"""Names of columns that hold encoded images, best first, in lower case."""

LOOKED_AT = 8
"""Rows that are looked at to choose columns."""
_PICTURE = re.compile(
    rb"\xff\xd8|\x89PNG|GIF8|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|P[1-6]\s|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftyp",
    re.DOTALL,
)
"""The first bytes of picture files."""


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the column descriptions that the `datasets` library leaves in the schema; {} if there are none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {n: f for n, f in info.get("info", {}).get("features", {}).items() if isinstance(f, dict)}
    except (ValueError, AttributeError, RecursionError):
        return {}


Look = Callable[[str], Sequence[Any]]
"""Gives the first cells of a column."""


def choose_typed(
    schema: pa.Schema,
    where: str,
    *,
    image_column: str = "",
    caption_column: str = "",
    captions_required: bool = True,
    look: Look | None = None,
    far: bool = False,
) -> Columns:
    """Choose the columns of a table that knows their types.

    The image column is guessed in this order: columns that the schema marks as images, columns of bytes with a
    well-known name, other columns of bytes, and columns of paths with a well-known name. Captions are guessed by
    well-known names among columns of text, lists of text, and objects with a text. Where there is a choice, `look`
    tells whether bytes hold pictures and texts hold paths. Columns that do not go last; a column of bytes without a
    well-known name counts only if its cells begin as pictures do.
    far: looking takes long, so nothing is looked at without need.
    Raises DataError as `columns.choose` does, for named columns that can hold no images or no captions, and for
    pictures that are written as text.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    for name in twice:
        if name in (image_column, caption_column) or guess_images([name]) or guess_captions([name]):
            raise DataError(f"{where} has several columns called '{name}'", fix="Give them different names")
    kinds = {field.name: holds(field.type) for field in schema if field.name not in twice}
    cells = cache(look) if look else None
    images = [image_column] if image_column else _guess_images(schema, kinds, where, cells)
    objects = {name: keys for name in kinds if (keys := _object_keys(schema.field(name).type))}
    worded = [name for name, kind in kinds.items() if kind in ("text", "texts")]
    told = [name for name, keys in objects.items() if guess_captions(keys)]
    columns = choose(
        where,
        schema.names,
        image=image_column,
        caption=caption_column,
        image_guesses=images,
        # A column without a single caption in this file may have some in the next.
        caption_guesses=guess_captions(
            [*worded, *told], None if far or not cells else _texts_of(cells, worded)
        )
        or guess_captions([name for name, kind in kinds.items() if kind == "nothing"])
        or guess_captions(objects),
        captions_required=captions_required,
        described=[f"{field.name} ({str(field.type)[:60]})" for field in schema],
    )
    columns = find_keys(
        columns, lambda name: _cells_of(objects.get(name), worded, name, None if far else cells), where
    )
    _check(columns, kinds, schema, where)
    if cells and (kinds[columns.image] == "text" or not far):
        refuse_pictures(map(_as_text, cells(columns.image)), columns.image, where)
    return columns


def choose_image(
    schema: pa.Schema, where: str, *, wanted: str = "", look: Look | None = None, far: bool = False
) -> str:
    """Return the image column of a table that knows its types: `wanted`, or a guess as in `choose_typed`.

    Raises DataError as `choose_typed` does, and for pictures that are kept as lists of numbers.
    """
    twice = {name for name, count in Counter(schema.names).items() if count > 1}
    if wanted in twice:
        raise DataError(f"{where} has several columns called '{wanted}'", fix="Give them different names")
    kinds = {field.name: holds(field.type) for field in schema if field.name not in twice}
    cells = cache(look) if look else None
    guesses = [wanted] if wanted else _guess_images(schema, kinds, where, cells)
    pixels = [
        name for name in ([wanted] if wanted in kinds else guess_images(kinds)) if _is_pixels(schema, name)
    ]
    if pixels and (wanted or not guesses):
        raise DataError(
            f"Column '{pixels[0]}' of {where} holds pixel values, not pictures",
            got=str(schema.field(pixels[0]).type),
            fix="Write each picture in an encoded form: Image.fromarray(array).save(buffer, 'PNG')",
        )
    columns = choose(
        where,
        schema.names,
        image=wanted,
        image_guesses=guesses,
        caption_guesses=(),
        captions_required=False,
        described=[f"{field.name} ({str(field.type)[:60]})" for field in schema],
    )
    _check(columns, kinds, schema, where)
    if cells and (kinds[columns.image] == "text" or not far):
        refuse_pictures(map(_as_text, cells(columns.image)), columns.image, where)
    return columns.image


def _is_pixels(schema: pa.Schema, name: str) -> bool:
    """Whether a column holds lists of numbers."""
    kind = plain_type(schema.field(name).type)
    listed = is_list(kind)
    while is_list(kind):
        kind = plain_type(kind.value_type)
    return listed and (pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check(columns: Columns, kinds: Mapping[str, str], schema: pa.Schema, where: str) -> None:
    """Raise DataError when a column can hold no images, or no captions."""
    for name, fits, what in [
        (columns.image, ("image", "path", "text"), "images, nor paths of images"),
        *(
            (name, ("text", "texts", "nothing", *([""] if keys else [])), "captions")
            for name, keys in zip(columns.captions, columns.key_paths)
        ),
    ]:
        if kinds[name] not in fits:
            raise DataError(f"Column '{name}' of {where} holds no {what}", got=str(schema.field(name).type))


def _guess_images(
    schema: pa.Schema, kinds: Mapping[str, str], where: str, cells: Callable[[str], Sequence[Any]] | None
) -> list[str]:
    """Return the columns that may be the image, best first."""
    embedded = [name for name, kind in kinds.items() if kind == "image"]
    marked = [n for n, f in features(schema).items() if f.get("_type") == "Image" and n in embedded]
    by_name = {name.lower(): name for name in embedded}
    known = [by_name[name] for name in EMBEDDED_COLUMNS if name in by_name]
    named = [name for name, kind in kinds.items() if kind in ("text", "path")]
    sure = list(dict.fromkeys([*(name for name in known if name in marked), *marked, *known]))
    others = [name for name in embedded if name not in sure]
    paths = guess_images(named)
    if cells is None:
        return [*sure, *paths, *(others if len(others) == 1 else ())]
    if len(sure) + len(others) + len(paths) < 2 and not others:
        return sure or guess_images(named, cells, where)
    pictured = {name for name in embedded if any(map(_is_picture, cells(name)))}
    empty = {name for name in embedded if all(cell is None for cell in cells(name))}
    good = [name for name in sure if name in pictured]
    others = [name for name in others if name in pictured | empty]
    rivals = [name for name in good or others if name in pictured and name not in known]
    if good and good[0] in known:
        rivals = []
    if len(rivals) > 1:
        raise DataError(
            f"Several columns of {where} may be the image",
            got=", ".join(rivals),
            fix="Name the image column with --data.image-column",
        )
    found = [*good, *(rivals if not good else ()), *(name for name in sure if name in empty)]
    paths = guess_images(named, cells, where)
    likely = [name for name in paths if looks_like_paths(cells(name)) > 1]
    return list(dict.fromkeys([*found, *likely, *paths, *sure, *others]))


def _is_picture(cell: Any) -> bool:
    """Whether a cell begins as pictures do, or names a picture without holding its bytes."""
    if isinstance(cell, dict):
        return _is_picture(cell.get("bytes")) if cell.get("bytes") else bool(path_of(cell))
    return isinstance(cell, bytes) and _PICTURE.match(cell) is not None


def _object_keys(kind: pa.DataType) -> list[str]:
    """Return the fields of the objects that a column holds, alone or in lists; none where it holds no objects."""
    kind = plain_type(kind)
    while is_list(kind):
        kind = plain_type(kind.value_type)
    if not pa.types.is_struct(kind) or holds(kind) == "image":
        return []
    return [field.name for field in kind]


def _texts_of(cells: Look, worded: Sequence[str]) -> Look:
    """Return a look at columns of text alone."""
    return lambda name: cells(name) if name in worded else []


def _cells_of(keys: list[str] | None, worded: Sequence[str], name: str, cells: Look | None) -> Sequence[Any]:
    """Return cells to find keys in: one made from the type's keys, or cells of a text, which may spell objects."""
    if keys:
        return [dict.fromkeys(keys, "")]
    return cells(name) if cells and name in worded else []


def _as_text(cell: Any) -> Any:
    """Return bytes without a picture as text, and any other cell as it is."""
    cell = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(cell, bytes) and not _PICTURE.match(cell):
        return cell[:1000].decode("ascii", "replace") + " " * max(0, len(cell) - 1000)
    return cell


def first_cells(path: str) -> Look:
    """Return a look at the first rows of a Parquet file; a column that cannot be read looks empty."""

    def look(name: str) -> Sequence[Any]:
        try:
            return [value for (value,) in RowGroups([path], [name]).first(LOOKED_AT)]
        except DataError:  # reading the rows will raise it again
            return []

    return look


def make_record(values: Sequence[Any], columns: Columns, *, key: str, name: str, root: str) -> Record:
    """Return the record of a row, whose `values` are those of the image column and of the caption columns.

    An image is bytes, a path, or a struct of both. Relative paths are relative to `root`; "" when there is no such
    folder. Raises DataError when there is no image, or its file cannot be read.
    """
    image, *captions = values
    found = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(found, bytes):
        found = read_named(root, _path(image, columns.image, key, root, name), _SPELLING)
    return Record(found, columns.texts(captions), key, name)


def find_file(values: Sequence[Any], columns: Columns, *, key: str, name: str, root: str) -> ImageFile:
    """Return the file that the image of a row without image bytes is read from, as `make_record` reads it.

    Raises DataError as `make_record` does.
    """
    image, *captions = values
    path, status = find_named(root, _path(image, columns.image, key, root, name), _SPELLING)
    return image_file(path, status, columns.texts(captions), key)


def has_bytes(image: pa.Scalar) -> bool:
    """Whether a value of an image column holds the image's bytes for `make_record`; copies no bytes."""
    if isinstance(image, pa.StructScalar) and "bytes" in image:
        image = image["bytes"]
    return image.is_valid and is_bytes(image.type)


def _path(image: Any, column: str, key: str, root: str, name: str) -> str:
    """Return the path of an image that the row only names."""
    path = path_of(image) if isinstance(image, dict) else image
    if not isinstance(path, str) or not path:
        raise DataError(f"The row has no image in column '{column}'", got=key)
    elsewhere = is_url(name) or name.startswith("hf-stream:")  # paths in its rows are not of this machine
    if is_url(path) or not (root or (os.path.isabs(path) and not elsewhere)):
        raise DataError(
            "The row does not hold its image, only the image's name", got=path, cause=f"It is row {key}"
        )
    warn_outside(name, root, path)
    return path


class CheckedColumn:
    """A column from somebody else's file, with random access.

    Arrow trusts what a file says about its buffers. A text that reaches beyond them yields another column's bytes, or
    ends the process. So each chunk is validated once, before a value is taken from it.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks, self._kind = column.chunks, column.type
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        self._sound: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        """Return a value, nulls as None. Raises ValueError when it, or the chunk that it is in, is damaged."""
        return self.scalar(index).as_py()

    def scalar(self, index: int) -> pa.Scalar:
        """Return a value as an Arrow scalar. Raises ValueError as `column[index]` does."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        chunk = self._chunks[number]
        index -= int(self._ends[number]) - len(chunk)
        if not self._is_sound(number):
            chunk = chunk.slice(index, 1)
            chunk.validate(full=True)  # as far as Arrow tells the values of a chunk apart
            index = 0
        return chunk[index]

    def take(self, indices: Sequence[int]) -> pa.ChunkedArray:
        """Return values in the order of `indices`; a null where `column[index]` raises ValueError."""
        parts, numbers = [], np.searchsorted(self._ends, np.asarray(indices, np.int64), side="right").tolist()
        for number, members in itertools.groupby(zip(numbers, indices), key=lambda one: one[0]):
            chunk = self._chunks[number]
            own = [index - int(self._ends[number]) + len(chunk) for _, index in members]
            if self._is_sound(number):
                parts.append(chunk.take(pa.array(own, pa.int64())))
            else:
                parts += [_sound_or_null(chunk.slice(index, 1)) for index in own]
        return pa.chunked_array(parts, self._kind)

    def _is_sound(self, number: int) -> bool:
        """Whether all values of a chunk are sound."""
        if number not in self._sound:
            try:
                self._chunks[number].validate(full=True)
                self._sound.add(number)
            except (pa.ArrowException, ValueError):
                return False
        return True


def _sound_or_null(value: pa.Array) -> pa.Array:
    try:
        value.validate(full=True)
        return value
    except (ValueError, pa.ArrowException):
        return pa.nulls(1, value.type)
