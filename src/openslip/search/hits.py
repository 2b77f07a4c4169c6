"""The hits of a search, the most similar first."""

from __future__ import annotations

import base64
import datetime
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from openslip.data.given import pixels_of
from openslip.data.own_columns import told_apart
from openslip.errors import DataError, shortened

if TYPE_CHECKING:
    import pyarrow as pa

    from openslip.search.index import Index

THUMBNAIL = 160
"""Longer side of a picture that is shown in a notebook, in pixels."""
SHOWN = 24
"""Pictures that a notebook shows; the table has all."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found. score: the cosine similarity to the query, -1 to 1.

    path: of its file, "" for a picture in a shard or table. columns: the user's own columns.
    """

    row: int
    score: float
    key: str
    path: str
    captions: tuple[str, ...]
    columns: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the hit as JSON: dates as texts (ISO 8601), bytes in base64, NaN and infinite numbers as null."""
        return {
            "row": self.row,
            "score": self.score,
            "key": self.key,
            "path": self.path,
            "captions": list(self.captions),
            "columns": _plain(self.columns),
        }


class Hits(Sequence[Hit]):
    """K pictures, the most similar first; at equal scores the lower row first. A notebook shows the pictures.

    rows: (K,) int64. scores: (K,) float32. among: how many pictures were compared, after filters. notes: sentences
    about the query.
    """

    def __init__(
        self, index: Index, rows: np.ndarray, scores: np.ndarray, among: int, notes: Sequence[str] = ()
    ) -> None:
        self.searched, self.rows, self.scores, self.among, self.notes = index, rows, scores, among, (*notes,)

    @cached_property
    def table(self) -> pa.Table:
        """All columns of the records that were found, after the columns `row` and `score`.

        A user's column with one of these two names gets the suffix `_2`.
        """
        import pyarrow as pa

        found = self._records
        named = found.rename_columns(told_apart(["row", "score", *found.column_names])[2:])
        return named.add_column(0, "row", pa.array(self.rows)).add_column(1, "score", pa.array(self.scores))

    @property
    def paths(self) -> list[str]:
        """The path of each hit's file, or the key of a hit without a file."""
        return [hit.path or hit.key for hit in self]

    def picture(self, number: int) -> Image.Image:
        """Return the picture of hit `number`. Raises DataError as `Index.picture` does."""
        return Image.fromarray(pixels_of(self.searched.picture(int(self.rows[number]))))

    @cached_property
    def _records(self) -> pa.Table:
        return self.searched.records(self.rows)

    @cached_property
    def _hits(self) -> list[Hit]:
        from openslip.search.index import own_columns

        return [
            Hit(
                row,
                score,
                found["key"],
                found["path"] or "",
                tuple(found["captions"] or ()),
                {name: found[name] for name in own_columns(found)},
            )
            for row, score, found in zip(
                self.rows.tolist(), self.scores.tolist(), self._records.to_pylist(), strict=True
            )
        ]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Hit: ...

    @overload
    def __getitem__(self, number: slice) -> list[Hit]: ...

    def __getitem__(self, number: int | slice) -> Hit | list[Hit]:
        return self._hits[number]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __repr__(self) -> str:
        return f"Hits({len(self)} of {self.among:,} pictures)"

    def _repr_html_(self) -> str:
        cells = []
        for number, hit in enumerate(self[:SHOWN]):
            label = escape(f"{hit.score:.3f} {shortened(hit.captions[0] if hit.captions else hit.key, 200)}")
            try:
                picture = f'<img src="{_data_address(self.picture(number))}" alt="{label}">'
            except DataError as error:
                picture = escape(error.what)
            cells.append(
                f'<figure style="display:inline-block;width:{THUMBNAIL}px;margin:4px;vertical-align:top">{picture}'
                f'<figcaption style="overflow-wrap:anywhere">{label}</figcaption></figure>'
            )
        more = f"<p>and {len(self) - SHOWN:,} more</p>" if len(self) > SHOWN else ""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        nothing = "" if len(self) else f"<p>{escape(repr(self))}</p>"
        return f"{notes}{nothing}<div>{''.join(cells)}</div>{more}"


def _data_address(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> Any:
    """Return a value of a column as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
