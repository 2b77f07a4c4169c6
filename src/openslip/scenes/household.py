"""How the things of the house are drawn. Frame: x and y from -1 to 1, y down; the foot is at y = 1."""

from __future__ import annotations

import math

from openslip.scenes.draw import Pen, bend, mix
from openslip.scenes.ink import Ink
from openslip.scenes.world import LAMPLIGHT, Dice


def umbrella(pen: Pen, ink: Ink, dice: Dice) -> None:
    """An open umbrella with a crook, or a parasol on its pole."""
    brim, gores = dice.between(-0.05, 0.15), 3 + dice.below(3)
    pen.line([(0, -0.96), (0, -0.8)], 0.045, ink.bark)
    if dice.chance(0.7):
        pen.line([(0, brim - 0.2), (0, 0.8), (0.06, 0.95), (0.18, 0.96), (0.24, 0.82)], 0.06, ink.bark)
    else:
        pen.line([(0, brim - 0.2), (0, 1.0)], 0.07, ink.cream)
    dome = [
        (-0.96, brim),
        (-0.86, -0.36),
        (-0.5, -0.72),
        (0, -0.86),
        (0.5, -0.72),
        (0.86, -0.36),
        (0.96, brim),
    ]
    hem = []
    for k in range(gores):
        x1, x0 = 0.96 - 1.92 * k / gores, 0.96 - 1.92 * (k + 1) / gores
        hem += [
            ((x0 + x1) / 2 + (x1 - x0) * t, brim - 0.16 * (1 - 4 * t * t)) for t in (0.25, 0.0, -0.25)
        ] + [(x0, brim)]
    pen.poly([*dome, *((x, y + 0.06) for x, y in hem)], ink.deep)
    pen.body([*dome, *hem])
    for k in range(gores + 1):
        x = -0.96 + 1.92 * k / gores
        rib = [
            (0, -0.86),
            (0.62 * x, -0.86 + (brim + 0.86) * 0.28),
            (0.9 * x, -0.86 + (brim + 0.86) * 0.62),
            (x, brim),
        ]
        if pen.fabric is None and k % 2 and k < gores:
            step = 1.92 / gores
            other = [(px + step * (0.0, 0.62, 0.9, 1.0)[j], py) for j, (px, py) in enumerate(rib)]
            pen.poly([*rib, (x + step / 2, brim - 0.14), *reversed(other)], ink.mark)
        pen.line(rib, 0.022, ink.dark)


