"""What contact sheets are drawn with: lines that fit, pictures in their boxes, a cross where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from openslip.errors import DataError
from openslip.tools.sheet import BAD, GAP, LINE, PAPER, SIDE, Cell, grid, wrap, write_sheet


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 20))
def test_wrapping_loses_nothing_and_fits(text: str, width: int) -> None:
    lines = wrap(text, width, len)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert all(len(line) <= width for line in lines)
    assert all(line == line.strip() for line in lines)


def test_wrapping_breaks_at_spaces() -> None:
    assert wrap("a dog\nruns  over the beach", 9, len) == ["a dog", "runs over", "the beach"]
    assert wrap("", 9, len) == [""]
    assert wrap("沙滩上奔跑的狗", 3, len) == ["沙滩上", "奔跑的", "狗"]


def test_a_grid_has_each_picture_in_its_box() -> None:
    green = np.full((300, 300, 3), (0, 128, 0), np.uint8)
    text = (("a dog", "#000000"),)
    rows = [[Cell(green, text), Cell(None, text)], [Cell(None, ())]]
    sheet = grid(["query", "2 pictures"], rows)
    top, below = 2 * GAP + 2 * LINE, 2 * GAP + 2 * LINE + SIDE + 4 * LINE + GAP
    middles = [(GAP + SIDE // 2, top + SIDE // 2), (2 * GAP + SIDE + SIDE // 2, top + SIDE // 2)]
    middles += [(GAP + SIDE // 2, below + SIDE // 2), (2 * GAP + SIDE + SIDE // 2, below + SIDE // 2)]
    assert [sheet.getpixel(at) for at in middles] == [
        (0, 128, 0),
        *[ImageColor.getrgb(BAD)] * 2,
        ImageColor.getrgb(PAPER),
    ]
    below_each = [(GAP, top), (2 * GAP + SIDE, top), (GAP, below)]
    texts = [sheet.crop((x, y + SIDE + 4, x + SIDE, y + SIDE + LINE)).convert("L") for x, y in below_each]
    assert [np.asarray(text).min() < 50 for text in texts] == [True, True, False]


def test_a_sheet_is_written_whole_or_not(tmp_path) -> None:
    write_sheet(tmp_path / "sheet.png", Image.new("RGB", (3, 2), "red"))
    assert Image.open(tmp_path / "sheet.png").size == (3, 2)
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(tmp_path / "nowhere" / "sheet.png", Image.new("RGB", (3, 2)))
