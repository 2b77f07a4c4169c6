"""What a search has found, the most similar first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from openslip.data.given import pixels_of
from openslip.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from openslip.search.index import Index

THUMBNAIL = 160
"""Longer side of a picture that is shown in a notebook, in pixels."""
SHOWN = 24
"""Pictures that a notebook shows; the table has all."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found. score: the cosine similarity to what was searched for, -1 to 1.

    path: of its file, "" where it lies in a shard or table. columns: the user's own.
    """

    row: int
    score: float
    key: str
    path: str
    captions: tuple[str, ...]
    columns: dict[str, Any] = field(default_factory=dict)


class Hits(Sequence[Hit]):
    """K pictures, the most similar first; of equal scores the lower row first. Shows its pictures in a notebook.

    rows: (K,) int64. scores: (K,) float32. among: how many pictures were compared, after filters.
    """

    def __init__(self, index: Index, rows: np.ndarray, scores: np.ndarray, among: int) -> None:
        self.searched, self.rows, self.scores, self.among = index, rows, scores, among

    @cached_property
    def table(self) -> pa.Table:
        """All columns of the records that were found, with `row` and `score` before them."""
        import pyarrow as pa

        found = self.searched.records(self.rows)
        return found.add_column(0, "row", pa.array(self.rows)).add_column(1, "score", pa.array(self.scores))

    @property
    def paths(self) -> list[str]:
        """Of each its file's path, else its key."""
        return [hit.path or hit.key for hit in self]

    def picture(self, number: int) -> Image.Image:
        """Return the picture of hit `number`. Raises DataError as `Index.picture` does."""
        return Image.fromarray(pixels_of(self.searched.picture(int(self.rows[number]))))

    @cached_property
    def _hits(self) -> list[Hit]:
        from openslip.search.index import OWN

        return [
            Hit(
                found["row"],
                found["score"],
                found["key"],
                found["path"] or "",
                tuple(found["captions"]),
                {
                    name: value
                    for name, value in found.items()
                    if name not in (*OWN, "row", "score") or name == "class"
                },
            )
            for found in self.table.to_pylist()
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
            label = escape(f"{hit.score:.3f} {hit.captions[0] if hit.captions else hit.key}")
            try:
                picture = f'<img src="{_data_address(self.picture(number))}" alt="{label}">'
            except DataError as error:
                picture = escape(error.what)
            cells.append(
                f'<figure style="display:inline-block;width:{THUMBNAIL}px;margin:4px;vertical-align:top">{picture}'
                f'<figcaption style="overflow-wrap:anywhere">{label}</figcaption></figure>'
            )
        more = f"<p>and {len(self) - SHOWN:,} more</p>" if len(self) > SHOWN else ""
        return f"<div>{''.join(cells)}</div>{more}"


def _data_address(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
