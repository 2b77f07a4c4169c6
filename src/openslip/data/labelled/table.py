"""Tables of image paths and classes: CSV, TSV, JSON lines, workbooks. A column may give the split of each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openslip.data.contents import Contents
from openslip.data.labelled.classes import number
from openslip.data.labelled.data_files import Asked, DataFiles
from openslip.data.labelled.label_column import NoLabels, choose_label, choose_split
from openslip.data.labelled.labelled_set import Image, LabelledSet, assemble, columns_of, file_of, key_of
from openslip.data.labelled.labels import Found, by_rows, of_cells, parted, settle, used_values
from openslip.data.labelled.names import names_beside
from openslip.data.labelled.pictures import Pictures
from openslip.data.record import ImageFile
from openslip.data.sources.cells import path_of, refuse_pictures, refuse_urls
from openslip.data.sources.columns import choose, guess_images
from openslip.data.sources.image_files import ImageFiles
from openslip.data.sources.sheet import Sheet
from openslip.data.sources.table import TYPED, read_sheet
from openslip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_Numbers = tuple[int, int, int | None]
"""The numbers of the columns of image, label and split; the last is None without such a column."""
SEVERAL = 0.01
"""If a larger share of pictures has several different labels, the table is one of several labels a picture."""


def open_table(data_files: DataFiles, name: str, where: str, asked: Asked) -> LabelledSet:
    """Open tables whose rows name an image file and its class. Columns are those asked for, or guessed by name.

    A table named after a split holds that split; else a column `split` divides the rows, if its cells name splits.
    Rows without an image or a label are left out, and `notes` says so.

    Raises DataError for columns that are unclear, captions in place of classes, and several labels a picture.
    """
    found, notes, told = {}, list(data_files.notes), None
    label = ""
    refused: DataError | None = None
    for split, files in data_files.splits.items():
        try:
            tables = [_Table(Path(file), data_files.root, asked) for file in files]
        except NoLabels as error:  # as in hidden test sets
            refused = error
            notes.append(f"The {split} split has no labels and is left out: {error.what}")
            continue
        notes += dict.fromkeys(chain.from_iterable(table.notes for table in tables))
        labels = of_cells(chain.from_iterable(table.labels for table in tables), tables[0].label)
        images = tables[0].pictures if len(tables) == 1 else Joined([table.pictures for table in tables])
        found[split] = Found(images, labels, [path for table in tables for path in table.paths])
        label, told = tables[0].label, tables[0] if len(tables) == 1 else None
    if refused and not found:
        raise refused
    if "all" in found and told and told.split:
        found, more = by_rows(found["all"], of_cells(told.splits, told.split), told.split)
        notes += more
    found = parted(found, label)
    naming = None
    if data_files.root is not None:
        folder = Path(data_files.files[0]).absolute().parent
        naming = names_beside(folder, used_values(found), root=data_files.root, column=label)
    if naming and naming.source:
        notes.append(f"Class names from {naming.source}")
    parts, left_out = settle(name, found, naming)
    return assemble(name, where, parts, naming, notes=[*notes, *left_out])


class Joined(Sequence[Image]):
    """Several sequences of images, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Image]]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        part, own = self._origin(index)
        return self.parts[part][own]

    def key(self, index: int) -> str:
        part, own = self._origin(index)
        return key_of(self.parts[part], own)

    def file(self, index: int) -> ImageFile | None:
        part, own = self._origin(index)
        return file_of(self.parts[part], own)

    def own_columns(self, indices: Sequence[int]) -> pa.Table | None:
        from openslip.data.own_columns import in_parts

        return in_parts(indices, self._origin, lambda part, own: columns_of(self.parts[part], own))

    @property
    def columns_note(self) -> str:
        return "\n".join(filter(None, (getattr(part, "columns_note", "") for part in self.parts)))

    def _origin(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)


