"""Labelled images in Parquet as data hubs store it: an image column, a label column, class names in the schema."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openslip.data.containers.row_groups import RowGroups, holds, open_file, plain_type
from openslip.data.labelled.classes import Naming, Value
from openslip.data.labelled.data_files import Asked, DataFiles
from openslip.data.labelled.label_column import choose_label, choose_split
from openslip.data.labelled.labelled_set import Image, LabelledSet, assemble
from openslip.data.labelled.labels import (
    Found,
    Labels,
    Numbered,
    by_rows,
    of_arrays,
    parted,
    settle,
    used_values,
)
from openslip.data.labelled.names import names_beside
from openslip.data.labelled.pictures import Pictures
from openslip.data.sources.arrow import choose_image, features, first_cells, make_record
from openslip.data.sources.cells import path_of
from openslip.data.sources.columns import Columns
from openslip.data.sources.other_columns import OtherColumns
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError

CACHE_BYTES = 512 * 2**20
"""Bytes of encoded images kept in memory. Most labelled sets fit whole; random access then costs nothing."""
AT_ONCE = 16
"""Files whose schemas are read at once."""


def open_parquet(data_files: DataFiles, name: str, where: str, asked: Asked) -> LabelledSet:
    """Open Parquet files whose rows hold, or name, an image and its class.

    Each file's own class names count for its labels. Rows without a label, and splits that hold only such rows, are
    left out, and `notes` says so. where: identifies this set.

    Raises DataError for columns that are unclear or cannot be used, and if no row has a label.
    """
    columns = _Columns(
        data_files.files,
        data_files.root,
        asked.image,
        asked.label,
        shown(str(data_files.root or data_files.files[0])),
    )
    labelled = {
        split: files for split, files in data_files.splits.items() if not columns.lacks_labels(split, files)
    }
    found = {split: columns.found(files, asked.image_root) for split, files in labelled.items()}
    if "all" in found and columns.split:
        found, more = by_rows(found["all"], columns.splits(data_files.splits["all"]), columns.split)
        columns.notes += more
    found = parted(found, columns.label)
    naming = columns.naming(found)
    parts, left_out = settle(name, found, naming)
    notes = [*data_files.notes, *columns.notes, *left_out]
    return assemble(name, where, parts, naming, notes=notes)


class ParquetImages(Sequence[Image]):
    """The image column of several files, read by row groups, of which the latest are kept. Picklable.

    If a row holds only the path of its image, the image is read from that file, relative to `root`.
    """

    def __init__(self, files: Sequence[str], column: str, root: str = "") -> None:
        self.rows = RowGroups(files, [column], cache_bytes=CACHE_BYTES)
        self.chosen, self.root = Columns(column, ()), root
        self._other = OtherColumns(self.rows, [column])

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.rows.key(index)

    def own_columns(self, indices: Sequence[int]) -> pa.Table | None:
        return self._other.rows(indices)

    @property
    def columns_note(self) -> str:
        return self._other.note

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        key = self.rows.key(index)
        image = make_record(self.rows[index], self.chosen, key=key, name=self.rows.name, root=self.root).image
        if not isinstance(image, bytes):
            raise DataError(f"Row {key} holds no image bytes")
        return image


class _Columns:
    """The columns of image, label and split, and each file's class names."""

    def __init__(self, files: Sequence[str], root: Path | None, image: str, label: str, where: str) -> None:
        self.files, self.root = files, root
        schemas = dict(zip(files, _schemas(files)))
        schema, look = schemas[files[0]], first_cells(files[0])
        described = features(schema)
        self.image = choose_image(schema, where, wanted=image, look=look, far=is_url(files[0]))
        marked = [n for n, f in described.items() if f.get("_type") == "ClassLabel" and n in schema.names]
        kinds = {field.name: plain_type(field.type) for field in schema}
        beside = None if root is None else names_beside(_folder(files[0]), root=root)
        chosen = choose_label(
            where,
            schema.names,
            wanted=label,
            marked=marked,
            is_text=lambda column: holds(kinds[column]) == "text",
            named=beside is not None,
            besides={self.image},
        )
        self.label, self.notes = chosen.column, [chosen.note] if chosen.note else []
        self.embedded = holds(kinds[self.image]) == "image"
        others = [column for column in schema.names if column not in (self.image, self.label)]
        self.split = choose_split([c for c in others if holds(kinds[c]) == "text"], look)
        self._all_names: dict[str, None] = {}
        self._without = {file for file in files if self.label not in schemas[file].names}
        self.names = {file: _names(schemas[file], self.label) for file in files}
        known = {names for names in self.names.values() if names}
        self.one = next(iter(known)) if len(known) == 1 else ()
        if len(known) > 1:
            self._several(known)
        if known and not all(self.names.values()):
            without = [os.path.basename(shown(file)) for file, names in self.names.items() if not names]
            self.notes.append(
                f"Files that do not name their classes: {len(without):,}, such as {without[0]}. "
                "The names in the other files are used"
            )

    def lacks_labels(self, split: str, files: Sequence[str]) -> bool:
        """Return whether the files of a split have no label column, as in hidden test sets. Add a note if so."""
        lacking = self._without.issuperset(files)
        if lacking:
            self.notes.append(f"The {split} split has no column '{self.label}' and is left out")
        return lacking

    def found(self, files: Sequence[str], image_root: str) -> Found:
        """Return the images in files and their labels."""
        root = os.path.expanduser(image_root) or ("" if is_url(files[0]) else _folder(files[0]))
        if self.embedded:
            images: Sequence[Image] = ParquetImages(files, self.image, str(root))
        else:
            images = self._named_images(files, image_root)
        labels = _joined([self._labels([file]) for file in files]) if self._by_file else self._labels(files)
        return Found(images, labels, Numbered(range(len(labels))))

    def splits(self, files: Sequence[str]) -> Labels:
        """Return the split column of the rows."""
        return of_arrays(_arrays(files, self.split), self.split)

    def naming(self, found: dict[str, Found]) -> Naming | None:
        """Return the names of the classes, by the values that occur."""
        values = used_values(found)
        if self._by_file:
            return Naming({name: name for name in self._all_names}, declared=True)
        if self.one:
            if any(isinstance(value, str) for value in values) and set(values) <= set(self.one):
                return Naming({name: name for name in self.one}, declared=True)
            return Naming(dict(enumerate(self.one)), declared=True)
        if self.root is None:
            return None
        naming = names_beside(_folder(self.files[0]), values, root=self.root, column=self.label)
        if naming and naming.source:
            self.notes.append(f"Class names from {naming.source}")
        return naming

    @property
    def _by_file(self) -> bool:
        return len({names for names in self.names.values() if names}) > 1

    def _several(self, known: set[tuple[str, ...]]) -> None:
        """Use each file's names for its own labels. Raises DataError if a file has no names, or one name twice."""
        for file, names in self.names.items():
            twice = next((name for name in names if names.count(name) > 1), "")
            if not names or twice:
                raise DataError(
                    f"The files name their classes differently, and {os.path.basename(shown(file))} "
                    + (f"has '{twice}' twice" if twice else "has no names"),
                    got=", ".join(os.path.basename(shown(file)) for file in self.files[:5]),
                    fix="Write the names of the classes into the schema of each file",
                )
        self._all_names = dict.fromkeys(name for file in self.files for name in self.names[file])
        self.notes.append(
            f"Files name their classes in {len(known):,} ways: each file's names count for its own labels"
        )

    def _labels(self, files: Sequence[str]) -> Labels:
        names = self.names[files[0]] if self._by_file else None
        return of_arrays(_arrays(files, self.label), self.label, names)

    def _named_images(self, files: Sequence[str], image_root: str) -> Pictures:
        rows = RowGroups(files, [self.image])
        pictures = Pictures(files[0], (path_of(path) for (path,) in rows.scan()), image_root, self.image)
        pictures.own = OtherColumns(rows, [self.image])
        self.notes += filter(None, [pictures.note])
        return pictures


