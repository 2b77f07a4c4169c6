"""Turn a column of labels of any type into classes and the class of each image."""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openslip.data.containers.row_groups import is_list, plain_type
from openslip.data.labelled.classes import Naming, Value, number
from openslip.data.labelled.labelled_set import Image, Part, Subset
from openslip.data.labelled.several import several_in
from openslip.data.labelled.splits import SPLITS, split_called
from openslip.data.limits import TABLE_BYTES
from openslip.errors import DataError, shortened

FEW = 100
"""With up to so many distinct values, any column may hold classes."""
LONG = 40
"""With a mean length of so many characters or more, texts that differ in most rows are captions."""
MOST = 1_000_000
"""With more distinct values, a column is refused at once."""
_ID = "It is an id of each image, not a class"
_NOTHING = re.compile(r"(nan|null|<na>|n/a|#n/a)?", re.IGNORECASE)
"""What programs write for a missing label."""
_WHOLE = re.compile(r"[-+]?\d{1,18}(\.0*)?")
_AMOUNT = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """The labels of N images. values: the labels that occur; codes: (N,) int64 indices of `values`, -1 for no label.

    several: for images with several labels, which values each image has, as `Part.several`; codes are then 0 or -1.
    """

    values: list[Value]
    codes: np.ndarray
    several: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, rows: np.ndarray) -> Labels:
        """Return the labels of some of the images."""
        return Labels(self.values, self.codes[rows], None if self.several is None else self.several[rows])


class Numbered(Sequence[str]):
    """The numbers of `rows`, as text: names of images that have no other name."""

    def __init__(self, rows: Sequence[int] | np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return str(int(self.rows[index]))

    def __iter__(self) -> Iterator[str]:
        return (str(int(row)) for row in self.rows)


@dataclass(frozen=True)
class Found:
    """The N images of one split, their labels, and the names by which a set may be split."""

    images: Sequence[Image]
    labels: Labels
    keys: Sequence[str] = ()


def of_arrays(arrays: Iterable[pa.Array], called: str, names: Sequence[str] | None = None) -> Labels:
    """Return the labels in the parts of the column `called`: whole numbers in any form, texts, booleans.

    names: of the labels 0, 1, …; the names are the values then. Raises DataError for cells that cannot be classes.
    """
    distinct = _Distinct(called)
    codes = [np.zeros(0, dtype=np.int64)]
    for array in arrays:
        kind = plain_type(array.type)
        if is_list(array.type) and not _no_class(plain_type(array.type.value_type)):
            cells = array.to_pylist()
            if names is not None:
                cells = [cell and [_called(one, names, called) for one in cell] for cell in cells]
            codes.append(np.fromiter(map(distinct.code, cells), np.int64, len(cells)))
            continue
        if why := _no_class(kind):
            raise _refused(called, str(array.type), why)
        if pa.types.is_null(kind):
            codes.append(np.full(len(array), -1, dtype=np.int64))
            continue
        try:
            encoded = _encoded(array)
            indices = encoded.indices.cast(pa.int64(), safe=False).fill_null(-1).to_numpy()
            cells = encoded.dictionary.to_pylist()
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"Column '{called}' holds no class labels", cause=str(error)) from None
        if names is not None:
            cells = [_called(cell, names, called) for cell in cells]
        codes.append(np.array([*map(distinct.code, cells), -1], dtype=np.int64)[indices])
    return _merged(distinct.cells, np.concatenate(codes), called)


def of_cells(cells: Iterable[Any], called: str) -> Labels:
    """Return the labels in the cells of a table's column. Raises DataError as `of_arrays` does."""
    distinct = _Distinct(called)
    codes = np.fromiter(map(distinct.code, cells), dtype=np.int64)
    return _merged(distinct.cells, codes, called)


def parted(found: dict[str, Found], called: str) -> dict[str, Found]:
    """Return the images with several labels each if the texts of the column `called` hold several, as `a|b`.

    Raises DataError if it is unclear whether they do.
    """
    texts = {value for one in found.values() for value in one.labels.values if isinstance(value, str)}
    lists = several_in(sorted(texts), called)
    if lists is None:
        return found
    if all(len(labels) == 1 for labels in lists.values()) and all(
        one.labels.several is None for one in found.values()
    ):
        alone = {text: labels[0] for text, labels in lists.items()}
        return {split: replace(one, labels=_renamed(one.labels, alone)) for split, one in found.items()}
    made = {}
    for split, one in found.items():
        if one.labels.several is None:
            cells = [lists[value] if isinstance(value, str) else [value] for value in one.labels.values]
            made[split] = Found(one.images, _several([*cells, None], one.labels.codes, called), one.keys)
    return found | made


def _renamed(labels: Labels, names: Mapping[str, str]) -> Labels:
    """Return labels with new names for texts among the values. Several texts may get one name."""
    values = [names[value] if isinstance(value, str) else value for value in labels.values]
    known = list(dict.fromkeys(values))
    return Labels(known, np.array([*map(known.index, values), -1], np.int64)[labels.codes])


