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
from slip.evaluation.datasets import splits
from slip.evaluation.datasets.classes import Naming, Value, names_beside
from slip.evaluation.datasets.labelled import Image, LabelledSet, Part, assemble

CACHE_BYTES = 512 * 2**20
"""Encoded images kept in memory: most labelled sets fit whole, and then random access costs nothing."""

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")


def open_parquet(path: Path, name: str) -> LabelledSet:
    """Open the Parquet files at `path`, a folder or one file (see `datasets.open_labelled`).

    A split whose rows all carry no label (-1 or nothing) is left out. Raises DataError where none is left.
    """
    files = _find(path)
    columns = _Columns([file for some in files.values() for file in some])
    parts = {}
    for split, some in files.items():
        values, codes = columns.labels(some)
        if len(codes) == 0 or (codes < 0).all():
            continue
        if codes.min() < 0:
            raise DataError(
                f"{name} ({split}) has labels that name no class",
                got=f"{(codes < 0).sum():,} of {len(codes):,} rows without a label, or with the label -1",
                fix="Remove the unlabelled rows.",
            )
        keys = [str(i) for i in range(len(codes))] if split == "all" else ()
        parts[split] = Part(ParquetImages(some, columns.image), values, codes, keys)
    if not parts:
        raise DataError(
            f"{name} has no labelled rows", got=", ".join(file.name for file in columns.files[:5])
        )
    return assemble(name, str(path.absolute()), parts, columns.naming)


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
        names = described.get(self.label, {}).get("names")
        self.naming = (
            Naming(dict(enumerate(map(str, names))), True) if names else names_beside(files[0].parent)
        )

    def labels(self, files: Sequence[Path]) -> tuple[Sequence[Value], np.ndarray]:
        """Return the classes that rows of `files` name, and each row's index among them, -1 for none."""
        column = self._read(files)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            encoded = column.combine_chunks().dictionary_encode()
            return encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).cast(pa.int64()).to_numpy()
        numbers = self._numbers(column)
        values, codes = np.unique(numbers, return_inverse=True)
        codes = codes.astype(np.int64)
        if len(values) and values[0] == -1:
            values, codes = values[1:], codes - 1
        return values.tolist(), codes

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


def _find(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split; all of them as `all`, where none is named like a split."""
    if os.path.isfile(path):
        folder, everything = path.parent, [path]
        if splits.split_called(path.stem.split("-")[0]):
            everything = sorted(folder.glob("*.parquet"))
    else:
        folder = path
        everything = sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in everything:
        inside = file.parent.name if file.parent != folder else ""
        if split := splits.split_called(file.stem.split("-")[0]) or splits.split_called(inside):
            found.setdefault(split, []).append(file)
    return {split: found[split] for split in splits.NAMES if split in found} or {"all": everything}


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
