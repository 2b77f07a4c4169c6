"""How the vehicles are drawn. Frame: x and y from -1 to 1, y down; wheels touch y = 1. They face left."""

from __future__ import annotations

import math

from openslip.scenes.draw import Pen, Point
from openslip.scenes.ink import Ink
from openslip.scenes.world import LAMPLIGHT, Dice


def _wheel(pen: Pen, ink: Ink, x: float, r: float, spokes: bool = False) -> None:
    pen.oval(x, 1.0 - r, r, r, ink.black)
    pen.oval(x, 1.0 - r, 0.6 * r, 0.6 * r, ink.accent if spokes else ink.grey)
    if spokes:
        for k in range(4):
            c, s = r * math.cos(k * math.pi / 4), r * math.sin(k * math.pi / 4)
            pen.line([(x - 0.6 * c, 1 - r - 0.6 * s), (x + 0.6 * c, 1 - r + 0.6 * s)], 0.035, ink.black)
    pen.oval(x, 1.0 - r, 0.2 * r, 0.2 * r, ink.black)


def _beetle(pen: Pen, ink: Ink, dice: Dice, floor: float) -> list[list[Point]]:
    """Draw the body of a car, round; return its windows."""
    pen.body_curve(
        [
            (-1.0, floor),
            (-0.96, 0.4),
            (-0.62, 0.26),
            (-0.36, -0.16),
            (0.2, -0.24),
            (0.62, 0.02),
            (0.94, 0.4),
            (1.0, floor),
            (0, floor + 0.04),
        ]
    )
    glass = [
        [(-0.46, 0.24), (-0.26, -0.06), (0.0, -0.1), (0.0, 0.24)],
        [(0.08, -0.1), (0.26, -0.08), (0.54, 0.12), (0.6, 0.24), (0.08, 0.24)],
    ]
    return glass


def _van(pen: Pen, ink: Ink, dice: Dice, floor: float) -> list[list[Point]]:
    """Draw the body of a car, long; return its windows."""
    pen.body_curve(
        [
            (-1.0, floor),
            (-1.0, 0.3),
            (-0.84, -0.22),
            (-0.6, -0.3),
            (0.84, -0.3),
            (0.98, -0.16),
            (1.0, 0.4),
            (1.0, floor),
            (0, floor + 0.02),
        ]
    )
    glass = [[(-0.88, 0.18), (-0.74, -0.16), (-0.42, -0.16), (-0.42, 0.18)]]
    glass += [[(x, 0.18), (x, -0.16), (x + 0.34, -0.16), (x + 0.34, 0.18)] for x in (-0.32, 0.1, 0.52)]
    return glass


def _pickup(pen: Pen, ink: Ink, dice: Dice, floor: float) -> list[list[Point]]:
    """Draw the body of a car, with a load in its bed; return its windows."""
    pen.body(
        [
            (-1.0, floor),
            (-1.0, 0.36),
            (-0.62, 0.26),
            (-0.42, -0.2),
            (0.06, -0.2),
            (0.12, 0.3),
            (1.0, 0.3),
            (1.0, floor),
        ]
    )
    glass = [[(-0.52, 0.26), (-0.36, -0.1), (0.0, -0.1), (0.04, 0.26)]]
    for k in range(dice.below(4)):
        pen.oval(0.3 + 0.2 * k, 0.28, 0.13, 0.13, ink.accent)
    pen.body([(0.1, 0.3), (1.0, 0.3), (1.0, 0.6), (0.1, 0.6)])
    return glass


def _saloon(pen: Pen, ink: Ink, dice: Dice, floor: float) -> list[list[Point]]:
    """Draw the body of a car, low; return its windows."""
    pen.body_curve(
        [
            (-1.0, floor),
            (-1.0, 0.4),
            (-0.56, 0.28),
            (-0.3, -0.08),
            (0.3, -0.1),
            (0.58, 0.24),
            (0.98, 0.32),
            (1.0, floor),
            (0, floor + 0.02),
        ]
    )
    glass = [
        [(-0.46, 0.28), (-0.24, 0.0), (0.0, 0.0), (0.0, 0.28)],
        [(0.07, 0.0), (0.26, 0.0), (0.46, 0.28), (0.07, 0.28)],
    ]
    return glass


