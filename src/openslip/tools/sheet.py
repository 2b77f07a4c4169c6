"""Draw contact sheets: pictures in boxes, lines of text in any script, and the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openslip.errors import DataError
from openslip.files import write_bytes

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SIDE = 224
"""Side of the box that a picture or a view is shown in, in pixels."""
GAP, TEXT_SIZE, LINE = 24, 19, 26
LINES = 4
"""Lines of text below a picture of a grid."""
PAPER, INK, QUIET, WASH, BAD = "#fcfbf9", "#1b1c20", "#6a6c74", "#eeebe5", "#b3261e"
_PLAIN = frozenset(map(chr, range(33, 127)))
_OTHER_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc"),
    *("PingFang.ttc", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "wqy-zenhei.ttc"),
)
"""Fonts looked for on the machine, for letters that Pillow's own font lacks."""


@dataclass(frozen=True)
class Cell:
    """A picture on a sheet, with lines of text and their colours below. picture: (H, W, 3) uint8, None if it cannot be
    shown."""

    picture: np.ndarray | None
    texts: tuple[tuple[str, str], ...]


def grid(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Draw rows of pictures, each with up to LINES lines of text below it, under some lines of text.

    head: the first line stands out.
    """
    across = max(1, *map(len, rows)) if rows else 1
    size = (
        max(across * (SIDE + GAP) + GAP, 3 * SIDE),
        2 * GAP + len(head) * LINE + len(rows) * (SIDE + LINES * LINE + GAP),
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, text in enumerate(head):
        write_line(pen, (GAP, GAP + k * LINE), printable(text), QUIET if k else INK, size[0] - 2 * GAP)
    for r, row in enumerate(rows):
        y = 2 * GAP + len(head) * LINE + r * (SIDE + LINES * LINE + GAP)
        for c, cell in enumerate(row):
            x = GAP + c * (SIDE + GAP)
            place(sheet, (x, y), cell.picture)
            write_lines(pen, (x, y + SIDE + 4), cell.texts, SIDE, LINES)
    return sheet


def place(sheet: Image.Image, at: tuple[int, int], pixels: np.ndarray | None) -> None:
    """Put a picture into its box at `at`, or a cross if there is none."""
    x, y = at
    shown = pixels if pixels is not None else np.full((SIDE, SIDE, 3), 238, np.uint8)
    sheet.paste(fitted(shown), at)
    if pixels is None:
        pen = ImageDraw.Draw(sheet)
        pen.line([(x, y), (x + SIDE, y + SIDE)], fill=BAD, width=2)
        pen.line([(x + SIDE, y), (x, y + SIDE)], fill=BAD, width=2)


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
    """Return a text with question marks for characters that would break or hide a line: control and half characters."""
    return "".join(c if c.isprintable() or c.isspace() else "?" for c in text)


def write_line(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: str, width: float) -> None:
    """Write one line, cut to the width."""
    font = font_of(text)
    if font.getlength(text) > width:
        text = wrap(text.replace(" ", "\u00a0"), width - font.getlength("..."), font.getlength)[0] + "..."
    pen.text(at, text, fill=colour, font=font)


def write_lines(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    texts: Sequence[tuple[str, str]],
    width: float,
    most: int,
) -> None:
    """Write texts in their colours on `most` lines at most, the first text on one; the last line counts the rest."""
    lines: list[tuple[str, str, Font]] = []
    for k, (text, colour) in enumerate(texts):
        text = printable(text[:2000])
        font = font_of(text)  # one for all lines of a text
        broken = wrap(text, width, font.getlength)
        lines += [(line, colour, font) for line in (broken[:1] if k == 0 else broken)]
    if len(lines) > most:
        lines = [*lines[: most - 1], (f"and {len(lines) - most + 1} more lines", QUIET, fonts()[0])]
    for k, (line, colour, font) in enumerate(lines):
        pen.text((at[0], at[1] + k * LINE), line, fill=colour, font=font)


def fitted(pixels: np.ndarray) -> Image.Image:
    """Return a picture scaled to fit SIDE × SIDE, in its own proportions, on a plain square."""
    image, box = Image.fromarray(pixels), Image.new("RGB", (SIDE, SIDE), WASH)
    scale = SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    box.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return box


def font_of(text: str) -> Font:
    """Return Pillow's own font, or a font of the machine that lacks fewer of the letters."""
    letters = {letter for letter in text if not letter.isspace()} - _PLAIN
    best = min(range(len(fonts())), key=lambda k: sum(_lacks(k, letter) for letter in letters))
    return fonts()[best]


@cache
def fonts() -> list[Font]:
    """Return Pillow's own font, and fonts of the machine that have letters of many scripts."""
    found = [ImageFont.load_default(TEXT_SIZE)]
    for name in _OTHER_FONTS:
        try:
            found.append(ImageFont.truetype(name, TEXT_SIZE))
        except OSError:
            continue
    return found


@cache
def _lacks(font: int, letter: str) -> bool:
    """Whether a font draws a letter like one that no font has."""
    drawn, nothing = (cast(Any, fonts()[font].getmask(c)) for c in (letter, "\U0010ffff"))
    return drawn.size == nothing.size and bytes(drawn) == bytes(nothing)


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as PNG. Raises DataError when it cannot be written."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise DataError("The contact sheet cannot be written", got=str(path), cause=str(error)) from None
