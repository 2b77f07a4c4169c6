"""Thumbnails of a checked source's records, read from it once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from openslip.data.captions import is_caption
from openslip.data.decode import decode
from openslip.data.record import Record, Source
from openslip.errors import DataError
from openslip.report.gallery import SIDE, Picture
from openslip.report.html import Html, div, quoted, span
from openslip.report.parts import image
from openslip.tools.check import Summary


class Album:
    """Reads records by their position in the summary; what cannot be read any more is left out."""

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

    def tile(
        self, position: int, *, said: Callable[[str], bool] | None = None, weight: bool = False
    ) -> Html | None:
        """Return a thumbnail with its key and size; with its first caption that is `said`; with its file's size."""
        record, picture, row = self.record(position), self.picture(position), self.summary.records[position]
        if record is None or picture is None:
            return None
        words = [
            f"{row['width']:,} × {row['height']:,}" + (f", {row['bytes'] / 1e3:,.0f} kB" if weight else "")
        ]
        caption = next(filter(said, record.captions), "") if said else ""
        quote = span("words", quoted(caption[:100])) if caption else None
        return div("tile", image(picture), span("key", quoted(record.key)), *([quote] if quote else words))

    def tiles(self, positions: Iterable[int]) -> Html:
        """Return thumbnails with their sizes."""
        return div("tiles", *(self.tile(int(position)) for position in positions))

    def members(self, group: np.ndarray, most: int) -> list[Html | None]:
        """Return the first pictures of a group, the rest as a number."""
        tiles = [self.tile(int(position), weight=True) for position in group[:most]]
        return [*tiles, div("tile", f"and {len(group) - most:,} more")] if len(group) > most else tiles


def spread(positions: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the positions, spread over all."""
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(int)]