class _Table:
    """The paths, labels and splits in the rows of a table, and the pictures."""

    def __init__(self, path: Path, root: Path | None, asked: Asked) -> None:
        where = str(path)
        sheet = read_sheet(path, [asked.image, asked.label])
        head = sheet.head()
        if not head:
            raise DataError("The table has no rows", got=where)

        def cells(column: str) -> list[Any]:
            return [row[number] for row in head for number in sheet.numbers_of(column)]

        names = list(filter(None, sheet.columns))
        guesses = [] if asked.image else guess_images(names, cells, where)
        self.image = choose(
            where,
            names,
            image=asked.image,
            image_guesses=guesses,
            caption_guesses=(),
            captions_required=False,
            cause=sheet.cause,
        ).image
        refuse_urls(map(path_of, cells(self.image)), self.image, where)
        refuse_pictures(cells(self.image), self.image, where)
        beside = None if root is None else names_beside(path.absolute().parent, root=root)
        chosen = choose_label(
            path.name,
            names,
            wanted=asked.label,
            is_text=lambda column: any(
                isinstance(c, str) and number(c.strip()) is None for c in cells(column)
            ),
            named=beside is not None,
            besides={self.image},
        )
        self.label = chosen.column
        self.split = choose_split([name for name in names if name not in (self.image, self.label)], cells)
        self.paths: list[str] = []
        self.labels: list[Any] = []
        self.splits: list[Any] = []
        self.contents = Contents("rows")
        self.conflicts = ""
        numbers = self._numbers(sheet, where)
        self._read(sheet, where, numbers)
        if not self.paths:
            raise DataError(
                f"Column '{self.image}' of {where} names no image", fix="Name another: --data.image-column"
            )
        self.pictures = Pictures(where, self.paths, asked.image_root, self.image)
        self.pictures.own = _OtherColumns(path, (asked.image, asked.label), numbers, self.pictures.files)
        guessed = [f"image from '{self.image}'"] * (not asked.image)
        if not (asked.label or chosen.note):  # the note says it too
            guessed.append(f"label from '{self.label}'")
        said = f"Columns of {path.name}: {', '.join(guessed)} (guessed)" if guessed and len(names) > 2 else ""
        left_out = self.contents.summary()
        told = [said, chosen.note, *sheet.remarks, self.conflicts, self.pictures.note]
        self.notes = [sentence for sentence in told if sentence]
        self.notes += [f"{path.name}: {left_out}"] if left_out else []

    def _numbers(self, sheet: Sheet, where: str) -> _Numbers:
        """Return the numbers of the columns of image, label and split."""
        image, label = sheet.numbers_of(self.image)[0], self._only(sheet, self.label, where)
        return image, label, sheet.numbers_of(self.split)[0] if self.split else None

    def _read(self, sheet: Sheet, where: str, numbers: _Numbers) -> None:
        """Read the rows. Raises DataError if many pictures have several labels."""
        kept = _Kept(sheet, numbers, self.contents)
        for path, cell, told, _ in kept:
            self.paths.append(path)
            self.labels.append(cell)
            self.splits.append(told)
        gives = f"give{'s' * (kept.several == 1)} a picture another label than a row before"
        rows = f"{kept.several:,} row{'s' * (kept.several != 1)}"
        if kept.several > SEVERAL * kept.different:
            raise DataError(
                f"{rows} of {where} {gives} (multi-label)",
                got=kept.example,
                fix="If a picture has several labels, write one row for it, with a sign between them: ant|bee. Else "
                "keep only one row for each picture",
            )
        if kept.several:
            self.conflicts = f"{rows} {gives}, such as {kept.example}"

    def _only(self, sheet: Sheet, column: str, where: str) -> int:
        numbers = sheet.numbers_of(column)
        if len(numbers) > 1:
            raise DataError(
                f"{where} has {len(numbers)} columns called '{column}'", fix="Give them different names"
            )
        return numbers[0]


class _Kept:
    """Iterates over (path, label's cell, split's cell, row) of each row that is not a repetition.

    several: rows that give a picture another label than a row before, such as `example`. different: pictures.
    """

    def __init__(self, sheet: Sheet, numbers: _Numbers, contents: Contents) -> None:
        self._sheet, self._numbers, self._contents = sheet, numbers, contents
        self.several = self.different = 0
        self.example = ""

    def __iter__(self) -> Iterator[tuple[str, Any, Any, Sequence[Any]]]:
        (image, label, split), contents, as_text = self._numbers, self._contents, self._sheet.as_text
        seen: dict[tuple[str, str], str] = {}
        for row in self._sheet.rows:
            contents.see()
            cell, told = as_text(row[label]), None if split is None else as_text(row[split])
            if not (path := path_of(as_text(row[image]))):
                empty = not any(c.strip() if isinstance(c, str) else c for c in row)
                reason = "the row is empty" if empty else "the row names no image"
                contents.leave_out(reason, f"row {contents.seen:,}", lost=not empty)
                continue
            said = str(cell).strip()
            before = seen.setdefault((path, str(told)), said)
            if before != said:
                self.several, self.example = self.several + 1, f"{path}: {before!r} and {said!r}"
            elif len(seen) == self.different:  # not a new one
                reason = "the row says the same as one before"
                contents.leave_out(reason, f"row {contents.seen:,}", lost=False)
                continue
            self.different = len(seen)
            yield path, cell, told, row


@dataclass
class _OtherColumns:
    """The columns of a table beside the image, read anew at the first request."""

    path: Path
    wanted: tuple[str, str]
    numbers: _Numbers
    files: ImageFiles
    table: pa.Table | None = None
    note = ""

    def rows(self, indices: Sequence[int]) -> pa.Table | None:
        """Return these rows, in the order of `indices`; None if there are no other columns."""
        from openslip.data.own_columns import rows_of

        if self.table is None:
            self.table = self._read()
        return rows_of(self.table, indices) if self.table.num_columns else None

    def _read(self) -> pa.Table:
        from openslip.data.typed_cells import Cells

        sheet = read_sheet(self.path, self.wanted, typed=True)
        own = [number for number in range(len(sheet.columns)) if number != self.numbers[0]]
        spelled = self.path.suffix.lower() not in TYPED
        kept = _Kept(sheet, self.numbers, Contents("rows"))
        entries = ((path, [row[number] for number in own]) for path, _, _, row in kept)
        return self.files.of_entries(entries, Cells([sheet.columns[n] for n in own], spelled=spelled))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"table": None}
