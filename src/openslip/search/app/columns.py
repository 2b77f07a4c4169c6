"""The columns that records can be filtered by: the kind of each column, and its range or its values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openslip.search.index import Index, own_columns

CHOICES = 120
"""The most values of a column that the page offers to choose from; also at most half as many as records."""
MOST = 64
"""Columns that can be filtered by on the page; the API takes all."""
LOOKED_AT = 2_000_000
"""With more records than this, the values of text columns are not counted, and the page offers only a text search."""


def described(index: Index) -> list[dict[str, Any]]:
    """Return the name, the kind and the contents of each column that people filter by.

    number: `least`, `most` and `whole`. choice: `values`, the most frequent first. truth: nothing more. text: nothing
    more.
    """
    names = [name for name in index.columns if name == "caption" or name in own_columns(index.columns)]
    found = [one for name in names if (one := _described(index, name))]
    return found[:MOST]


def _described(index: Index, name: str) -> dict[str, Any] | None:
    """Return the contents of a column; None for a column that nobody filters by."""
    kind = index.records([]).schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_float16(kind):  # which DuckDB does not compare
        return None
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_boolean(kind):
        return {"name": name, "kind": "truth"}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = index.column(name)
        if pa.types.is_floating(kind):
            values = values.filter(pc.is_finite(values))  # type: ignore[missing-attribute]
        ends = pc.min_max(values).as_py()  # type: ignore[missing-attribute]
        if ends["min"] is None:
            return None
        whole = pa.types.is_integer(kind)
        return {"name": name, "kind": "number", "least": ends["min"], "most": ends["max"], "whole": whole}
    if not (text or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_temporal(kind)):
        return None
    if text and name != "caption" and len(index) <= LOOKED_AT:
        counts = index.column(name).value_counts().to_pylist()
        some = [(one["values"], one["counts"]) for one in counts if one["values"] is not None]
        if not some:
            return None
        if len(some) <= min(CHOICES, len(index) // 2):
            some.sort(key=lambda one: (-one[1], one[0]))
            return {"name": name, "kind": "choice", "values": [{"value": v, "count": n} for v, n in some]}
    return {"name": name, "kind": "text"}
