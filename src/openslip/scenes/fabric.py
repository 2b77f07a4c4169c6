"""The fabrics that objects are cut from: striped, dotted, checked, zigzag, speckled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from openslip.scenes.draw import Pen, Point
from openslip.scenes.world import Colour, Dice


def weave(pen: Pen, texture: str, base: Colour, mark: Colour, dice: Dice) -> None:
    """Give the pen its fabric: `base` with marks on it, in the object's own frame."""
    pen.colour = base
    if texture == "plain":
        return
    pen.fabric = Image.new("RGB", pen.size, base)
    on_layer, pen.draw = pen.draw, ImageDraw.Draw(pen.fabric)
    _MARKS[texture](pen, mark, dice)
    pen.draw = on_layer


def _turned(points: Sequence[Point], cos: float, sin: float) -> list[Point]:
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def _stripes(pen: Pen, mark: Colour, dice: Dice) -> None:
    turn = dice.pick((0.0, 0.0, math.pi / 2, math.pi / 4, dice.random() * math.pi))
    cos, sin = math.cos(turn), math.sin(turn)
    period = dice.between(0.24, 0.5)
    wide, at = period * dice.between(0.3, 0.55), -1.5 + period * dice.random()
    while at < 1.5:
        pen.poly(_turned([(-1.6, at), (1.6, at), (1.6, at + wide), (-1.6, at + wide)], cos, sin), mark)
        at += period


def _dots(pen: Pen, mark: Colour, dice: Dice) -> None:
    period = dice.between(0.28, 0.46)
    radius, shift = period * dice.between(0.2, 0.32), period * dice.random()
    count = int(1.3 / period) + 1
    for row in range(-count, count + 1):
        for column in range(-count, count + 1):
            x = (column + 0.5 * (row % 2)) * period + shift
            pen.oval(x, row * period, radius, radius, mark)


def _checks(pen: Pen, mark: Colour, dice: Dice) -> None:
    period = dice.between(0.16, 0.27)
    turn = dice.pick((0.0, 0.0, math.pi / 4))
    cos, sin = math.cos(turn), math.sin(turn)
    count = int(1.4 / period) + 1
    for row in range(-count, count + 1):
        for column in range(-count + row % 2, count + 1, 2):
            x, y = column * period, row * period
            square = [(x, y), (x + period, y), (x + period, y + period), (x, y + period)]
            pen.poly(_turned(square, cos, sin), mark)


def _zigzag(pen: Pen, mark: Colour, dice: Dice) -> None:
    period, teeth = dice.between(0.34, 0.54), dice.between(0.16, 0.26)
    thick = period * dice.between(0.28, 0.42)
    at = -1.5 + period * dice.random()
    while at < 1.5:
        top = [(-1.5 + k * teeth, at + (k % 2) * teeth * 0.9) for k in range(int(3 / teeth) + 2)]
        pen.poly([*top, *((x, y + thick) for x, y in reversed(top))], mark)
        at += period


def _speckles(pen: Pen, mark: Colour, dice: Dice) -> None:
    for _ in range(48):
        x, y, r = dice.between(-1.1, 1.1), dice.between(-1.1, 1.1), dice.between(0.02, 0.075)
        pen.oval(x, y, r, r, mark)


_MARKS = {"striped": _stripes, "dotted": _dots, "checked": _checks, "zigzag": _zigzag, "speckled": _speckles}
