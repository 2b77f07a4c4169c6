"""A contact sheet: pictures, captions, and the views of each as the model will see them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from openslip.config import ViewsConfig
from openslip.data.builder import SampleReader
from openslip.data.decode import decode
from openslip.data.record import Source, as_source
from openslip.data.views import check_views
from openslip.errors import ConfigError, DataError
from openslip.files import write_bytes
from openslip.needs import IMAGE, SSL_VIEWS, View

Augment = Callable[[Tensor, Tensor, Sequence[float], Sequence[float]], Tensor]
"""`openslip.data.augment.augment`, or what stands in for it."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SIDE = 224
"""Side of the box that a picture or a view is shown in, in pixels."""
MOST = 200
"""Records on a sheet: programs that show pictures take sides of up to 65,535 pixels, or less."""
_GAP, _TEXT_WIDTH, _TEXT_SIZE, _LINE = 24, 400, 19, 26
_PAPER, _INK, _QUIET, _WASH, _BAD = "#fcfbf9", "#1b1c20", "#6a6c74", "#eeebe5", "#b3261e"
_TITLES = {"image": "view with the caption", "ssl": "self-supervised", "local": "local crop"}
_PLAIN = frozenset(map(chr, range(33, 127)))
_OTHER_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc"),
    *("PingFang.ttc", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "wqy-zenhei.ttc"),
)
"""Looked for on the machine for letters that Pillow's own font lacks."""


