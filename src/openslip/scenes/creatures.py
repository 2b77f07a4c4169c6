"""How the animals are drawn. Frame: x and y from -1 to 1, y down; what stands touches y = 1."""

from __future__ import annotations

import math

from openslip.scenes.draw import Pen, bend
from openslip.scenes.ink import Ink
from openslip.scenes.world import Colour, Dice


def _eye(pen: Pen, ink: Ink, x: float, y: float, r: float, white: bool = True) -> None:
    """Draw an open eye with a glint."""
    if white:
        pen.oval(x, y, r, r, ink.cream)
        r *= 0.62
    pen.oval(x, y, r, r, ink.black)
    pen.oval(x - 0.3 * r, y - 0.35 * r, 0.32 * r, 0.32 * r, (255, 255, 255))


def fish(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A fish in profile."""
    tall, tail = dice.between(0.34, 0.68), dice.between(0.28, 0.6)
    wag = dice.between(-0.12, 0.12)
    fork = dice.pick((0.62, 0.8, 0.95))
    pen.curve(
        [
            (0.45, 0),
            (0.82, -tail + wag),
            (1.0, -tail + wag),
            (fork, wag),
            (1.0, tail + wag),
            (0.82, tail + wag),
        ],
        ink.accent,
    )
    pen.curve(
        [(-0.35, -0.6 * tall), (0.0, -tall - 0.26), (0.3, -tall - 0.16), (0.35, -0.4 * tall)], ink.accent
    )
    pen.curve(
        [(-0.05, 0.6 * tall), (0.12, tall + 0.2), (0.3, tall + 0.12), (0.25, 0.4 * tall)], ink.accent_dark
    )
    pen.body_curve(
        [
            (-1.0, 0.02),
            (-0.7, -0.66 * tall),
            (-0.2, -tall),
            (0.3, -0.6 * tall),
            (0.62, -0.08),
            (0.62, 0.1),
            (0.3, 0.6 * tall),
            (-0.2, tall),
            (-0.7, 0.66 * tall),
        ]
    )
    pen.arc(-0.86, 0, 0.48, -0.13, 0.13, 0.05, ink.dark)
    pen.curve([(-0.2, 0.1), (0.12, 0.08), (0.2, 0.34 * tall + 0.2), (-0.05, 0.3)], ink.accent_dark)
    _eye(pen, ink, -0.66, -0.14 * tall - 0.04, 0.11)
    pen.line([(-0.96, 0.14), (-0.84, 0.16)], 0.035, ink.deep)


def bird(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A songbird, flying or perched."""
    flying = dice.chance(0.55)
    span = dice.between(0.7, 1.0)
    plump, lift = dice.between(0.36, 0.52), dice.between(-0.15, 0.1)
    pen.curve(
        [(0.3, 0.1), (0.7, 0.0 + lift), (1.0, -0.12 + lift), (0.98, 0.1 + lift), (0.7, 0.22), (0.35, 0.35)],
        ink.dark,
    )
    if flying:
        pen.curve([(-0.2, -0.1), (0.05, -span), (0.35, -0.9 * span), (0.4, -0.1)], ink.deep)
    else:
        for x in (-0.02, 0.14):
            pen.line([(x, 0.5), (x - 0.02, 0.95), (x - 0.14, 1.0)], 0.045, ink.gold)
    pen.body_curve(
        [
            (-0.72, -0.22),
            (-0.6, -0.5),
            (-0.3, -0.44),
            (0.1, -0.3),
            (0.5, 0.02),
            (0.3, 0.3 + 0.3 * plump),
            (-0.1, 0.2 + plump),
            (-0.5, 0.26),
        ]
    )
    pen.curve(
        [(-0.6, 0.0), (-0.3, 0.05), (0.05, 0.42 + 0.3 * plump), (-0.12, 0.18 + plump), (-0.46, 0.26)],
        ink.pale,
    )
    pen.poly([(-0.7, -0.32), (-1.0, -0.2), (-0.68, -0.12)], ink.gold)
    if flying:
        pen.curve(
            [(-0.2, -0.02), (0.1, -0.62 * span), (0.5, -0.86 * span), (0.52, -0.4), (0.3, 0.08)],
            ink.accent if dice.chance(0.3) else ink.dark,
        )
    else:
        pen.curve(
            [(-0.24, -0.06), (0.1, -0.16), (0.44, 0.0), (0.72, 0.18), (0.3, 0.3), (-0.08, 0.22)], ink.dark
        )
        pen.curve([(0.0, 0.06), (0.3, 0.06), (0.52, 0.14), (0.24, 0.2)], ink.mark)
    _eye(pen, ink, -0.5, -0.27, 0.07, white=False)
    if dice.chance(0.3):
        pen.curve([(-0.5, -0.44), (-0.46, -0.72), (-0.3, -0.66), (-0.34, -0.44)], ink.accent)


def butterfly(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A butterfly seen from above, wings more or less open."""
    fold = dice.between(0.72, 1.06)
    high, low = dice.between(0.66, 0.95), dice.between(0.5, 0.85)
    for s in (-1, 1):
        wide = s * (fold if s < 0 else dice.between(0.85, 1.0) * fold)
        lower = [
            (0.05 * s, 0.0),
            (0.62 * wide, 0.02),
            (0.72 * wide, low * 0.6),
            (0.4 * wide, low),
            (0.1 * s, 0.34),
        ]
        pen.curve([(x * 1.08, y * 1.08) for x, y in lower], ink.deep)
        pen.curve(lower, ink.accent)
        pen.oval(0.42 * wide, 0.55 * low, 0.13 * fold, 0.15, ink.accent_dark)
        upper = [
            (0.04 * s, -0.02),
            (0.2 * wide, -0.5),
            (0.72 * wide, -high),
            (0.98 * wide, -0.66 * high),
            (0.72 * wide, 0.02),
        ]
        pen.curve([(x * 1.06, y * 1.05) for x, y in upper], ink.deep)
        pen.body_curve(upper)
        pen.oval(0.68 * wide, -0.5 * high, 0.12 * fold, 0.13, ink.pale)
    pen.oval(0, 0.02, 0.085, 0.42, ink.black)
    pen.oval(0, -0.4, 0.11, 0.11, ink.black)
    for s in (-1, 1):
        pen.line([(0.03 * s, -0.46), (0.12 * s, -0.74), (0.28 * s, -0.86)], 0.035, ink.black)


def cat(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A cat, sitting up or lying like a loaf."""
    sitting = dice.chance(0.6)
    patch, curl = ink.cream if dice.chance(0.6) else ink.light, dice.between(-0.2, 0.2)
    if sitting:
        pen.line(bend([(0.4, 0.86), (0.8, 0.8), (0.9, 0.4 + curl), (0.72, 0.16 + curl)]), 0.17, ink.dark)
        pen.body_curve(
            [(-0.3, -0.2), (0.3, -0.2), (0.5, 0.5), (0.56, 0.98), (0, 1.02), (-0.56, 0.98), (-0.5, 0.5)]
        )
        pen.curve([(-0.16, 0.0), (0.16, 0.0), (0.2, 0.5), (0, 0.7), (-0.2, 0.5)], patch)
        for x in (-0.18, 0.18):
            pen.oval(x, 0.92, 0.17, 0.1, patch)
            pen.line([(0.5 * x, 0.5), (0.6 * x, 0.86)], 0.03, ink.dark)
        hx, hy = dice.between(-0.1, 0.1), -0.42
    else:
        pen.line(bend([(0.6, 0.86), (0.92, 0.76), (0.94, 0.4 + curl), (0.74, 0.26)]), 0.17, ink.dark)
        pen.body_curve(
            [
                (-0.8, 0.5),
                (-0.4, 0.12),
                (0.3, 0.06),
                (0.78, 0.34),
                (0.86, 0.84),
                (0.6, 1.0),
                (-0.7, 1.0),
                (-0.9, 0.84),
            ]
        )
        for x in (-0.5, 0.3):
            pen.oval(x, 0.95, 0.2, 0.09, patch)
        hx, hy = -0.46, -0.02
    _cat_head(pen, ink, dice, hx, hy, patch)


def _cat_head(pen: Pen, ink: Ink, dice: Dice, hx: float, hy: float, patch: Colour) -> None:
    for s in (-1, 1):
        tip = 0.92 + dice.between(-0.08, 0.08)
        pen.poly(
            [(hx + 0.44 * s, hy - 0.02), (hx + 0.4 * s, hy - tip * 0.62), (hx + 0.06 * s, hy - 0.34)],
            ink.dark,
        )
        pen.poly(
            [(hx + 0.37 * s, hy - 0.1), (hx + 0.36 * s, hy - tip * 0.48), (hx + 0.14 * s, hy - 0.3)], ink.rose
        )
    pen.body_curve(
        [
            (hx - 0.46, hy + 0.02),
            (hx - 0.3, hy - 0.34),
            (hx + 0.3, hy - 0.34),
            (hx + 0.46, hy + 0.02),
            (hx + 0.26, hy + 0.34),
            (hx - 0.26, hy + 0.34),
        ]
    )
    pen.oval(hx, hy + 0.18, 0.2, 0.13, patch)
    asleep = dice.chance(0.25)
    for s in (-1, 1):
        if asleep:
            pen.arc(hx + 0.2 * s, hy - 0.06, 0.09, 0.05, 0.45, 0.035, ink.black)
        else:
            pen.oval(hx + 0.2 * s, hy - 0.03, 0.09, 0.1, ink.gold if dice.chance(0.5) else ink.leaf)
            pen.oval(hx + 0.2 * s, hy - 0.03, 0.04, 0.09, ink.black)
        for k in (-0.05, 0.05):
            pen.line(
                [(hx + 0.2 * s, hy + 0.17 + 0.5 * k), (hx + 0.56 * s, hy + 0.15 + 1.6 * k)], 0.016, ink.cream
            )
    pen.poly([(hx - 0.06, hy + 0.1), (hx + 0.06, hy + 0.1), (hx, hy + 0.17)], ink.rose)


def owl(pen: Pen, ink: Ink, dice: Dice) -> None:
    """An owl from the front, on a branch or on its feet."""
    wide, tuft = dice.between(0.56, 0.74), dice.between(0.1, 0.28)
    for x in (-0.2, 0.2):
        for k in (-0.08, 0.0, 0.08):
            pen.line([(x, 0.86), (x + k, 0.98)], 0.06, ink.gold)
    if dice.chance(0.5):
        pen.line([(-1.0, 0.95), (-0.3, 1.0), (0.9, 0.9)], 0.11, ink.bark)
        pen.curve([(0.7, 0.9), (0.86, 0.68), (1.0, 0.72), (0.9, 0.9)], ink.leaf)
    pen.body_curve(
        [
            (-0.5 * wide, -0.84),
            (0, -0.78),
            (0.5 * wide, -0.84),
            (wide, -0.4),
            (wide, 0.3),
            (0.5 * wide, 0.88),
            (-0.5 * wide, 0.88),
            (-wide, 0.3),
            (-wide, -0.4),
        ]
    )
    for s in (-1, 1):
        pen.poly(
            [(s * wide * 0.25, -0.8), (s * wide * 0.82, -0.86 - tuft), (s * wide * 0.9, -0.52)], ink.dark
        )
    pen.curve(
        [
            (-0.5 * wide, 0.1),
            (0, -0.02),
            (0.5 * wide, 0.1),
            (0.48 * wide, 0.6),
            (0, 0.86),
            (-0.48 * wide, 0.6),
        ],
        ink.pale,
    )
    for row in range(3):
        for k in range(-1 + (row == 2), 2 - (row == 2)):
            x, y = 0.27 * wide * k * 1.1 + 0.13 * wide * (row % 2), 0.2 + 0.18 * row
            pen.line([(x - 0.07, y), (x, y + 0.07), (x + 0.07, y)], 0.035, ink.dark)
    flap = dice.between(0.0, 0.28)
    for s in (-1, 1):
        pen.curve(
            [
                (s * 0.8 * wide, -0.3),
                (s * (wide + 0.1 + flap), 0.1),
                (s * (0.95 * wide + flap), 0.6),
                (s * 0.62 * wide, 0.2),
            ],
            ink.dark,
        )
        pen.oval(s * 0.28, -0.42, 0.3, 0.3, ink.cream)
        pen.oval(s * 0.27, -0.42, 0.19, 0.19, ink.gold)
        _eye(pen, ink, s * 0.26, -0.42, 0.13, white=False)
    pen.poly([(-0.09, -0.3), (0.09, -0.3), (0, -0.1)], ink.accent)


def snail(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A snail with its house on its back."""
    skin: Colour = ink.cream if dice.chance(0.5) else ink.gold
    reach, r = dice.between(0.1, 0.35), dice.between(0.5, 0.64)
    for s, tip in ((-0.12, -0.08), (0.02, 0.06)):
        pen.line([(-0.66 + s, 0.2), (-0.74 + tip + 2 * s, -0.2 - reach)], 0.07, skin)
        pen.oval(-0.74 + tip + 2 * s, -0.22 - reach, 0.075, 0.075, ink.black)
    pen.curve(
        [
            (-0.96, 0.3),
            (-0.8, 0.06),
            (-0.52, 0.2),
            (-0.4, 0.66),
            (0.3, 0.74),
            (1.0, 0.98),
            (0.2, 1.02),
            (-0.66, 1.0),
            (-0.88, 0.7),
        ],
        skin,
    )
    pen.line([(-0.9, 0.46), (-0.78, 0.5)], 0.04, ink.bark)
    cx, cy = 0.16, 0.84 - r
    pen.oval(cx, cy, r + 0.05, r + 0.05, ink.dark)
    pen.body_oval(cx, cy, r, r)
    turns = dice.between(1.7, 2.4)
    spiral = [
        (
            cx + r * (1 - k / 26) * math.cos(k * turns * math.tau / 24),
            cy + r * (1 - k / 26) * math.sin(k * turns * math.tau / 24),
        )
        for k in range(25)
    ]
    pen.line(spiral, 0.075, ink.deep)
    pen.oval(cx, cy, 0.09, 0.09, ink.deep)
