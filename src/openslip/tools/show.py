"""A contact sheet: pictures, captions, and the views of each as the model will see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from openslip.config import ViewsConfig
from openslip.data.builder import SampleReader
from openslip.data.decode import decode
from openslip.data.record import Source, as_source
from openslip.data.views import check_views
from openslip.errors import ConfigError, DataError
from openslip.needs import IMAGE, SSL_VIEWS, View
from openslip.tools.sheet import (
    BAD,
    GAP,
    INK,
    LINE,
    PAPER,
    QUIET,
    SIDE,
    place,
    printable,
    write_line,
    write_lines,
)

Augment = Callable[[Tensor, Tensor, Sequence[float], Sequence[float]], Tensor]
"""`openslip.data.augment.augment`, or a function in its place."""

MOST = 200
"""The most records on a sheet: viewers take sides of at most 65,535 pixels, or fewer."""
_TEXT_WIDTH = 400
_TITLES = {"image": "view with the caption", "ssl": "self-supervised", "local": "local crop"}


@dataclass(frozen=True)
class Shown:
    """A record as the sheet shows it: views by name, (size, size, 3) uint8; or the trouble, why there are none."""

    key: str
    captions: tuple[str, ...]
    picture: np.ndarray | None
    views: dict[str, np.ndarray]
    trouble: str = ""


def contact_sheet(
    source: Source,
    config: ViewsConfig,
    *,
    augment: Augment,
    views: tuple[View, ...] = (IMAGE, *SSL_VIEWS),
    count: int = 8,
    seed: int = 0,
    recipe: str = "",
) -> Image.Image:
    """Draw the first `count` records that a training run with this seed reads, one row each.

    Crops and augmentations are those of the run's first epoch; the views' pixels are shown unsmoothed and without
    normalisation. A record that cannot be read is shown with the reason. views: the views of the run's loss. recipe:
    the name in the head of the sheet.

    Raises ConfigError for settings out of range, DataError when the source has no records.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"A contact sheet shows 1 to {MOST} records", got=count)
    source = as_source(source)
    if not len(source):
        raise DataError("The source has no records", got=source.name)
    check_views(config, drawn=True)
    reader = SampleReader(source, views, config, seed, captions=0)
    rows = [look(reader, position, augment) for position in range(min(count, reader.order.length))]
    sizes = sorted({kind.size for kind in reader.configs.values()}, reverse=True)
    head = [f"{source.name}", f"{len(source):,} records; views of {' and '.join(map(str, sizes))} px"]
    head[1] += f", recipe {recipe}, seed {seed}" if recipe else f", seed {seed}"
    return _sheet(head, titles(views), rows)


def titles(views: Sequence[View]) -> list[str]:
    """Return the titles of views on the sheet: their kinds, numbered except for a single view with the caption."""
    kinds = [view.kind for view in views]
    return [
        _TITLES.get(kind, kind) + ("" if kind == "image" and kinds.count(kind) == 1 else f" {number}")
        for k, kind in enumerate(kinds)
        for number in [kinds[: k + 1].count(kind)]
    ]


def look(reader: SampleReader, position: int, augment: Augment) -> Shown:
    """Return the record at a position of a run, with the views that the run makes of it."""
    epoch, index = reader.order.locate(position)
    key, captions = f"#{index}", ()
    try:
        record = reader.source[index]
        key, captions = record.key, record.captions
        picture = decode(record.image, SIDE)
        # The loader's size, because crops are drawn in the loader's pixels.
        image = decode(record.image, reader.min_side(reader.configs))
    except DataError as error:
        return Shown(key, captions, None, {}, str(error))
    views = {}
    for name in reader.configs:
        view, row = (torch.from_numpy(array)[None] for array in reader.view(image, epoch, index, name))
        seen = augment(view, row, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))[0].clamp(0, 1).mul(255).round()
        views[name] = seen.to(torch.uint8).permute(1, 2, 0).numpy()
    return Shown(key, captions, picture, views)


def _sheet(head: list[str], views: list[str], rows: list[Shown]) -> Image.Image:
    columns = [GAP, 2 * GAP + SIDE + _TEXT_WIDTH]
    columns += [columns[1] + k * (SIDE + GAP // 2) for k in range(1, len(views))]
    top = 2 * GAP + 2 * LINE + 40
    size = columns[-1] + SIDE + GAP, top + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, text in enumerate(head):
        write_line(pen, (GAP, GAP + k * LINE), printable(text), [INK, QUIET][k], size[0] - 2 * GAP)
    for left, title in zip(columns, ("picture, captions", *views)):
        write_line(pen, (left, top - LINE - 8), title, QUIET, SIDE)
    for k, row in enumerate(rows):
        y = top + k * (SIDE + GAP)
        place(sheet, (columns[0], y), row.picture)
        for left, view in zip(columns[1:], row.views.values()):
            sheet.paste(_enlarged(view), (left, y))
        _captions(pen, (columns[0] + SIDE + GAP // 2, y), row)
    return sheet


def _captions(pen: ImageDraw.ImageDraw, at: tuple[int, int], row: Shown) -> None:
    """Write the key, the trouble, and as many captions as fit."""
    entries = [(row.trouble, BAD)] if row.trouble else []
    dash = "- " if len(row.captions) > 1 else ""
    entries += [(dash + (caption or "(empty caption)"), INK) for caption in row.captions]
    if not row.captions and not row.trouble:
        entries.append(("no caption", QUIET))
    write_lines(pen, at, [(row.key, QUIET), *entries], _TEXT_WIDTH - GAP // 2, SIDE // LINE)


def _enlarged(view: np.ndarray) -> Image.Image:
    return Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.NEAREST)