def car(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A beetle, a van, a pickup or a saloon."""
    form, r = dice.below(4), dice.between(0.2, 0.27)
    floor = 1.0 - 0.8 * r
    for pane in (_beetle, _van, _pickup, _saloon)[form](pen, ink, dice, floor):
        pen.poly(pane, ink.pane)
    pen.line([(-0.96, 0.58), (0.96, 0.58)], 0.04, ink.accent)
    pen.line([(-1.0, floor - 0.04), (1.0, floor - 0.04)], 0.08, ink.grey)
    pen.line([(0.03, 0.3), (0.03, floor - 0.1)], 0.022, ink.deep)
    pen.oval(-0.94, 0.48, 0.075, 0.09, LAMPLIGHT)
    pen.oval(0.95, 0.46, 0.05, 0.07, ink.rose)
    for x in (-0.56, 0.56):
        pen.oval(x, 1.0 - r, 1.2 * r, 1.2 * r, ink.deep)
        _wheel(pen, ink, x, r)
    if form in (1, 3) and dice.chance(0.4):
        pen.line([(-0.3, -0.34), (0.4, -0.34)], 0.03, ink.black)
        pen.poly([(-0.26, -0.36), (-0.26, -0.56), (0.1, -0.56), (0.1, -0.36)], ink.wood)
    if ink.lit:
        pen.glow(-1.1, 0.52, 0.6, LAMPLIGHT, 0.8)


def train(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A steam engine under its smoke, with or without a wagon."""
    puff = dice.between(0.12, 0.2)
    for k in range(4):
        pen.oval(-0.56 + 0.26 * k, -0.5 - 0.11 * k, puff + 0.035 * k, puff * 0.8 + 0.03 * k, ink.cream)
    pen.poly([(-0.66, 0.1), (-0.72, -0.34), (-0.4, -0.34), (-0.46, 0.1)], ink.black)
    pen.poly([(-0.76, -0.32), (-0.36, -0.32), (-0.4, -0.42), (-0.72, -0.42)], ink.accent)
    pen.oval(-0.1, 0.08, 0.13, 0.16, ink.gold)
    pen.body_curve([(-0.86, 0.1), (-0.78, 0.04), (0.2, 0.04), (0.2, 0.66), (-0.78, 0.66), (-0.86, 0.6)])
    for x in (-0.5, -0.14):
        pen.line([(x, 0.06), (x, 0.64)], 0.045, ink.gold)
    pen.oval(-0.84, 0.34, 0.1, 0.28, ink.dark)
    pen.oval(-0.9, 0.2, 0.07, 0.09, LAMPLIGHT)
    pen.body([(0.14, 0.7), (0.14, -0.3), (0.66, -0.3), (0.66, 0.7)])
    pen.poly([(0.24, 0.14), (0.24, -0.16), (0.56, -0.16), (0.56, 0.14)], ink.pane)
    pen.poly([(0.06, -0.28), (0.1, -0.42), (0.7, -0.42), (0.74, -0.28)], ink.accent_dark)
    if dice.chance(0.6):
        pen.poly([(0.74, 0.7), (0.74, 0.16), (1.04, 0.16), (1.04, 0.7)], ink.accent)
        pen.oval(0.89, 0.16, 0.14, 0.1, ink.black)
    pen.poly([(-0.9, 0.66), (1.04, 0.66), (1.04, 0.78), (-0.9, 0.78)], ink.deep)
    pen.poly([(-0.88, 0.68), (-1.06, 1.0), (-0.74, 1.0), (-0.74, 0.68)], ink.accent)
    _wheel(pen, ink, -0.56, 0.16, spokes=True)
    _wheel(pen, ink, -0.2, 0.16, spokes=True)
    _wheel(pen, ink, 0.34, 0.26, spokes=True)
    _wheel(pen, ink, 0.86, 0.15, spokes=True)
    pen.line([(-0.56, 0.86), (0.34, 0.82)], 0.04, ink.grey)
    if ink.lit:
        pen.glow(-1.0, 0.2, 0.6, LAMPLIGHT, 0.8)
        pen.glow(0.4, 0.0, 0.5, LAMPLIGHT, 0.5)


def sailboat(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A sailing boat with one or two sails."""
    hull = ink.wood if dice.chance(0.5) else ink.accent
    fill, mast = dice.between(0.06, 0.24), dice.between(-0.12, 0.1)
    pen.line([(mast, -0.98), (mast, 0.7)], 0.05, ink.bark)
    pen.body_curve(
        [
            (mast + 0.05, -0.86),
            (mast + 0.05, -0.84),
            (mast + 0.4 + fill, -0.1),
            (0.82, 0.44),
            (0.8, 0.47),
            (mast + 0.05, 0.44),
        ]
    )
    if dice.chance(0.8):
        pen.curve(
            [
                (mast - 0.06, -0.72),
                (mast - 0.06, -0.68),
                (mast - 0.1, 0.42),
                (-0.8, 0.44),
                (-0.8, 0.4),
                (mast - 0.36 - fill * 0.3, -0.1),
            ],
            ink.light,
        )
    pen.poly([(mast, -1.0), (mast + 0.3, -0.93), (mast, -0.84)], ink.accent)
    pen.curve(
        [
            (-1.0, 0.54),
            (-0.98, 0.5),
            (0.0, 0.6),
            (0.96, 0.5),
            (0.98, 0.54),
            (0.7, 0.9),
            (0.5, 1.0),
            (-0.6, 1.0),
            (-0.76, 0.92),
        ],
        hull,
    )
    pen.line([(-0.88, 0.68), (0.86, 0.68)], 0.06, ink.cream)
    if dice.chance(0.5):
        for x in (-0.4, 0.0, 0.4):
            pen.oval(x, 0.82, 0.06, 0.06, ink.pane)


def hot_air_balloon(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A hot air balloon with its basket."""
    wide, low = dice.between(0.62, 0.8), dice.between(0.3, 0.42)
    for x in (-0.26, 0.26):
        pen.line([(x * 1.4, low - 0.1), (0.55 * x, 0.76)], 0.022, ink.bark)
    outline = [
        (-0.2, low),
        (-wide * 0.86, -0.06),
        (-wide, -0.5),
        (-0.55 * wide, -0.92),
        (0, -1.0),
        (0.55 * wide, -0.92),
        (wide, -0.5),
        (wide * 0.86, -0.06),
        (0.2, low),
    ]
    pen.body_curve(outline)
    if pen.fabric is None:
        for k, colour in ((0.62, ink.mark), (0.24, ink.base)):
            pen.curve([(x * k, y) for x, y in outline], colour)
    elif dice.chance(0.5):
        pen.curve(
            [
                (-wide, -0.42),
                (0, -0.26),
                (wide, -0.42),
                (wide * 0.97, -0.22),
                (0, -0.04),
                (-wide * 0.97, -0.22),
            ],
            ink.accent,
        )
    pen.poly(
        [(-0.2, low - 0.05), (0.2, low - 0.05), (0.15, low + 0.06), (-0.15, low + 0.06)], ink.accent_dark
    )
    pen.curve([(-0.18, 0.74), (0.18, 0.74), (0.15, 1.0), (-0.15, 1.0)], ink.wood)
    pen.line([(-0.19, 0.74), (0.19, 0.74)], 0.06, ink.bark)
    if dice.chance(0.7):
        pen.poly([(-0.06, 0.58), (0, low + 0.06), (0.06, 0.58)], LAMPLIGHT)
        if ink.lit:
            pen.glow(0, low - 0.1, 0.9, LAMPLIGHT, 0.8)


def rocket(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A rocket on its flame."""
    wide, base = dice.between(0.28, 0.4), dice.between(0.34, 0.5)
    flame = dice.between(0.25, 0.5)
    pen.curve(
        [(-0.2, base), (-0.26, base + 0.25), (0, base + flame + 0.12), (0.26, base + 0.25), (0.2, base)],
        (244, 132, 60),
    )
    pen.curve(
        [(-0.12, base), (-0.14, base + 0.18), (0, base + 0.7 * flame), (0.14, base + 0.18), (0.12, base)],
        (255, 222, 120),
    )
    fin = dice.between(0.26, 0.42)
    for s in (-1, 1):
        pen.curve(
            [
                (s * 0.7 * wide, -0.1),
                (s * (wide + fin), base - 0.06),
                (s * (wide + 0.8 * fin), base + 0.2),
                (s * 0.6 * wide, base - 0.04),
            ],
            ink.accent,
        )
    pen.body_curve(
        [
            (0, -1.0),
            (0.62 * wide, -0.66),
            (wide, -0.16),
            (0.86 * wide, 0.3),
            (0.6 * wide, base),
            (-0.6 * wide, base),
            (-0.86 * wide, 0.3),
            (-wide, -0.16),
            (-0.62 * wide, -0.66),
        ]
    )
    pen.curve(
        [
            (0, -1.02),
            (0.4 * wide, -0.82),
            (0.66 * wide, -0.6),
            (0, -0.54),
            (-0.66 * wide, -0.6),
            (-0.4 * wide, -0.82),
        ],
        ink.accent,
    )
    _portholes(pen, ink, dice)
    pen.poly(
        [
            (-0.6 * wide, base - 0.06),
            (0.6 * wide, base - 0.06),
            (0.5 * wide, base + 0.06),
            (-0.5 * wide, base + 0.06),
        ],
        ink.deep,
    )
    pen.curve([(-0.05, 0.1), (0.05, 0.1), (0.06, base + 0.12), (-0.06, base + 0.12)], ink.accent_dark)
    pen.glow(0, base + 0.3, 0.7, (255, 190, 100), 0.7 if ink.lit else 0.35)


def _portholes(pen: Pen, ink: Ink, dice: Dice) -> None:
    windows = (-0.24,) if dice.chance(0.6) else (-0.3, 0.06)
    for y in windows:
        r = 0.17 if len(windows) == 1 else 0.13
        pen.oval(0, y, r + 0.05, r + 0.05, ink.grey)
        pen.oval(0, y, r, r, ink.pane)
        pen.oval(-0.3 * r, y - 0.3 * r, 0.3 * r, 0.3 * r, (255, 255, 255))
