"""Choices between pictures and captions that are nearly alike: Winoground's, SugarCrepe's, and a user's own table."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openslip.data.captions import texts
from openslip.data.limits import TABLE_BYTES
from openslip.data.sources.cells import path_of
from openslip.data.sources.coco import parse
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.roots import FOLDER_NAMES, around, choose_root, spread
from openslip.data.sources.table import read_sheet
from openslip.errors import DataError
from openslip.files import expand, open_regular, read_whole

BOTH = ("image_0", "image_1", "caption_0", "caption_1")
"""The columns of Winoground: caption 0 is right for picture 0, caption 1 for picture 1."""
IMAGES = ("image", "filename", "file_name", "filepath", "image_path", "path", "file", "img")
RIGHT = ("caption", "positive_caption", "positive", "true_caption", "right_caption", "right", "text")
CATEGORIES = ("collapsed_tag", "category", "tag", "type")
"""Names of columns, the likeliest first."""
_WRONG = re.compile(r"(hard_)?(neg|negative|wrong|false|foil|distractor)s?(_?(captions?|texts?))?_?\d*")
_TABLES = (".jsonl", ".csv", ".tsv", ".xlsx")
_KEYS = ("filename", "caption", "negative_caption")
"""What each example of a SugarCrepe file says."""
_COCO = ("val2017", "images/val2017", "val2014", "images/val2014")


@dataclass(frozen=True)
class Choices:
    """N examples. images: the distinct pictures, read when indexed. pictures: each example's, as indices of `images`.

    captions: each example's. For one picture, the first caption is right. For two pictures there are two captions:
    caption 0 is right for picture 0, and caption 1 for picture 1. categories: each example's, "" if it has none.
    left_out: how many examples had no picture or captions, and are not among the N. notes: sentences for people.
    """

    images: Sequence[Any]
    pictures: Sequence[tuple[int, ...]]
    captions: Sequence[tuple[str, ...]]
    categories: Sequence[str]
    left_out: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def both(self) -> bool:
        """Whether examples have two pictures."""
        return len(self.pictures[0]) == 2


def open_choices(
    spec: str, *, image_root: str = "", image_column: str = "", caption_column: str = ""
) -> Choices:
    """Open what `spec` names: a file, a pattern, or a folder with such files in it or in its subfolder `data`.

    - Winoground: `.parquet`, or a table `.jsonl` beside the folder `images`, with image_0, image_1, caption_0,
      caption_1, and categories in `collapsed_tag` or `tag`
    - SugarCrepe: `.json` of {"0": {"filename": …, "caption": …, "negative_caption": …}}; each file is a category
    - any other table (`.csv`, `.tsv`, `.jsonl`, `.xlsx`) or `.parquet` with the columns image, caption and
      negative_caption (or several whose names begin so, or a list), perhaps category

    image_root: the folder that paths are relative to. image_column: the picture's column. caption_column: the right
    caption's column, then those of wrong captions, separated by commas. Each is guessed if empty.

    Raises DataError for data that cannot be used.
    """
    files, ending = _files(spec)
    if ending == ".parquet":
        return _of_parquet(files, image_root, image_column, caption_column)
    columns, rows = _sugarcrepe(files) if ending == ".json" else _table(files)
    roles = _Roles.of(columns, files[0], image_column, caption_column)
    number = {name: columns.index(name) for name in roles.all}
    taken = ([row[number[name]] for name in roles.all] for row in rows)
    return _of_paths(taken, roles, files[0], image_root)


class _Pictures(Sequence[Any]):
    """The pictures of an `ImageFiles`."""

    def __init__(self, files: ImageFiles) -> None:
        self.files, self.note = files, files.note

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        return self.files[index].image


class _Embedded(Sequence[Any]):
    """The pictures in columns of Parquet files, those of a row one after the other."""

    def __init__(self, files: Sequence[str], columns: Sequence[str]) -> None:
        from openslip.data.containers.row_groups import RowGroups

        self.rows, self.each = RowGroups(files, columns), len(columns)

    def __len__(self) -> int:
        return len(self.rows) * self.each

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        value = self.rows[index // self.each][index % self.each]
        found = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(found, bytes):
            raise DataError(f"Row {self.rows.key(index // self.each)} holds no picture")
        return found


@dataclass(frozen=True)
class _Roles:
    """Which columns hold what: `images`, one or two; `right`, as many; `wrong`, of one picture; `category` or ""."""

    images: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    category: str

    @property
    def all(self) -> tuple[str, ...]:
        """The columns that are read, those of pictures first."""
        return (*self.images, *self.right, *self.wrong, *filter(None, [self.category]))

    @classmethod
    def of(cls, columns: Sequence[str], where: str, image_column: str, caption_column: str) -> _Roles:
        """Choose among the names of columns. Raises DataError where one is missing."""
        lower = {name.strip().lower(): name for name in reversed(columns)}

        def first(names: Iterable[str]) -> str:
            return next((lower[name] for name in names if name in lower), "")

        category = first(CATEGORIES)
        if all(name in lower for name in BOTH) and not (image_column or caption_column):
            return cls((lower[BOTH[0]], lower[BOTH[1]]), (lower[BOTH[2]], lower[BOTH[3]]), (), category)
        asked = [name.strip() for name in caption_column.split(",") if name.strip()]
        image, right = image_column or first(IMAGES), asked[0] if asked else first(RIGHT)
        wrong = asked[1:] or [name for name in columns if _WRONG.fullmatch(name.strip().lower())]
        if missing := [name for name in (image, right, *wrong) if name and name not in columns]:
            cause = f"There is no column '{missing[0]}'"
        elif not (image and right and wrong):
            nothing = {"the picture": image, "the right caption": right, "a wrong caption": wrong}
            cause = (
                f"No column has a known name for {next(what for what, name in nothing.items() if not name)}"
            )
        else:
            return cls((image,), (right,), tuple(wrong), category)
        raise DataError(
            "A pair choice needs a picture, a right caption and a wrong caption",
            got=f"{where}, with the columns {', '.join(map(str, columns))}",
            cause=cause,
            fix="Name the columns image, caption and negative_caption, or name yours with "
            "--data.image-column COLUMN and --data.caption-column RIGHT,WRONG; Winoground's are "
            + ", ".join(BOTH),
        )


def _collected(
    rows: Iterable[Sequence[Any]],
    roles: _Roles,
    picture: Callable[[int, Any, int], int | None],
    where: str,
) -> tuple[list[tuple[int, ...]], list[tuple[str, ...]], list[str], int, list[str]]:
    """Return pictures, captions and categories of complete examples, how many others were left out, and notes.

    rows: cells in the order of `roles.all`. picture: gives the number of a picture by row, cell and place.
    """
    pictures: list[tuple[int, ...]] = []
    captions: list[tuple[str, ...]] = []
    categories: list[str] = []
    left_out, why, alike, total = 0, "", 0, 0
    many, ends = len(roles.images), len(roles.images) + len(roles.right)
    last = ends + len(roles.wrong)
    for total, row in enumerate(rows, 1):
        shown = [picture(total - 1, value, place) for place, value in enumerate(row[:many])]
        right = [texts(value) for value in row[many:ends]]
        wrong = [text for value in row[ends:last] for text in texts(value)]
        if None in shown:
            reason = "it names no picture"
        elif any(len(each) != 1 for each in right):
            reason = "it has no right caption, or several"
        elif roles.wrong and not wrong:
            reason = "it has no wrong caption"
        else:
            own = tuple(each[0] for each in right)
            alike += len({*own, *wrong}) < len(own) + len({*wrong})
            pictures.append(tuple(number for number in shown if number is not None))
            captions.append((*own, *dict.fromkeys(wrong)))
            category = row[last] if roles.category else ""
            categories.append(" ".join(str(category if category is not None else "").split()))
            continue
        left_out += 1
        why = why or f"example {total:,}: {reason}"
    if not captions:
        raise DataError("There is no example to measure on", got=where, cause=why or "The file is empty")
    notes = []
    if left_out:
        notes.append(f"{left_out:,} of {total:,} examples left out; the first is {why}")
    if alike:
        notes.append(
            f"Examples whose right caption is also a wrong one, which counts against the model: {alike:,}"
        )
    return pictures, captions, categories, left_out, notes


def _of_parquet(files: list[str], image_root: str, image_column: str, caption_column: str) -> Choices:
    from openslip.data.containers.row_groups import RowGroups, holds, open_file, plain_type

    schema = open_file(files[0]).schema_arrow
    roles = _Roles.of(schema.names, files[0], image_column, caption_column)
    others = [name for name in roles.all if name not in roles.images]
    many = len(roles.images)
    if all(holds(plain_type(schema.field(name).type)) == "image" for name in roles.images):
        rows = ([b""] * many + [*cells] for cells in RowGroups(files, others).scan())
        found = _collected(rows, roles, lambda row, _, place: row * many + place, files[0])
        return Choices(_Embedded(files, roles.images), *found[:4], notes=tuple(found[4]))
    return _of_paths(RowGroups(files, roles.all).scan(), roles, files[0], image_root)


def _of_paths(rows: Iterable[Sequence[Any]], roles: _Roles, where: str, image_root: str) -> Choices:
    """Return the examples whose pictures are paths, given cells in the order of `roles.all`."""
    names: dict[str, int] = {}

    def picture(row: int, value: Any, place: int) -> int | None:
        path = path_of(value)
        return names.setdefault(path, len(names)) if path else None

    found = _collected(rows, roles, picture, where)
    images = _image_files(list(names), where, image_root)
    return Choices(images, *found[:4], notes=(*found[4], *filter(None, [images.note])))


def _image_files(names: list[str], where: str, image_root: str) -> _Pictures:
    """Return the pictures of these names, near the file that names them. Raises DataError where none is there."""
    folders = (*_COCO, *FOLDER_NAMES)
    roots = (
        [expand(image_root) / folder for folder in ("", *folders)] if image_root else around(where, *folders)
    )
    some = [names[i] for i in spread(len(names))]
    named = any(os.path.splitext(name)[1] for name in some)
    root, ending = choose_root(some, roots, ("",) if named else ("", ".png", ".jpg", ".jpeg"))
    files = ImageFiles(where, root, ((name + ending, ()) for name in names))
    packed = sorted(map(str, Path(where).parent.glob("*.zip")))
    files.probe(
        f"Unpack {packed[0]} there"
        if packed
        else "Give the folder that holds them with --data.image-root, for SugarCrepe COCO's val2017"
    )
    return _Pictures(files)


def _sugarcrepe(files: Sequence[str]) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the columns and rows of SugarCrepe's files."""

    def rows() -> Iterator[list[Any]]:
        for file in files:
            for entry in _entries(file):
                if not isinstance(entry, dict):
                    entry = {}
                yield [*(entry.get(key) for key in _KEYS), Path(file).stem]

    return [*_KEYS, "category"], rows()


