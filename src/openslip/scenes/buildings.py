"""How the buildings are drawn. Frame: x and y from -1 to 1, y down; the foot is at y = 1."""

from __future__ import annotations

from openslip.scenes.draw import Pen
from openslip.scenes.ink import Ink
from openslip.scenes.world import LAMPLIGHT, Colour, Dice


def _box(pen: Pen, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    pen.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)


def _window(pen: Pen, ink: Ink, x: float, y: float, r: float) -> None:
    """Draw a barred window, lit in the dark."""
    _box(pen, x - r - 0.03, y - 1.15 * r - 0.03, x + r + 0.03, y + 1.15 * r + 0.03, ink.cream)
    _box(pen, x - r, y - 1.15 * r, x + r, y + 1.15 * r, ink.pane)
    pen.line([(x, y - 1.15 * r), (x, y + 1.15 * r)], 0.03, ink.cream)
    pen.line([(x - r, y), (x + r, y)], 0.03, ink.cream)
    if ink.lit:
        pen.glow(x, y, 3.2 * r, LAMPLIGHT, 0.5)


def _arch(pen: Pen, x: float, top: float, foot: float, r: float, colour: Colour) -> None:
    pen.oval(x, top + r, r, r, colour)
    _box(pen, x - r, top + r, x + r, foot, colour)


