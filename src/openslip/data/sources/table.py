"""Tables of image paths and captions: CSV, TSV, JSON lines, and Excel's workbooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.data.captions import is_placeholder
from openslip.data.contents import Contents
from openslip.data.sources.cells import (
    cannot_be_files,
    looks_like_paths,
    numbered,
    path_of,
    refuse_pictures,
    refuse_urls,
    without_number,
)
from openslip.data.sources.columns import (
    Columns,
    choose,
    file_columns,
    find_keys,
    guess_captions,
    guess_images,
)
from openslip.data.sources.delimited import read_delimited
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.sheet import Sheet, read_json_lines
from openslip.errors import DataError
from openslip.files import expand

if TYPE_CHECKING:
    import pyarrow as pa

TYPED = (".jsonl", ".xlsx")
"""Extensions of tables whose cells have types; in other tables cells are texts."""


class Table(ImageFiles):
    """One record per image of a table: rows with the same path are several captions of one image.

    `image_column` and `caption_columns` are the columns chosen: those asked for, or those guessed from names and cells,
    as `note` reports. Several caption columns (`caption_column="title,description"`, or several with one name) make
    several captions, as does a list, also as text. For objects the key of the text is named (`captions.text`), or
    guessed. A table without a caption column is an error unless `captions_required` is False, as for
    self-supervision alone. Image paths are relative to `image_root`, else to the table's own folder.
    `delimited.read_delimited` describes the CSV that is read. A placeholder for a missing text (`nan`, `NULL`) becomes
    a caption, because it may be one (a quoted "None"); `note` and `check` count placeholders.
    `contents` counts the rows; rows that name no image are left out.
    Raises DataError on a missing column, a malformed line, or when no image is where it should be.
    """

    options = ("image_root", "image_column", "caption_column")

    def __init__(
        self,
        path: str | Path,
        *,
        image_root: str = "",
        image_column: str = "",
        caption_column: str = "",
        captions_required: bool = True,
    ) -> None:
        path = Path(path)
        sheet = read_sheet(path, [image_column, caption_column])
        head = sheet.head()
        if not head:
            raise DataError("The table has no rows", got=str(path))

        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(sheet.columns):
            numbers.setdefault(name, []).append(number)

        def cells(name: str) -> list[Any]:
            return [row[number] for row in head for number in numbers.get(name, ())]

        names = list(filter(None, sheet.columns))
        columns = choose(
            str(path),
            names,
            image=image_column,
            caption=caption_column,
            image_guesses=[] if image_column else guess_images(names, cells, str(path)),
            caption_guesses=guess_captions(names, cells),
            captions_required=captions_required,
            cause=sheet.cause,
        )
        columns = find_keys(columns, cells, str(path))
        self.image_column, self.caption_columns = columns.image, columns.captions
        refuse_urls(map(path_of, cells(columns.image)), columns.image, str(path))
        refuse_pictures(cells(columns.image), columns.image, str(path))
        if not any(map(path_of, cells(columns.image))):
            raise _no_paths(columns.image, cells(columns.image), path)
        for name in columns.captions:
            _refuse_no_texts(name, cells(name), path)
        self._path, self._wanted, self._chosen = path, (image_column, caption_column), columns
        rows = _Rows(sheet, columns, head, path)
        root = expand(image_root) if image_root else path.parent
        super().__init__(str(path), root, rows, merge=True)
        self.contents = rows.contents
        said = [columns.note(path.name), *sheet.remarks, *rows.remarks(), self.merged]
        self.note = ". ".join(sentence for sentence in said if sentence)
        fix = "Give the folder that the paths are relative to with --data.image-root"
        others = [name for name in file_columns(names, cells) if name != columns.image]
        if others or not looks_like_paths(cells(columns.image)):
            fix += f"; if '{columns.image}' does not name the files, name the column that does with --data.image-column"
            fix += f": {others[0]}" if others else ""
        fix = cannot_be_files([path_of(cell) for cell in cells(columns.image)]) or fix
        self.probe(fix, table="" if image_root else path)

    def _read_own(self) -> pa.Table:
        """Read all columns except image and captions. Cells of text files get the types that they spell."""
        from openslip.data.own_columns import without_columns
        from openslip.data.typed_cells import Cells

        sheet = read_sheet(self._path, self._wanted, typed=True)
        head = [list(map(sheet.as_text, row)) for row in sheet.head()]
        rows = _Rows(sheet, self._chosen, head, self._path)
        own = [number for number in range(len(sheet.columns)) if number not in rows.used]
        if not own:
            return without_columns(len(self))
        cells = Cells([sheet.columns[n] for n in own], spelled=self._path.suffix.lower() not in TYPED)
        return self.of_entries(rows.own_cells(own), cells)


def read_sheet(path: Path, wanted: Sequence[str], *, typed: bool = False) -> Sheet:
    """Return the rows of a table; `wanted`: columns that were asked for.

    typed: cells of workbooks keep their types, and all keys of JSON lines are columns.

    Raises DataError, also as rows are taken.
    """
    match path.suffix.lower():
        case ".jsonl":
            return read_json_lines(path, every=typed)
        case ".xlsx":
            from openslip.data.sources.workbook import read_workbook

            return read_workbook(path, wanted, typed=typed)
    return read_delimited(path, wanted)


class _Rows:
    """Yields the (path, captions) of a table's rows, once, and counts rows meanwhile."""

    def __init__(self, sheet: Sheet, columns: Columns, head: Sequence[Sequence[Any]], path: Path) -> None:
        self._sheet, self.path = sheet, path
        self.contents = Contents("rows")
        self.lists = self.placeholders = 0
        self.example = ""
        self._image = _only(sheet, columns.image, head, path)
        self._numbered = numbered([path_of(row[self._image]) for row in head])
        self._twice = {
            name: len(sheet.numbers_of(name)) for name in columns.captions if len(sheet.numbers_of(name)) > 1
        }
        captions = [
            (p, name, k)
            for name, k in zip(columns.captions, columns.key_paths)
            for p in sheet.numbers_of(name)
        ]
        self._captions = [number for number, *_ in captions]
        keys = tuple(keys for *_, keys in captions) if any(columns.keys) else ()
        self._columns = Columns(columns.image, tuple(name for _, name, _ in captions), keys=keys)

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        image, captions, texts, contents = self._image, self._captions, self._columns.texts, self.contents
        width = len(captions)
        for row in self._sheet.rows:
            contents.seen += 1
            path = self._path_of(row[image])
            found = texts([row[number] for number in captions])
            if not path:
                empty = not any(cell.strip() if isinstance(cell, str) else cell for cell in row)
                reason = "the row is empty" if empty else "the row names no image"
                contents.leave_out(reason, f"row {contents.seen:,}", lost=not empty)
                continue
            if len(found) > width:
                self.lists += any(isinstance(row[number], str) for number in captions)
            for text in found:
                if len(text) < 20 and is_placeholder(text):
                    self.placeholders += 1
                    self.example = self.example or text
            yield path, found

    def _path_of(self, cell: Any) -> str:
        """Return the path that a cell of the image column names, "" if none."""
        path = path_of(cell)
        if not path or (len(path) < 20 and is_placeholder(path)):
            return ""
        return without_number(path) if self._numbered else path

    @property
    def used(self) -> set[int]:
        """The numbers of the columns of image and captions."""
        return {self._image, *self._captions}

    def own_cells(self, own: Sequence[int]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the path of each row that names an image, and its cells in the columns `own`."""
        for row in self._sheet.rows:
            if path := self._path_of(self._sheet.as_text(row[self._image])):
                yield path, [row[number] for number in own]

    def remarks(self) -> list[str]:
        """Return sentences for people on what was noticed."""
        found = [
            f"{count} columns are called '{name}': each is a caption" for name, count in self._twice.items()
        ]
        if self._numbered:
            found.append("The image names end in the numbers of their captions (#0), which are cut off")
        if self.lists:
            found.append(f"Rows whose text spells a list: {self.lists:,}; each text in it is a caption")
        if self.placeholders:
            found.append(
                f"Captions that are placeholders for a missing text: {self.placeholders:,}, such as {self.example!r}; "
                "leave the cells empty instead"
            )
        if self.contents.large_loss:
            found.append(
                "If one picture stands for several rows, as in merged cells, write the picture's name into each row"
            )
        return found


def _no_paths(column: str, cells: Sequence[Any], path: Path) -> DataError:
    """Return the error for an image column that names no file in the first rows."""
    example = next((cell for cell in cells if cell is not None and cell != ""), None)
    return DataError(
        f"Column '{column}' of {path} names no image in its first {len(cells):,} rows",
        got=repr(example)[:200],
        cause="These cells are empty"
        if example is None
        else f"A path is a text, not of type {type(example).__name__}",
        fix="Name the column that holds the paths with --data.image-column",
    )


def _refuse_no_texts(column: str, cells: Sequence[Any], path: Path) -> None:
    """Raise DataError when a caption column holds numbers or the like in the first rows."""
    found = [cell for cell in cells if cell is not None and cell == cell]  # NaN does not equal itself
    if found and not any(isinstance(cell, str | list | dict) for cell in found):
        raise DataError(
            f"Column '{column}' of {path} holds no texts",
            got=f"{found[0]!r:.100}, of type {type(found[0]).__name__}",
            fix="Name the column of the captions with --data.caption-column",
        )


def _only(sheet: Sheet, name: str, head: Sequence[Sequence[Any]], path: Path) -> int:
    """Return the number of the image column; of several with the same name, the one whose cells look like paths."""
    numbers = sheet.numbers_of(name)
    looks = [looks_like_paths([row[number] for row in head]) for number in numbers]
    best = [number for number, look in zip(numbers, looks) if look == max(looks)]
    if len(best) > 1 and any(len({row[number] for number in best}) > 1 for row in head):
        raise DataError(
            f"{len(numbers)} columns of {path} are called '{name}', and name different images",
            got=", ".join(str(head[0][number]) for number in best),
            fix="Give them different names, and name the image column with --data.image-column",
        )
    return best[0]