def settle(
    name: str, found: Mapping[str, Found], naming: Naming | None = None
) -> tuple[dict[str, Part], list[str]]:
    """Return the labelled images of each split, and sentences on what is left out.

    A row has no label if its cell is empty, or is -1 while other labels count from 0. naming: the names of the classes,
    if they are known; no label is then taken for an id. Raises DataError if no row has a label, and for ids.
    """
    used = {value for one in found.values() for value in one.labels.values}
    minus = -1 in naming.names if naming else _counts_as_label(used)
    parts, notes = {}, []
    for split, one in found.items():
        none = {i for i, value in enumerate(one.labels.values) if value == -1 and not minus}
        codes, several = one.labels.codes, one.labels.several
        if none and several is None:
            codes = np.where(np.isin(codes, list(none)), -1, codes)
        kept = np.flatnonzero(codes >= 0)
        if not len(kept):
            notes.append(f"{name}: its {split} split (images: {len(codes):,}) has no labels and is left out")
            continue
        images, keys = one.images, one.keys
        if len(kept) < len(codes):
            which = "images" if split == "all" else f"images of {split}"
            lacking = len(codes) - len(kept)
            without = "has no label and is" if lacking == 1 else "have no label and are"
            notes.append(f"{name}: {lacking:,} of {len(codes):,} {which} {without} left out")
            images, codes = Subset(images, kept), codes[kept]
            several = None if several is None else several[kept]
            keys = [keys[i] for i in kept.tolist()] if split == "all" else ()
        parts[split] = Part(images, one.labels.values, codes, keys, several)
    if not parts:
        raise DataError(
            f"{name} has no labelled images",
            got=f"{sum(len(one.labels) for one in found.values()):,} images, all without a label or with the label -1",
            fix="Name a set with labels. Hidden test sets have no labels.",
        )
    if naming is None:
        _refuse_ids(name, parts)
    return parts, notes


def by_rows(whole: Found, told: Labels, column: str) -> tuple[dict[str, Found], list[str]]:
    """Return the images by the split that a column gives for each, and sentences on what is left out.

    If the column names a single split, the images are a set without splits: all of them are measured.
    """
    called = np.array([*(split_called(str(value)) for value in told.values), ""])[told.codes]
    rows = {split: found for split in SPLITS if len(found := np.flatnonzero(called == split))}
    if len(rows) < 2:
        return {"all": whole}, []
    notes = []
    if left := int((called == "").sum()):
        others = ", ".join(repr(value) for value in told.values if not split_called(str(value)))
        notes.append(
            f"{left:,} {'row is' if left == 1 else 'rows are'} left out, whose '{column}' is no known split: "
            f"{shortened(others, 200) or 'empty'}"
        )
    return {
        split: Found(Subset(whole.images, some), whole.labels.rows(some)) for split, some in rows.items()
    }, notes


def used_values(found: Mapping[str, Found]) -> list[Value]:
    """Return the classes that occur, without -1 if it means no label."""
    values = {value for one in found.values() for value in one.labels.values}
    return list(values if _counts_as_label(values) else values - {-1})


def _counts_as_label(used: Collection[Value]) -> bool:
    """Return whether -1 is a class: the labels are -1 and 1, or other negative numbers occur."""
    return set(used) == {-1, 1} or any(isinstance(value, int) and value < -1 for value in used)