def house(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A cottage with one or two floors."""
    wide, floors = dice.between(0.6, 0.86), 1 + dice.chance(0.35)
    eaves = 0.1 if floors == 1 else -0.2
    top = eaves - dice.between(0.45, 0.75)
    roof = ink.accent_dark if dice.chance(0.6) else ink.deep
    s = dice.pick((-1, 1))
    _box(pen, s * 0.5 * wide - 0.1, top, s * 0.5 * wide + 0.1, eaves, ink.bark)
    if dice.chance(0.5):
        for k in range(3):
            pen.oval(
                s * 0.5 * wide + 0.1 * k * k * s,
                top - 0.1 - 0.14 * k,
                0.09 + 0.04 * k,
                0.07 + 0.03 * k,
                ink.cream,
            )
    pen.body([(-wide, 1.0), (-wide, eaves), (wide, eaves), (wide, 1.0)])
    if dice.chance(0.6):
        pen.body([(-wide, eaves + 0.02), (0, top + 0.06), (wide, eaves + 0.02)])
        pen.line([(-wide - 0.14, eaves + 0.08), (0, top), (wide + 0.14, eaves + 0.08)], 0.15, roof)
        pen.oval(0, 0.45 * (eaves + top) + 0.06, 0.11, 0.11, ink.cream)
        pen.oval(0, 0.45 * (eaves + top) + 0.06, 0.08, 0.08, ink.pane)
    else:
        pen.poly(
            [
                (-wide - 0.16, eaves + 0.05),
                (-0.6 * wide, top),
                (0.6 * wide, top),
                (wide + 0.16, eaves + 0.05),
            ],
            roof,
        )
        for k in range(1, 4):
            y = top + (eaves + 0.05 - top) * k / 4
            pen.line([(-0.6 * wide - 0.1 * k * wide, y), (0.6 * wide + 0.1 * k * wide, y)], 0.02, ink.deep)
    door = s * -0.4 * wide if dice.chance(0.6) else 0.0
    _box(pen, door - 0.16, 0.5, door + 0.16, 1.0, ink.cream)
    _box(pen, door - 0.125, 0.535, door + 0.125, 1.0, ink.accent)
    pen.oval(door + 0.07, 0.78, 0.025, 0.025, ink.gold)
    for level in range(floors):
        for x in (-0.55 * wide, 0.0, 0.55 * wide):
            if level > 0 or abs(x - door) > 0.3:
                _window(pen, ink, x, 0.62 - 0.48 * level, 0.12)


def tent(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A ridge tent from the side, or a tipi."""
    opening = LAMPLIGHT if ink.lit else ink.deep
    if dice.chance(0.55):
        top, shift = -dice.between(0.35, 0.6), dice.between(0.1, 0.3)
        pen.poly([(-0.35, top), (0.5, top + 0.08), (1.0, 1.0), (0.1, 1.0)], ink.dark)
        pen.body([(-0.35, top), (0.5, top + 0.08), (0.98, 1.0), (0.22, 1.0)])
        pen.poly([(-0.35, top), (-1.0, 1.0), (0.24, 1.0)], ink.light)
        pen.poly([(-0.35, top + 0.14), (-0.35 - shift, 1.0), (-0.35 + shift + 0.1, 1.0)], opening)
        pen.curve([(-0.36, top + 0.12), (-0.3 - shift, 0.96), (-0.5 - shift, 0.96)], ink.accent)
        pen.line([(-0.35, top - 0.12), (-0.35, top + 0.06)], 0.045, ink.bark)
        pen.line([(-0.92, 0.8), (-1.02, 1.0)], 0.03, ink.cream)
        flag = top - 0.12
        glow = (-0.3, 0.7)
    else:
        wide = dice.between(0.6, 0.8)
        for s in (-0.22, -0.05, 0.2):
            pen.line([(-s * 0.4, -0.6), (s, -1.0)], 0.05, ink.bark)
        pen.body([(0, -0.74), (wide, 1.0), (0.2, 1.04), (-0.2, 1.04), (-wide, 1.0)])
        pen.poly([(0, -0.74), (0.3 * wide, -0.25), (0, -0.2), (-0.3 * wide, -0.25)], ink.accent)
        pen.poly([(0, 0.2), (0.24, 1.03), (-0.24, 1.03)], opening)
        pen.poly([(0, 0.2), (-0.24, 1.03), (-0.4, 0.98)], ink.accent_dark)
        flag = 0.0
        glow = (0.0, 0.7)
    if flag and dice.chance(0.5):
        pen.poly([(-0.35, flag - 0.02), (-0.06, flag + 0.07), (-0.35, flag + 0.16)], ink.accent)
    if ink.lit:
        pen.glow(*glow, 0.9, LAMPLIGHT, 0.7)


def lighthouse(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A lighthouse; its lamp burns in the dark."""
    foot, neck = dice.between(0.34, 0.46), dice.between(0.2, 0.27)
    pen.curve([(-0.75, 1.02), (-0.5, 0.86), (0.0, 0.8), (0.5, 0.86), (0.75, 1.02)], ink.grey)
    if dice.chance(0.4):
        _box(pen, 0.2, 0.6, 0.76, 0.95, ink.cream)
        pen.poly([(0.14, 0.62), (0.48, 0.36), (0.82, 0.62)], ink.accent_dark)
        _box(pen, 0.5, 0.7, 0.62, 0.84, ink.pane)
    pen.body([(-foot, 0.94), (-neck, -0.46), (neck, -0.46), (foot, 0.94)])
    if pen.fabric is None:
        bands = 2 + dice.below(2)
        for k in range(bands):
            y0, y1 = -0.46 + 1.4 * (2 * k + 1) / (2 * bands + 1), -0.46 + 1.4 * (2 * k + 2) / (2 * bands + 1)
            w0, w1 = (neck + (foot - neck) * (y + 0.46) / 1.4 for y in (y0, y1))
            pen.poly([(-w0, y0), (w0, y0), (w1, y1), (-w1, y1)], ink.mark)
    for y in (-0.1, 0.36):
        _arch(pen, 0.0, y, y + 0.2, 0.06, ink.pane)
    _arch(pen, 0.0, 0.66, 0.94, 0.1, ink.bark)
    _box(pen, -neck - 0.12, -0.52, neck + 0.12, -0.44, ink.black)
    _box(pen, -0.75 * neck, -0.76, 0.75 * neck, -0.5, LAMPLIGHT if ink.lit else ink.pane)
    for x in (-0.75, -0.25, 0.25, 0.75):
        pen.line([(x * neck, -0.76), (x * neck, -0.5)], 0.028, ink.black)
    pen.curve(
        [(-neck, -0.75), (-0.6 * neck, -0.92), (0, -1.0), (0.6 * neck, -0.92), (neck, -0.75)], ink.accent_dark
    )
    if ink.lit:
        pen.glow(0, -0.63, 1.3, LAMPLIGHT, 0.95)


def castle(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A castle of three to five towers."""
    pointed, roof = dice.chance(0.65), ink.accent if dice.chance(0.7) else ink.deep
    towers = [(0.0, 0.26, -dice.between(0.45, 0.62))] if dice.chance(0.7) else []
    side = dice.between(0.1, 0.4)
    for x, w, y in (*towers, (-0.42, 0.15, -0.1), (0.42, 0.15, -0.1)):
        _tower(pen, ink, x, w, y, pointed, roof, flag=dice.chance(0.5))
    pen.body([(-0.62, 1.0), (-0.62, side), (0.62, side), (0.62, 1.0)])
    for k in range(6):
        x = -0.62 + 1.24 * k / 5.5
        pen.body([(x, side + 0.01), (x, side - 0.1), (x + 0.12, side - 0.1), (x + 0.12, side + 0.01)])
    for s in (-1, 1):
        _tower(
            pen,
            ink,
            s * 0.74,
            dice.between(0.18, 0.24),
            -dice.between(0.05, 0.4),
            pointed,
            roof,
            flag=dice.chance(0.4),
        )
    _arch(pen, 0.0, 0.48, 1.0, 0.2, ink.deep)
    _arch(pen, 0.0, 0.54, 1.0, 0.15, ink.bark)
    for x in (-0.36, 0.36):
        _arch(pen, x, side + 0.14, side + 0.34, 0.06, ink.pane)
        if ink.lit:
            pen.glow(x, side + 0.24, 0.3, LAMPLIGHT, 0.5)


def _tower(
    pen: Pen, ink: Ink, x: float, w: float, top: float, pointed: bool, roof: Colour, flag: bool
) -> None:
    pen.body([(x - w, 1.0), (x - w, top), (x + w, top), (x + w, 1.0)])
    pen.poly([(x + 0.55 * w, 1.0), (x + 0.55 * w, top), (x + w, top), (x + w, 1.0)], ink.dark)
    peak = top - 2.0 * w
    if pointed:
        pen.poly([(x - w - 0.06, top), (x, peak), (x + w + 0.06, top)], roof)
    else:
        peak = top - 0.15
        for k in (-1, -0.25, 0.5):
            pen.body(
                [
                    (x + k * w, top + 0.01),
                    (x + k * w, top - 0.13),
                    (x + (k + 0.5) * w, top - 0.13),
                    (x + (k + 0.5) * w, top + 0.01),
                ]
            )
    if flag:
        pen.line([(x, peak + 0.05), (x, peak - 0.2)], 0.025, ink.bark)
        pen.poly([(x, peak - 0.2), (x + 0.2, peak - 0.14), (x, peak - 0.07)], ink.mark)
    _arch(pen, x, top + 0.12, top + 0.3, 0.055, ink.pane)