@dataclass(frozen=True)
class Shown:
    """A record as the sheet shows it: views by name, (size, size, 3) uint8; or why there are none."""

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
    """Draw the first `count` records that a training run with this seed reads, a row each.

    Crops and augmentations are those of the run's first epoch; the views' pixels are shown unsmoothed and without
    normalisation. A record that cannot be read is shown with the reason. views: those of the run's loss. recipe: the
    name to head the sheet with.

    Raises ConfigError for settings out of range, DataError when the source has no records.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"A contact sheet shows 1 to {MOST} records", got=count)
    source = as_source(source)
    if not len(source):
        raise DataError("The source has no records", got=source.name)
    check_views(config, drawn=True)
    reader = SampleReader(source, views, config, seed, captioned=False)
    rows = [look(reader, position, augment) for position in range(min(count, reader.order.length))]
    sizes = sorted({kind.size for kind in reader.configs.values()}, reverse=True)
    head = [f"{source.name}", f"{len(source):,} records; views of {' and '.join(map(str, sizes))} px"]
    head[1] += f", recipe {recipe}, seed {seed}" if recipe else f", seed {seed}"
    return _sheet(head, titles(views), rows)


def titles(views: Sequence[View]) -> list[str]:
    """Return what views are called on the sheet: by their kind, numbered but for the only one with the caption."""
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
        image = decode(
            record.image, reader.min_side(reader.configs)
        )  # the loader's size, for the crops are drawn in its pixels
    except DataError as error:
        return Shown(key, captions, None, {}, str(error))
    views = {}
    for name in reader.configs:
        view, row = (torch.from_numpy(array)[None] for array in reader.view(image, epoch, index, name))
        seen = augment(view, row, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))[0].clamp(0, 1).mul(255).round()
        views[name] = seen.to(torch.uint8).permute(1, 2, 0).numpy()
    return Shown(key, captions, picture, views)


def wrap(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """Break a text into lines of at most `width`, at spaces where there are any; line breaks count as spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if length(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:  # a word too long for a line, or of a script without spaces
            if lines[-1] and length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def printable(text: str) -> str:
    """Return a text without what would break or hide a line: control and half characters become question marks."""
    return "".join(c if c.isprintable() or c.isspace() else "?" for c in text)


def _sheet(head: list[str], views: list[str], rows: list[Shown]) -> Image.Image:
    columns = [_GAP, 2 * _GAP + SIDE + _TEXT_WIDTH]
    columns += [columns[1] + k * (SIDE + _GAP // 2) for k in range(1, len(views))]
    top = 2 * _GAP + 2 * _LINE + 40
    size = columns[-1] + SIDE + _GAP, top + len(rows) * (SIDE + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, text in enumerate(head):
        _write(pen, (_GAP, _GAP + k * _LINE), printable(text), [_INK, _QUIET][k], size[0] - 2 * _GAP)
    for left, title in zip(columns, ("picture, captions", *views)):
        _write(pen, (left, top - _LINE - 8), title, _QUIET, SIDE)
    for k, row in enumerate(rows):
        y = top + k * (SIDE + _GAP)
        pixels = row.picture if row.picture is not None else np.full((SIDE, SIDE, 3), 238, np.uint8)
        sheet.paste(_fitted(pixels), (columns[0], y))
        if row.trouble:
            pen.line([(columns[0], y), (columns[0] + SIDE, y + SIDE)], fill=_BAD, width=2)
            pen.line([(columns[0] + SIDE, y), (columns[0], y + SIDE)], fill=_BAD, width=2)
        for left, view in zip(columns[1:], row.views.values()):
            sheet.paste(_enlarged(view), (left, y))
        _captions(pen, (columns[0] + SIDE + _GAP // 2, y), row)
    return sheet


def _captions(pen: ImageDraw.ImageDraw, at: tuple[int, int], row: Shown) -> None:
    """Write the key, what is wrong, and as many captions as fit."""
    x, y = at
    width, most = _TEXT_WIDTH - _GAP // 2, SIDE // _LINE
    entries = [(row.trouble, _BAD)] if row.trouble else []
    dash = "- " if len(row.captions) > 1 else ""
    entries += [(dash + (caption or "(empty caption)"), _INK) for caption in row.captions]
    if not row.captions and not row.trouble:
        entries.append(("no caption", _QUIET))
    lines: list[tuple[str, str, Font]] = []
    for k, (text, colour) in enumerate([(row.key, _QUIET), *entries]):
        text = printable(text[:2000])
        font = _font(text)  # one for all lines of a caption
        broken = wrap(text, width, font.getlength)
        lines += [(line, colour, font) for line in (broken[:1] if k == 0 else broken)]
    if len(lines) > most:
        lines = [*lines[: most - 1], (f"and {len(lines) - most + 1} more lines", _QUIET, _fonts()[0])]
    for k, (line, colour, font) in enumerate(lines):
        pen.text((x, y + k * _LINE), line, fill=colour, font=font)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: str, width: float) -> None:
    """Write one line, cut to the width."""
    font = _font(text)
    if font.getlength(text) > width:
        text = wrap(text.replace(" ", "\u00a0"), width - font.getlength("..."), font.getlength)[0] + "..."
    pen.text(at, text, fill=colour, font=font)


def _fitted(pixels: np.ndarray) -> Image.Image:
    """Return a picture within SIDE × SIDE, in its own shape, on a square of paper."""
    image, box = Image.fromarray(pixels), Image.new("RGB", (SIDE, SIDE), _WASH)
    scale = SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    box.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return box


def _enlarged(view: np.ndarray) -> Image.Image:
    return Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _font(text: str) -> Font:
    """Return Pillow's own font, or one of the machine's where that lacks fewer of the letters."""
    letters = {letter for letter in text if not letter.isspace()} - _PLAIN
    best = min(range(len(_fonts())), key=lambda k: sum(_lacks(k, letter) for letter in letters))
    return _fonts()[best]


@cache
def _fonts() -> list[Font]:
    fonts = [ImageFont.load_default(_TEXT_SIZE)]
    for name in _OTHER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, _TEXT_SIZE))
        except OSError:
            continue
    return fonts


@cache
def _lacks(font: int, letter: str) -> bool:
    """Whether a font draws a letter as it draws one that no font has."""
    drawn, nothing = (cast(Any, _fonts()[font].getmask(c)) for c in (letter, "\U0010ffff"))
    return drawn.size == nothing.size and bytes(drawn) == bytes(nothing)


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as PNG. Raises DataError when that cannot be done."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise DataError("The contact sheet cannot be written", got=str(path), cause=str(error)) from None