class _Distinct:
    """The distinct cells of a column, in order of first occurrence."""

    def __init__(self, called: str) -> None:
        self.called = called
        self.cells: list[Any] = []
        self._codes: dict[Any, int] = {}

    def code(self, cell: Any) -> int:
        """Return the number of a cell among the distinct cells; a list counts as a tuple.

        Raises DataError for an object, and for too many distinct cells.
        """
        if isinstance(cell, list):
            cell = tuple(cell)
        try:
            code = self._codes.setdefault((type(cell), cell), len(self.cells))
        except TypeError:
            raise _refused(self.called, repr(cell), _why_not(cell)) from None
        if code == len(self.cells):
            self.cells.append(cell)
            if code >= MOST:
                raise _refused(self.called, f"{self.cells[:3]}, …: more than {MOST:,} different ones", _ID)
        return code


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    """Return an array as a dictionary and indices, however it is stored."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.RunEndEncodedArray):
        array = pc.call_function("run_end_decode", [array])
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def _called(cell: Any, names: Sequence[str], called: str) -> str | None:
    """Return the name of a label, from the names that a file itself has."""
    label = _value(cell, called)
    if label is None or label == -1:
        return None
    if isinstance(label, str):
        return label
    if not 0 <= label < len(names):
        raise DataError(
            "There are labels that name no class",
            got=f"{label} in column '{called}', which has {len(names)} names",
            fix="Remove these images, or give the column the names of all classes",
        )
    return names[label]


def _merged(cells: Sequence[Any], codes: np.ndarray, called: str) -> Labels:
    """Return labels with distinct values. Cells that mean the same, such as `cat` and `cat `, are one class."""
    if any(isinstance(cell, tuple) and len(cell) > 1 for cell in cells):
        lists = [cell if isinstance(cell, tuple) else None if cell is None else (cell,) for cell in cells]
        return _several(lists, codes, called)
    cells = [(cell[0] if cell else None) if isinstance(cell, tuple) else cell for cell in cells]
    values = _values(cells, called)
    numbers: dict[Value, int] = {}
    for value in values:
        if value is not None:
            numbers.setdefault(value, len(numbers))
    new = np.array([*(-1 if value is None else numbers[value] for value in values), -1], dtype=np.int64)
    codes = new[codes]
    used = np.unique(codes[codes >= 0])
    if len(used) < len(numbers):  # categories of a pandas column that no row has
        ordered = list(numbers)
        rank = np.full(len(numbers) + 1, -1, dtype=np.int64)
        rank[used] = np.arange(len(used))
        return Labels([ordered[i] for i in used.tolist()], rank[codes])
    return Labels(list(numbers), codes)


def _several(lists: Sequence[Sequence[Any] | None], codes: np.ndarray, called: str) -> Labels:
    """Return the labels of images that have several. lists: the labels of each distinct cell, None for no label."""
    every = [one for labels in lists for one in labels or ()]
    values = _values(every, called)
    known = list(dict.fromkeys(value for value in values if value is not None))
    if len(known) * len(codes) > TABLE_BYTES:
        raise _refused(called, f"{len(known):,} different labels for {len(codes):,} images", _ID)
    numbers, has = {value: i for i, value in enumerate(known)}, np.zeros((len(lists), len(known)), np.int8)
    position = 0
    for row, labels in enumerate(lists):
        for value in values[position : position + len(labels or ())]:
            if value is not None:
                has[row, numbers[value]] = 1
        position += len(labels or ())
    none = np.array([labels is None for labels in lists], bool)
    return Labels(known, np.where(none[codes], -1, 0), has[codes])


def _values(cells: Sequence[Any], called: str) -> list[Value | None]:
    """Return cells as classes, None for cells without a label."""
    values: list[Value | None] = [_value(cell, called) for cell in cells]
    texts = [value for value in values if isinstance(value, str)]
    whole = all(_WHOLE.fullmatch(text) for text in texts)
    fractions = not whole and any(re.search(r"[.e]", text, re.IGNORECASE) for text in texts)
    if fractions and all(map(_AMOUNT.fullmatch, texts)):
        raise _refused(called, ", ".join(texts[:3]), _why_not(0.5))
    if texts and whole and not all(text.isdigit() for text in texts):  # `3.0` and `-1` of a CSV
        values = [int(value.partition(".")[0]) if isinstance(value, str) else value for value in values]
    return values


def _value(cell: Any, called: str) -> Value | None:
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            raise _refused(called, repr(cell), "Its bytes are no text") from None
    if isinstance(cell, str):
        text = cell.strip(" \t\r\n\v\f\u00a0\ufeff\u200b")
        return None if _NOTHING.fullmatch(text) else text
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, int):
        return int(cell)  # yes and no are 1 and 0: `true` is the name of nothing
    if isinstance(cell, float | decimal.Decimal) and math.isfinite(cell) and cell == int(cell):
        return int(cell)
    raise _refused(called, repr(cell), _why_not(cell))


def _why_not(cell: Any) -> str:
    if isinstance(cell, list | tuple | set):
        return "They are lists of lists or of objects, not of labels"
    if isinstance(cell, dict):
        return f"Its cells are objects with {', '.join(map(repr, list(cell)[:10]))}"
    if isinstance(cell, float | decimal.Decimal):
        return "They are amounts, not whole numbers that stand for classes"
    return f"They are of type {type(cell).__name__}"


def _no_class(kind: pa.DataType) -> str:
    """Return why a type can hold no classes, "" if it can."""
    if is_list(kind):
        return "They are lists of lists, not of labels"
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return "Its cells are objects, not a label each"
    if pa.types.is_temporal(kind):
        return "They are dates or times, not classes"
    return ""


def _refuse_ids(name: str, parts: Mapping[str, Part]) -> None:
    """Raise DataError if most images have a number or a long text of their own."""
    rows = sum(len(part.codes) for part in parts.values())
    values = {value for part in parts.values() for value in part.used}
    if len(values) <= FEW or 2 * len(values) <= rows:
        return
    numbers = all(number(value) is not None or isinstance(value, int) for value in values)
    if not numbers and sum(len(str(value)) for value in values) < LONG * len(values):
        return
    some = ", ".join(repr(value) for value in list(values)[:3])
    raise DataError(
        f"The labels of {name} are no classes",
        got=shortened(f"{some}, …: {len(values):,} different ones for {rows:,} images"),
        cause=_ID if numbers else "Most images have a text of their own: captions, not classes",
        fix="Name the column of the labels with --data.label-column"
        + ("" if numbers else ", or measure the captions: retrieval:"),
    )


def _refused(called: str, got: str, why: str) -> DataError:
    return DataError(
        f"Column '{called}' holds no class labels",
        got=shortened(got, 200),
        cause=why,
        fix="Name the column of the labels with --data.label-column, one class an image",
    )
