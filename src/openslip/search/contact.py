"""Contact sheets of pictures of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from openslip.data.decode import decode
from openslip.errors import DataError
from openslip.tools.sheet import BAD, INK, QUIET, SIDE, Cell, grid

if TYPE_CHECKING:
    from openslip.search.hits import Hits
    from openslip.search.index import Index

MOST = 200
"""Pictures on a sheet."""
ACROSS = 5


def cell(index: Index, row: int, *texts: str) -> Cell:
    """Return the picture of a row with texts below it, the first quietly; the reason where it cannot be shown."""
    lines = tuple((text, INK if number else QUIET) for number, text in enumerate(texts))
    try:
        return Cell(decode(index.picture(row), SIDE), lines)
    except DataError as error:
        return Cell(None, (*lines[:1], (error.what, BAD), *lines[1:]))


def hits_sheet(hits: Hits, query: str) -> tuple[Image.Image, int]:
    """Draw the first MOST pictures that were found, with scores and captions, under what was searched for.

    Returns the sheet, and how many of the pictures cannot be shown: they have changed, or are not there any more.
    """
    cells = [
        cell(
            hits.searched,
            hit.row,
            f"{hit.score:.3f}  {hit.path.rpartition('/')[2] or hit.key}",
            *hit.captions[:1],
        )
        for hit in hits[:MOST]
    ]
    head = [query or "embedding", f"{len(hits):,} of {hits.among:,} pictures, the most similar first"]
    if len(hits) > MOST:
        head[1] += f"; the first {MOST}"
    rows = [cells[start : start + ACROSS] for start in range(0, len(cells), ACROSS)]
    return grid(head, rows), sum(one.picture is None for one in cells)
