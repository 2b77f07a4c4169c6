"""How the plants are drawn. Frame: x and y from -1 to 1, y down; the foot is at y = 1."""

from __future__ import annotations

import math

from openslip.scenes.draw import Pen, bend
from openslip.scenes.ink import Ink
from openslip.scenes.world import Dice


def tree(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A broad-leaved tree, with fruit sometimes."""
    lean, wide = dice.between(-0.14, 0.14), dice.between(0.5, 0.78)
    pen.poly([(-0.13, 1.0), (lean - 0.08, 0.0), (lean + 0.08, 0.0), (0.13, 1.0)], ink.bark)
    pen.line([(0.0, 0.6), (lean + 0.36, 0.12)], 0.08, ink.bark)
    pen.line([(0.0, 0.5), (lean - 0.36, 0.1)], 0.07, ink.bark)
    form = dice.below(3)
    if form == 0:
        puffs = [(0, -0.5, 0.5), (-0.5, -0.16, 0.4), (0.5, -0.16, 0.4), (0, -0.1, 0.46)]
    elif form == 1:
        puffs = [(0, -0.3, 0.68), (0.1, -0.5, 0.48)]
    else:
        puffs = [
            (-0.3, -0.56, 0.36),
            (0.34, -0.48, 0.38),
            (-0.55, -0.1, 0.34),
            (0.56, -0.06, 0.34),
            (0, -0.14, 0.44),
        ]
    puffs = [(lean + x * wide * 1.4, y, r * dice.between(0.85, 1.12)) for x, y, r in puffs]
    for x, y, r in puffs:
        pen.oval(x, y + 0.07, r, r * 0.96, ink.dark)
    for x, y, r in puffs:
        pen.body_oval(x, y, r * 0.96, r * 0.9)
    for _ in range(7):
        x, y, r = dice.pick(puffs)
        pen.oval(x + r * dice.between(-0.6, 0.4), y + r * dice.between(-0.6, 0.4), 0.1, 0.045, ink.light)
    if dice.chance(0.4):
        for _ in range(7):
            x, y, r = dice.pick(puffs)
            pen.oval(
                x + 0.65 * r * dice.between(-1, 1),
                y + 0.65 * r * dice.between(-1, 1),
                0.065,
                0.065,
                ink.accent,
            )


def pine(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A conifer in tiers, with snow or ornaments sometimes."""
    tiers, wide, snowy = 3 + dice.below(3), dice.between(0.5, 0.78), dice.chance(0.35)
    pen.poly([(-0.1, 1.0), (-0.08, 0.5), (0.08, 0.5), (0.1, 1.0)], ink.bark)
    for k in reversed(range(tiers)):
        top = -1.0 + 1.1 * k / tiers
        low = top + 1.76 - 1.1 * (tiers - 1) / tiers
        w = wide * (0.4 + 0.6 * (k + 1) / tiers)
        skirt = [(w * (1 - j / 3), low + (0.05 if j % 2 else -0.04)) for j in range(7)]
        pen.poly([(0, top + 0.06), *((x * 1.02, y + 0.06) for x, y in skirt)], ink.deep)
        pen.body([(0, top), *skirt])
        pen.poly([(0, top), (-w, low - 0.04), (-0.55 * w, low + 0.02)], ink.light)
        if snowy:
            pen.curve(
                [
                    (0, top - 0.02),
                    (0.3 * w, top + 0.3 * (low - top)),
                    (0, top + 0.22 * (low - top)),
                    (-0.34 * w, top + 0.4 * (low - top)),
                ],
                ink.cream,
            )
    if dice.chance(0.3):
        for _ in range(9):
            y = dice.between(-0.5, 0.7)
            x = 0.62 * wide * (y + 1) / 1.8 * dice.between(-1, 1)
            pen.oval(x, y, 0.06, 0.06, ink.accent if dice.chance(0.6) else ink.gold)
        star = [
            (
                0.17 * (1 - 0.55 * (j % 2)) * math.sin(j * math.pi / 5),
                -0.96 - 0.17 * (1 - 0.55 * (j % 2)) * math.cos(j * math.pi / 5),
            )
            for j in range(10)
        ]
        pen.poly(star, ink.gold)
        if ink.lit:
            pen.glow(0, -0.96, 0.5, (255, 220, 130), 0.6)


def cactus(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A columnar cactus with arms, or a round one; in a pot sometimes."""
    foot = 1.0
    if dice.chance(0.3):
        pen.poly([(-0.4, 0.56), (0.4, 0.56), (0.3, 1.0), (-0.3, 1.0)], ink.accent)
        pen.poly([(-0.46, 0.5), (0.46, 0.5), (0.44, 0.66), (-0.44, 0.66)], ink.accent_dark)
        foot = 0.52
    if dice.chance(0.72):
        w, top = dice.between(0.2, 0.29), dice.between(-1.0, -0.75)
        arms = [(s, dice.between(-0.1, 0.3), dice.between(-0.66, -0.2)) for s in (-1, 1) if dice.chance(0.85)]
        for s, joint, tip in arms:
            pen.line(
                [(0, joint), (s * 0.5, joint), (s * 0.62, joint - 0.14), (s * 0.62, tip)], 0.26, ink.dark
            )
            pen.line([(s * 0.6, joint - 0.16), (s * 0.6, tip)], 0.14, ink.base)
        pen.body_curve(
            [
                (-w, foot),
                (-w, top + 0.4),
                (-0.6 * w, top + 0.05),
                (0.6 * w, top + 0.05),
                (w, top + 0.4),
                (w, foot),
            ]
        )
        ribs = [(x * w, top + 0.2 + 0.1 * abs(x)) for x in (-0.5, 0, 0.5)]
        bloom = [(0, top), *((s * 0.62, tip - 0.1) for s, _, tip in arms if dice.chance(0.4))]
    else:
        top = foot - dice.between(1.0, 1.3)
        pen.body_oval(0, (top + foot) / 2, 0.6, (foot - top) / 2)
        ribs = [(x * 0.6, top + 0.16 + 0.2 * abs(x)) for x in (-0.6, -0.2, 0.2, 0.6)]
        bloom = [(0, top)]
    for x, y in ribs:
        pen.line([(x, y), (x, foot - 0.1)], 0.028, ink.deep)
        for k in range(4):
            at = y + (foot - 0.1 - y) * (k + 0.5) / 4
            pen.line([(x - 0.03, at - 0.04), (x, at), (x + 0.03, at - 0.04)], 0.016, ink.cream)
    if dice.chance(0.6):
        for x, y in bloom:
            for k in (-0.1, 0.0, 0.1):
                pen.oval(x + k, y - 0.02 - (0.05 if k == 0 else 0), 0.075, 0.1, ink.rose if k else ink.accent)


def flower(pen: Pen, ink: Ink, dice: Dice) -> None:
    """A daisy, sunflower, poppy or tulip on its stem."""
    sway, y = dice.between(-0.2, 0.2), -0.4
    pen.line(bend([(0.0, 1.0), (0.3 * sway, 0.4), (sway, y)]), 0.075, ink.leaf_dark)
    for s in (-1, 1):
        at = dice.between(0.45, 0.85)
        pen.curve([(0, at), (s * 0.3, at - 0.22), (s * 0.62, at - 0.3), (s * 0.36, at + 0.02)], ink.leaf)
    form = dice.below(4)
    if form == 3:
        pen.curve(
            [(sway - 0.42, y - 0.5), (sway - 0.1, y - 0.2), (sway + 0.1, y + 0.3), (sway - 0.3, y + 0.2)],
            ink.dark,
        )
        pen.curve(
            [(sway + 0.42, y - 0.5), (sway + 0.1, y - 0.2), (sway - 0.1, y + 0.3), (sway + 0.3, y + 0.2)],
            ink.dark,
        )
        pen.body_curve(
            [
                (sway, y - 0.56),
                (sway + 0.28, y - 0.1),
                (sway + 0.16, y + 0.32),
                (sway - 0.16, y + 0.32),
                (sway - 0.28, y - 0.1),
            ]
        )
        return
    petals = (6 + dice.below(3), 12, 5)[form]
    long, wide = ((0.34, 0.17), (0.36, 0.11), (0.32, 0.27))[form]
    start = dice.random()
    for ring, colour in ((0.46, None), (0.3, ink.light)) if form == 1 else ((0.36, None),):
        for k in range(petals):
            turn = (k + start + (0.5 if colour else 0)) * math.tau / petals
            px, py = sway + ring * math.cos(turn), y + ring * math.sin(turn)
            if colour is None and k % 2:
                pen.oval(px, py, long, wide, ink.dark, turn)
            elif colour is None:
                pen.body_oval(px, py, long, wide, turn)
            else:
                pen.oval(px, py, 0.7 * long, 0.8 * wide, colour, turn)
    heart = ink.black if form == 2 else ink.bark if form == 1 else ink.gold
    pen.oval(sway, y, 0.22, 0.22, heart)
    for k in range(6):
        turn = k * math.tau / 6
        pen.oval(sway + 0.13 * math.cos(turn), y + 0.13 * math.sin(turn), 0.03, 0.03, ink.accent)


def mushroom(pen: Pen, ink: Ink, dice: Dice) -> None:
    """One toadstool, or a big one with a small one."""
    if dice.chance(0.55):
        s = dice.pick((-1, 1))
        _toadstool(pen, ink, dice, s * 0.62, dice.between(0.3, 0.42), 0.36)
    _toadstool(pen, ink, dice, 0.0, dice.between(0.74, 0.95), -dice.between(0.66, 0.9))


def _toadstool(pen: Pen, ink: Ink, dice: Dice, x: float, wide: float, top: float) -> None:
    height, brim = 1.0 - top, top + (1.0 - top) * dice.between(0.45, 0.58)
    stem = 0.28 * wide
    pen.curve(
        [
            (x - stem, brim - 0.05),
            (x + stem, brim - 0.05),
            (x + 0.8 * stem, 0.7),
            (x + 1.3 * stem, 1.0),
            (x - 1.3 * stem, 1.0),
            (x - 0.8 * stem, 0.7),
        ],
        ink.cream,
    )
    pen.oval(x, brim, 0.86 * wide, 0.09 * height, ink.pale)
    for k in range(-3, 4):
        pen.line(
            [(x + 0.1 * wide * k, brim - 0.03), (x + 0.22 * wide * k, brim + 0.05 * height)], 0.02, ink.wood
        )
    flare = dice.between(-0.02, 0.1)
    pen.body_curve(
        [
            (x - wide, brim + flare),
            (x - 0.8 * wide, top + 0.3 * height * 0.6),
            (x - 0.25 * wide, top),
            (x + 0.25 * wide, top),
            (x + 0.8 * wide, top + 0.18 * height),
            (x + wide, brim + flare),
            (x + 0.4 * wide, brim - 0.03),
            (x - 0.4 * wide, brim - 0.03),
        ]
    )
    if pen.fabric is None:
        for u, v, r in ((-0.5, 0.5, 0.13), (0.05, 0.26, 0.15), (0.5, 0.6, 0.11), (-0.1, 0.72, 0.09)):
            pen.oval(x + u * wide, top + v * (brim - top), r * wide, 0.7 * r * wide, ink.cream)
