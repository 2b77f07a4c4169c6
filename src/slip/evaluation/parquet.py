"""Labelled images in Parquet as data hubs store it: an image column, a label column, class names in the schema."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from slip.data.containers.row_groups import RowGroups, open_file
from slip.data.sources.arrow import features, holds
from slip.errors import DataError
from slip.evaluation import note
from slip.evaluation.datasets import SPLITS, Image, Labelled, Subset, split_by_hash, words
from slip.files import read_json

MAX_CLASSES = 1_000_000
"""The highest label that can be one; what is higher is a number of another kind."""

CACHE_BYTES = 512 * 2**20
"""Encoded images kept in memory: most labelled sets fit whole, and then random access costs nothing."""

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")


def load_parquet(path: Path, split: str, name: str) -> Labelled:
    """Open a split of the Parquet files at `path`, a folder or one file (see `datasets.load_labelled`).

    Where the test split carries no labels (all are -1), the validation split is taken.
    """
    everything, candidates = _find(path, split)
    columns = _Columns(everything)
    for found, files in candidates:
        labels, class_names = columns.labels(files)
        if len(labels) == 0 or (labels < 0).all():
            continue
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(
                f"{name} ({found}) has labels that name no class",
                got=f"labels from {labels.min()} to {labels.max()}, {len(class_names)} classes",
                fix="Remove the unlabelled rows, or give classes.json all class names.",
            )
        images: Sequence[Image] = ParquetImages(files, columns.image)
        if found == "all":
            note(f"{name} has no train and test files: a fixed fifth of every class is its test split.")
            chosen = split_by_hash([str(i) for i in range(len(labels))], labels, split)
            return Labelled(name, split, Subset(images, chosen), labels[chosen], class_names, columns.named)
        return Labelled(name, found, images, labels, class_names, columns.named)
    raise DataError(
        f"{name} has no labelled {split} split",
        got=", ".join(f.name for f in everything[:5]) + (", …" if len(everything) > 5 else ""),
        cause=f"Files named {split}-*.parquet with a label for every row are looked for",
        fix="Rename the files after their split, or use another data set.",
    )


class ParquetImages(Sequence[Image]):
    """The image column of several files, one row group read at a time, the latest ones kept. Picklable."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self._rows = RowGroups([str(file) for file in files], [column], cache_bytes=CACHE_BYTES)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        (value,) = self._rows[index]
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise DataError(f"Row {self._rows.place(index)} holds no image bytes")
        return value


class _Columns:
    """Which columns hold image and label, and what the classes are called."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        schema = open_file(str(files[0])).schema_arrow
        described = features(schema)
        typed = {
            kind: [n for n, f in described.items() if f.get("_type") == kind]
            for kind in ("Image", "ClassLabel")
        }
        self.image = _choose("image", typed["Image"], IMAGE_COLUMNS, schema.names, files[0])
        self.label = _choose("label", typed["ClassLabel"], LABEL_COLUMNS, schema.names, files[0])
        kind = schema.field(self.image).type
        if holds(kind) != "image":
            raise DataError(f"Column '{self.image}' of {files[0].name} holds no image bytes", got=str(kind))
        names = described.get(self.label, {}).get("names") or _names_beside(files[0].parent)
        self.class_names = tuple(words(str(n)) for n in names) if names else ()
        self.named = bool(self.class_names)

    def labels(self, files: Sequence[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the labels of `files`, -1 where there is none, and the names of all classes."""
        column = self._read(files)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            names = sorted({value for value in self._read(self.files).to_pylist() if value is not None})
            index = {value: i for i, value in enumerate(names)}
            self.named = True
            labels = [index.get(value, -1) for value in column.to_pylist()]
            return np.array(labels, dtype=np.int64), tuple(words(n) for n in names)
        labels = self._numbers(column)
        if self.class_names or len(labels) == 0:
            return labels, self.class_names
        highest = int(self._numbers(self._read(self.files)).max())
        if highest > MAX_CLASSES:
            raise DataError(
                f"Column '{self.label}' holds no class labels",
                got=f"numbers up to {highest:,}",
                fix="Classes are numbered from 0; give their names in classes.json beside the files",
            )
        return labels, tuple(str(i) for i in range(highest + 1))

    def _numbers(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return labels of any integer type, -1 where there is none."""
        if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise DataError(f"Column '{self.label}' holds no class labels", got=str(column.type))
        try:
            # Widened first: -1 is no value of an unsigned type.
            return column.cast(pa.int64()).fill_null(-1).to_numpy()
        except pa.ArrowException as error:
            raise DataError(f"Column '{self.label}' holds no class labels", cause=str(error)) from None

    def _read(self, files: Sequence[Path]) -> pa.ChunkedArray:
        batches = RowGroups([str(file) for file in files], [self.label]).batches()
        columns = [batch.column(0) for batch in batches]
        kinds = {column.type for column in columns}
        if not kinds:
            return pa.chunked_array([], pa.int64())
        if len(kinds) > 1:  # in one file of another width, say, or null where a file has no label at all
            try:
                columns = [column.cast(pa.int64()) for column in columns]
            except (pa.ArrowException, ValueError) as error:
                what = f"Column '{self.label}' of {files[0].parent} holds different things"
                raise DataError(what, got=", ".join(map(str, kinds)), cause=str(error)) from None
        return pa.chunked_array(columns)


def _find(path: Path, split: str) -> tuple[list[Path], list[tuple[str, list[Path]]]]:
    """Return all files of the data set, and per name the split may go by (best first) its files."""
    if os.path.isfile(path):
        folder, everything = path.parent, [path]
        if path.stem.split("-")[0] in {alias for aliases in SPLITS.values() for alias in aliases}:
            everything = sorted(folder.glob("*.parquet"))
    else:
        folder = path
        everything = sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet"))

    def of(alias: str) -> list[Path]:
        return [
            f
            for f in everything
            if f.stem == alias or f.name.startswith(f"{alias}-") or _parent(f, folder) == alias
        ]

    if not any(of(alias) for aliases in SPLITS.values() for alias in aliases):
        return everything, [("all", everything)]
    return everything, [(alias, of(alias)) for alias in SPLITS[split] if of(alias)]


def _parent(file: Path, folder: Path) -> str:
    return file.parent.name if file.parent != folder else ""


def _choose(what: str, typed: list[str], common: Iterable[str], present: list[str], file: Path) -> str:
    """Pick a column: one the schema marks, a common name first; else a column with a common name."""
    by_name = {n.lower(): n for n in present}
    for name in [*(c for c in common if c in typed), *typed, *(by_name[c] for c in common if c in by_name)]:
        if name in present:
            return name
    raise DataError(
        f"{file.name} has no {what} column that can be told",
        got=", ".join(present),
        fix=f"Rename the column to '{what}'.",
    )


def _names_beside(folder: Path) -> list[str]:
    """Class names from `classes.json`: a list of names, a mapping from label, or a list of {label, names}."""
    file = folder / "classes.json"
    if not os.path.isfile(file):
        return []
    try:
        data = read_json(file)
        if isinstance(data, dict):
            return [str(data[key]) for key in sorted(data, key=int)]
        if data and isinstance(data[0], dict):
            data = sorted(data, key=lambda entry: int(entry["label"]))
            return [str(entry["name"] if "name" in entry else entry["names"][0]) for entry in data]
        return [str(entry) for entry in data]
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise DataError(
            f"{file} does not list class names", cause=repr(error), fix='Write it as ["cat", "dog", …].'
        ) from None