def _arrays(files: Sequence[str], column: str) -> Iterator[pa.Array]:
    for batch in RowGroups(files, [column]).batches():
        yield batch.column(0)


def _joined(labels: Sequence[Labels]) -> Labels:
    """Return the labels of several files as one `Labels`."""
    numbers: dict[Value, int] = {}
    new = [[numbers.setdefault(value, len(numbers)) for value in one.values] for one in labels]
    codes = [np.zeros(0, dtype=np.int64)]
    if not any(one.several is not None for one in labels):
        codes += [np.array([*own, -1], dtype=np.int64)[one.codes] for own, one in zip(new, labels)]
        return Labels(list(numbers), np.concatenate(codes))
    has = []
    for own, one in zip(new, labels):
        some = np.zeros((len(one), len(numbers)), np.int8)
        if one.several is not None:
            some[:, own] = one.several
        else:
            labelled = np.flatnonzero(one.codes >= 0)
            some[labelled, np.array(own, np.int64)[one.codes[labelled]]] = 1
        has.append(some)
        codes.append(np.where(one.codes < 0, -1, 0))
    return Labels(list(numbers), np.concatenate(codes), np.concatenate(has))


def _schemas(files: Sequence[str]) -> list[pa.Schema]:
    def read(file: str) -> pa.Schema:
        return open_file(file).schema_arrow

    if len(files) == 1 or not any(map(is_url, files)):
        return [read(file) for file in files]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, files))


def _names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the names that a file has for the classes of a column, () if it has none."""
    described: Any = features(schema).get(column, {})
    described = described.get("feature", described)  # for lists
    names = described.get("names") if described.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _folder(file: str) -> Path:
    return Path(file).absolute().parent
