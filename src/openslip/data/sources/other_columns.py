"""The columns of Arrow tables, in Parquet files or not, that are neither image nor captions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import pyarrow as pa

from openslip.data.containers.row_groups import RowGroups, is_bytes, is_list, open_file, plain_type
from openslip.data.own_columns import in_parts, rows_of, unify, without_columns
from openslip.data.storage.reading import Recent
from openslip.errors import DataError

WIDEST = 64
"""Values of a fixed width of at most this many bytes, such as digests, are no pictures."""
OPEN_FILES = 2
KEPT_BYTES = 64 * 2**20
"""Bytes of decoded row groups kept for each open file, beside the latest one."""


class OtherColumns:
    """The columns of Parquet files except those `used`, by row of all files. Files may have different columns.

    Columns that hold bytes, which may be pictures, and columns that share a name are left out. Cells that cannot be
    read are null. `note` reports both.
    """

    def __init__(self, rows: RowGroups, used: Collection[str]) -> None:
        self._places, self._used = rows, used
        self._open: Recent[RowGroups | None] = Recent(OPEN_FILES)
        self._bytes: dict[str, None] = {}
        self._twice: dict[str, None] = {}
        self._lost, self._reason = 0, ""

    def rows(self, indices: Sequence[int]) -> pa.Table | None:
        """Return these rows, in the order of `indices`; None where there are no other columns."""
        if not len(indices):
            return without_columns(0) if self._some else None
        table = in_parts(indices, self._places.place, self._of_file)
        return table if self._some or (table and table.num_columns) else None

    @cached_property
    def _some(self) -> bool:
        """Whether the first file has other columns."""
        return bool(self._names(self._places.files[0]))

    @property
    def note(self) -> str:
        """Sentences on what was left out or lost in the rows read so far."""
        name, said = self._places.name, []
        if self._bytes:
            said.append(f"Columns of {name} that hold bytes are left out: {_listed(self._bytes)}")
        if self._twice:
            said.append(f"Columns of {name} that share a name are left out: {_listed(self._twice)}")
        if self._lost:
            said.append(
                f"Cells of {name} that cannot be read are empty, in {self._lost:,} rows. {self._reason}"
            )
        return ". ".join(sentence.rstrip(".") for sentence in said)

    def _names(self, file: str) -> list[str]:
        """Return the other columns that a file has."""
        schema = open_file(file).schema_arrow
        found = []
        for field in schema:
            if field.name in self._used:
                continue
            if schema.names.count(field.name) > 1:
                self._twice[field.name] = None
            elif holds_bytes(field.type):
                self._bytes[field.name] = None
            else:
                found.append(field.name)
        return found

    def _opened(self, file: str) -> RowGroups | None:
        names = self._names(file)
        return RowGroups([file], names, cache_bytes=KEPT_BYTES) if names else None

    def _of_file(self, number: int, rows: list[int]) -> pa.Table:
        """Return rows of a file; rows of a row group that cannot be read have no columns."""
        file = self._places.files[number]
        try:
            groups = self._open.get(number, lambda: self._opened(file))
        except DataError as error:
            return self._without(len(rows), error)
        if groups is None:
            return without_columns(len(rows))
        parts = []
        for group, own in groups.by_group(rows):
            try:
                parts.append(self._sound(rows_of(groups.read(group), own)))
            except DataError as error:
                parts.append(self._without(len(own), error))
        return unify(parts)

    def _sound(self, table: pa.Table) -> pa.Table:
        """Return a table without its damaged columns: Arrow trusts what a file says about its texts."""
        for name in table.column_names:
            try:
                table[name].validate(full=True)
            except (pa.ArrowException, ValueError) as error:
                table = table.drop_columns([name])
                self._without(len(table), error)
        return table

    def _without(self, rows: int, error: Exception) -> pa.Table:
        self._lost += rows
        self._reason = self._reason or str(error)
        return without_columns(rows)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's values are bytes, or hold some, as pictures do."""
    kind = plain_type(kind)
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return kind.byte_width > WIDEST
    if pa.types.is_struct(kind):
        return any(holds_bytes(field.type) for field in kind)
    if pa.types.is_map(kind):
        return holds_bytes(kind.key_type) or holds_bytes(kind.item_type)
    if is_list(kind):
        return holds_bytes(kind.value_type)
    return is_bytes(kind) or pa.types.is_union(kind)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
