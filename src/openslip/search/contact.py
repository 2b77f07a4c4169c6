"""Contact sheets of pictures of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from openslip.data.decode import decode
from openslip.errors import DataError
from openslip.tools.check.listing import NEAR, NEAR_RECAPTIONED
from openslip.tools.sheet import BAD, INK, QUIET, SIDE, Cell, grid

if TYPE_CHECKING:
    from openslip.search.duplicates import Duplicates
    from openslip.search.hits import Hits
    from openslip.search.index import Index

MOST = 200
"""Pictures on a sheet."""
ACROSS = 5
GROUPS = 40
"""Groups of duplicates on a sheet."""


def cell(index: Index, row: int, *texts: str) -> Cell:
    """Return the picture of a row with texts below it, the first text quiet; or the reason why it cannot be shown."""
    lines = tuple((text, INK if number else QUIET) for number, text in enumerate(texts))
    try:
        return Cell(decode(index.picture(row), SIDE), lines)
    except DataError as error:
        return Cell(None, (*lines[:1], (error.what, BAD), *lines[1:]))


def hits_sheet(hits: Hits, query: str) -> tuple[Image.Image, int]:
    """Draw the first MOST pictures that were found, with scores and captions, below the query.

    Returns the sheet, and how many of the pictures cannot be shown because they have changed or are gone.
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


def duplicates_sheet(found: Duplicates) -> tuple[Image.Image, int, int]:
    """Draw groups that have near copies, one in each row: the first picture, and the least similar near copies.

    The group with the least similar near copy comes first: if that picture is a copy, all others are.
    Returns the sheet, how many groups it shows, and how many of their pictures cannot be shown.
    """
    near = np.array([what in (NEAR, NEAR_RECAPTIONED) for what in found.whats], bool)
    # At equal similarities, the lower row comes first.
    order = np.flatnonzero(near)[np.argsort(found.similarity[near], kind="stable")]
    by_group: dict[int, list[int]] = {}
    for row in order.tolist():
        by_group.setdefault(int(found.lookalikes[row]), []).append(row)
    rows = []
    for first, copies in list(by_group.items())[:GROUPS]:
        cells = []
        for row in (first, *copies[: ACROSS - 1]):
            record = found.index.records([row], ["key", "path", "caption"]).to_pylist()[0]
            name = (record["path"] or "").rpartition("/")[2] or record["key"]
            score = "" if row == first else f"{found.similarity[row]:.3f}  "
            cells.append(cell(found.index, row, score + name, *filter(None, [record["caption"]])))
        rows.append(cells)
    head = [
        f"Near copies of {found.index.folder.name}, threshold {found.threshold:g}",
        f"{int(near.sum()):,} in {len(by_group):,} group{'s' * (len(by_group) != 1)}; the least similar first; "
        "the first picture of a row is kept",
    ]
    return grid(head, rows), len(rows), sum(one.picture is None for cells in rows for one in cells)