def _entries(file: str) -> list[Any]:
    """Return the examples of a SugarCrepe file. Raises DataError for another file."""
    try:
        data = parse(read_whole(file, TABLE_BYTES).decode("utf-8-sig"), ())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("The file of pair choices cannot be read", got=file, cause=str(error)) from None
    entries = list(data.values()) if isinstance(data, dict) else data
    if (
        isinstance(entries, list)
        and entries
        and any(isinstance(e, dict) and {*_KEYS} <= {*e} for e in entries)
    ):
        return entries
    raise DataError(
        "The .json file does not hold pair choices",
        got=file,
        fix='Write {"0": {"filename": "a.jpg", "caption": "…", "negative_caption": "…"}, …} as SugarCrepe does, or '
        "a .jsonl or .csv with the columns image, caption and negative_caption",
    )


def _table(files: Sequence[str]) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Return the columns and rows of tables, the columns of the first."""
    sheets = [read_sheet(Path(file), [], typed=True) for file in files]
    columns = sheets[0].columns

    def rows() -> Iterator[Sequence[Any]]:
        for file, sheet in zip(files, sheets):
            if missing := [name for name in columns if name not in sheet.columns]:
                raise DataError(
                    "Tables of one set must have the same columns",
                    got=f"{file}, without '{missing[0]}' of {files[0]}",
                )
            order = [sheet.columns.index(name) for name in columns]
            yield from ([row[number] for number in order] for row in sheet.rows)

    return columns, rows()


def _files(spec: str) -> tuple[list[str], str]:
    """Return the files that `spec` names, sorted, and their common ending. Raises DataError if there is none."""
    path = str(expand(spec))
    if os.path.isdir(path):
        for folder in (path, os.path.join(path, "data")):
            for endings in ((".json",), (".parquet",), _TABLES):
                found = [
                    str(file)
                    for file in sorted(Path(folder).glob("*"))
                    if file.suffix.lower() in endings and not file.name.startswith(".") and _may_be(file)
                ]
                if found and len({Path(file).suffix.lower() for file in found}) == 1:
                    return found, Path(found[0]).suffix.lower()
    else:
        found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
        kinds = {Path(file).suffix.lower() for file in found}
        if len(kinds) == 1 and kinds <= {".json", ".parquet", *_TABLES}:
            return found, kinds.pop()
    raise DataError(
        "There are no pair choices",
        got=spec,
        cause="" if os.path.lexists(path) else "There is no such file or folder",
        fix="Name a folder or a file: Winoground's .parquet or .jsonl, SugarCrepe's .json, or a table "
        "(.csv, .tsv, .jsonl, .xlsx) with the columns image, caption and negative_caption",
    )


def _may_be(file: Path) -> bool:
    """Whether a file in a folder may hold pair choices. A JSON file must be SugarCrepe's: others may lie beside it."""
    if file.suffix.lower() != ".json":
        return True
    try:
        with open_regular(file) as begin:
            return b'"negative_caption"' in begin.read(1 << 16)
    except (OSError, ValueError):
        return False
