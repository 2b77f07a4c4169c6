"""Thumbnails of a checked source's records, read from it once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from openslip.data.captions import is_caption
from openslip.data.decode import decode
from openslip.data.record import Record, Source
from openslip.errors import DataError
from openslip.report.gallery import SIDE, Picture
from openslip.tools.check import Summary


@dataclass(frozen=True, eq=False)
class Tile:
    """A thumbnail with its record's key, and below it a caption, or else the size."""

    picture: Picture
    key: str
    size: str
    caption: str = ""


class Album:
    """Reads records by their position in the summary; records that cannot be read any more are left out."""

    def __init__(self, source: Source, summary: Summary) -> None:
        self.source, self.summary = source, summary

    def record(self, position: int) -> Record | None:
        try:
            return self.source[int(self.summary.indices[position])]
        except DataError:
            return None

    def captions(self, position: int) -> list[str]:
        """Return a record's captions that are not empty."""
        record = self.record(position)
        return [caption for caption in record.captions if is_caption(caption)] if record else []

    def picture(self, position: int) -> Picture | None:
        record = self.record(position)
        try:
            return Picture(decode(record.image, SIDE), record.captions, None) if record else None
        except DataError:
            return None

    def tiles(
        self,
        positions: Iterable[int],
        *,
        said: Callable[[str], bool] | None = None,
        weight: bool = False,
    ) -> list[Tile]:
        """Return thumbnails with their sizes. said: a test for the caption to show, the first that passes. weight:
        whether to add the sizes of the files."""
        found = []
        for position in map(int, positions):
            record, picture, row = (
                self.record(position),
                self.picture(position),
                self.summary.records[position],
            )
            if record is None or picture is None:
                continue
            size = f"{row['width']:,} × {row['height']:,}" + (
                f", {row['bytes'] / 1e3:,.0f} kB" if weight else ""
            )
            caption = next(filter(said, record.captions), "") if said else ""
            found.append(Tile(picture, record.key, size, caption[:100]))
        return found


def spread(positions: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the positions, spread over all."""
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(int)]