def teapot(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A round teapot, steaming sometimes."""
    tall, wide = dice.between(0.52, 0.66), dice.between(0.56, 0.66)
    mid = 0.94 - tall
    lid = mid - tall
    if dice.chance(0.5):
        for k in (-1, 0, 1):
            wave = [(-0.96 + 0.13 * k + 0.05 * math.sin(1.7 * j + k), mid - 0.52 - 0.1 * j) for j in range(5)]
            pen.line(bend(wave), 0.035, ink.cream)
    grip = [
        (0.8 * wide, mid - 0.34),
        (0.9, mid - 0.38),
        (1.02, mid - 0.08),
        (0.92, mid + 0.24),
        (0.75 * wide, mid + 0.36),
    ]
    pen.line(bend(grip), 0.13, ink.accent)
    pen.curve(
        [
            (-0.7 * wide, mid - 0.06),
            (-0.8, mid - 0.2),
            (-0.88, mid - 0.44),
            (-1.02, mid - 0.4),
            (-0.96, mid),
            (-0.6 * wide, mid + 0.42),
        ],
        ink.dark,
    )
    pen.oval(0, 0.95, 0.62 * wide, 0.075, ink.accent_dark)
    pen.body_oval(0, mid, wide, tall)
    pen.oval(0, lid - 0.1, 0.085, 0.085, ink.accent)
    pen.curve(
        [
            (-0.62 * wide, lid + 0.1),
            (-0.3 * wide, lid - 0.04),
            (0.3 * wide, lid - 0.04),
            (0.62 * wide, lid + 0.1),
            (0, lid + 0.15),
        ],
        ink.accent,
    )
    if pen.fabric is None:
        if dice.chance(0.5):
            for k in range(6):
                turn = k * math.tau / 6
                pen.oval(0.14 * math.cos(turn), mid + 0.05 + 0.14 * math.sin(turn), 0.1, 0.1, ink.mark)
            pen.oval(0, mid + 0.05, 0.08, 0.08, ink.gold)
        else:
            pen.curve(
                [
                    (-wide, mid + 0.02),
                    (0, mid + 0.14),
                    (wide, mid + 0.02),
                    (0.97 * wide, mid + 0.2),
                    (0, mid + 0.34),
                    (-0.97 * wide, mid + 0.2),
                ],
                ink.mark,
            )
    pen.oval(-0.42 * wide, mid - 0.36 * tall, 0.09, 0.15, ink.pale, 0.5)


def lamp(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A table lamp, a standing lamp or a desk lamp; lit in the dark and often by day."""
    on = ink.lit or dice.chance(0.4)
    bulb = LAMPLIGHT if on else ink.cream
    form = dice.below(4)
    if form == 3:
        pen.oval(0.3, 0.95, 0.42, 0.08, ink.dark)
        pen.line([(0.3, 0.92), (0.62, 0.1), (-0.1, -0.6)], 0.08, ink.accent)
        pen.oval(0.62, 0.1, 0.085, 0.085, ink.accent_dark)
        pen.oval(-0.52, -0.14, 0.2, 0.2, bulb)
        pen.body([(-0.06, -0.84), (0.14, -0.5), (-0.3, 0.12), (-0.92, -0.24)])
        light = (-0.6, 0.1)
    else:
        top, brim, wide = -0.96, dice.between(-0.1, 0.1), dice.between(0.52, 0.72)
        neck = dice.between(0.3, 0.9) * wide
        foot = ink.accent if dice.chance(0.6) else ink.wood
        if form == 0:
            pen.line([(0, brim), (0, 0.94)], 0.08, foot)
        elif form == 1:
            pen.curve(
                [(-0.08, 0.1), (0.08, 0.1), (0.36, 0.52), (0.22, 0.92), (-0.22, 0.92), (-0.36, 0.52)], foot
            )
        else:
            for y in (0.2, 0.46, 0.74):
                pen.oval(0, y, 0.12 + 0.18 * y, 0.15, foot)
        pen.curve([(-0.4, 0.98), (-0.3, 0.88), (0.3, 0.88), (0.4, 0.98), (0, 1.02)], foot)
        pen.oval(0, brim, 0.16, 0.13, bulb)
        pen.body([(-neck, top), (neck, top), (wide, brim), (-wide, brim)])
        pen.line([(-wide, brim), (wide, brim)], 0.05, ink.accent_dark)
        pen.line([(-neck, top), (neck, top)], 0.04, ink.accent_dark)
        pen.line([(0.4 * wide, brim), (0.4 * wide, brim + 0.26)], 0.02, ink.gold)
        light = (0.0, brim)
    if on:
        pen.glow(*light, 1.3, LAMPLIGHT, 0.9 if ink.lit else 0.55)


def guitar(pen: Pen, ink: Ink, dice: Dice) -> None:
    """An acoustic or an electric guitar, upright."""
    waist, hips = dice.between(0.22, 0.3), dice.between(0.42, 0.54)
    neck, head = ink.bark, ink.deep if dice.chance(0.5) else ink.accent_dark
    pen.poly([(-0.1, -1.0), (0.1, -1.0), (0.08, -0.72), (-0.08, -0.72)], head)
    for k in range(3):
        for s in (-1, 1):
            pen.oval(s * 0.125, -0.95 + 0.09 * k, 0.035, 0.026, ink.cream)
    electric = dice.chance(0.35)
    if electric:
        outline = [
            (-0.12, 0.1),
            (-0.44, -0.14),
            (-0.46, 0.1),
            (-waist, 0.42),
            (-hips, 0.76),
            (-0.3, 1.0),
            (0.24, 0.98),
            (hips, 0.72),
            (waist, 0.42),
            (0.4, 0.0),
            (0.3, -0.04),
            (0.12, 0.16),
        ]
    else:
        high = hips * dice.between(0.72, 0.84)
        outline = [
            (0, 0.0),
            (-0.7 * high, 0.03),
            (-high, 0.2),
            (-waist, 0.42),
            (-hips, 0.7),
            (-0.62 * hips, 0.97),
            (0, 1.0),
            (0.62 * hips, 0.97),
            (hips, 0.7),
            (waist, 0.42),
            (high, 0.2),
            (0.7 * high, 0.03),
        ]
    pen.curve([(x * 1.09, 0.5 + (y - 0.5) * 1.05) for x, y in outline], ink.deep)
    pen.body_curve(outline)
    if electric:
        pen.curve([(-0.16, 0.2), (0.2, 0.2), (0.34, 0.7), (0.1, 0.86), (-0.12, 0.7)], ink.cream)
        for y in (0.4, 0.58):
            pen.line([(-0.1, y), (0.1, y)], 0.07, ink.black)
    else:
        pen.oval(0, 0.36, 0.17, 0.17, ink.gold)
        pen.oval(0, 0.36, 0.14, 0.14, mix(ink.black, ink.deep, 0.4))
    pen.poly([(-0.065, -0.74), (0.065, -0.74), (0.075, 0.28), (-0.075, 0.28)], neck)
    for k in range(6):
        y = -0.66 + 0.14 * k
        pen.line([(-0.06, y), (0.06, y)], 0.014, ink.grey)
    pen.line([(-0.17, 0.76), (0.17, 0.76)], 0.07, ink.bark)
    for x in (-0.04, 0.0, 0.04):
        pen.line([(x, -0.9), (x, 0.76)], 0.01, ink.cream)
