"""The settings: each paints its background and says where things can stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from openslip.scenes.draw import Canvas, mix, shade
from openslip.scenes.mood import Mood
from openslip.scenes.world import Colour, Dice


@dataclass(frozen=True)
class Stage:
    """Where things are in a painted setting, in unit coordinates of the picture."""

    horizon: float
    ground: Colour
    """Colour of what they stand on, as lit (for supports and tufts)."""
    shadow: float = 0.4
    """Strength of the shadows on the ground."""


def paint_sky(canvas: Canvas, mood: Mood, dice: Dice, horizon: float, clouds: int = 2) -> None:
    """Paint sky, sun or moon, stars and distant clouds down to the horizon."""
    canvas.backdrop((*mood.sky, mood.haze), 0.0, min(1.0, horizon + 0.16))
    x = 0.5 + mood.side * dice.between(0.12, 0.4)
    y = horizon * (1.0 - mood.high) + dice.between(-0.02, 0.06)
    radius = dice.between(0.045, 0.085)
    if mood.light == "night":
        for _ in range(26):
            r = dice.between(0.002, 0.0065)
            canvas.oval(dice.random(), dice.random() * horizon, r, r, (255, 250, 226), 60 + dice.below(190))
    if dice.chance(0.75):
        canvas.glow(x, y, radius * dice.between(3.5, 6), mood.sun, 0.7)
        if mood.light == "night" and dice.chance(0.55):
            turns = [(k / 12 - 0.5) * math.pi for k in range(13)]
            rim = [(x - 0.9 * radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
            hollow = [(x - 0.25 * radius * math.cos(t), y + radius * math.sin(t)) for t in reversed(turns)]
            canvas.poly([*rim, *hollow], mood.sun)
        else:
            canvas.oval(x, y, radius, radius, mood.sun, 245)
    for _ in range(dice.below(clouds + 1)):
        cloud(canvas, mood, dice, dice.random(), dice.random() * 0.8 * horizon, dice.between(0.08, 0.2), 150)


def cloud(canvas: Canvas, mood: Mood, dice: Dice, x: float, y: float, reach: float, alpha: int = 255) -> None:
    """Paint a cloud of half-width `reach`: puffs on a flat bottom, lit from above."""
    light = mix(mood.tone((255, 253, 248)), mood.haze, 0.25)
    puffs = [(dice.between(-0.7, 0.7), dice.between(0.25, 0.5)) for _ in range(4)]
    for lift, colour in ((0.0, mix(light, mood.sky[1], 0.45)), (0.06, light)):
        canvas.oval(x, y - 0.05 * reach, reach, (0.24 - lift) * reach, colour, alpha)
        for at, r in puffs:
            top = y - (0.55 - abs(at)) * 0.45 * reach
            canvas.oval(x + at * reach, top - lift * reach, r * reach, (r - lift) * reach, colour, alpha)


def hill(
    canvas: Canvas, mood: Mood, dice: Dice, colour: Colour, level: float, swing: float, depth: float
) -> None:
    """Paint a hill line at `level`, `depth` into the haze, down to the bottom of the picture."""
    top = mood.tone(colour, depth)
    low = mix(mood.tone(shade(colour, -0.12), depth), mood.haze, 0.28 * depth)
    canvas.wash(canvas.ridge(dice, level, swing, dice.between(0.5, 1.3)), (shade(top, 0.1), top, low))


def tufts(canvas: Canvas, dice: Dice, colour: Colour, horizon: float, count: int) -> None:
    """Scatter grass blades, larger when nearer."""
    for _ in range(count):
        x, near = dice.random(), dice.random()
        y, h = horizon + 0.05 + (0.97 - horizon) * near, 0.012 + 0.03 * near
        tint = shade(colour, dice.between(-0.22, 0.16))
        for lean in (-0.5, 0.1, 0.6):
            canvas.poly([(x - 0.004, y), (x + lean * h, y - h), (x + 0.004, y)], tint)


def meadow(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Rolling hills, grass, flowers, far trees."""
    horizon = dice.between(0.5, 0.66)
    paint_sky(canvas, mood, dice, horizon)
    green = dice.pick(((126, 178, 98), (150, 188, 96), (108, 168, 112), (178, 190, 98)))
    hill(canvas, mood, dice, mix(green, (96, 150, 150), 0.4), horizon - 0.06, 0.04, 0.85)
    hill(canvas, mood, dice, mix(green, (96, 150, 130), 0.2), horizon - 0.01, 0.035, 0.5)
    for _ in range(dice.below(8)):
        x, r = dice.random(), dice.between(0.012, 0.03)
        canvas.oval(x, horizon + 0.015, r, r, mood.tone(shade(green, -0.3), 0.45))
    hill(canvas, mood, dice, green, horizon + 0.06, 0.03, 0.15)
    ground = mood.tone(green)
    tufts(canvas, dice, ground, horizon, 22)
    bloom = dice.pick(((255, 244, 214), (244, 178, 190), (250, 212, 110), (190, 168, 226)))
    for _ in range(dice.below(26)):
        near = dice.random()
        r = 0.004 + 0.007 * near
        canvas.oval(dice.random(), horizon + 0.1 + (0.9 - horizon) * near, r, r, mood.tone(bloom))
    return Stage(horizon + 0.08, ground)


def mountains(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Peaks in layers with snow on them, a lake sometimes, a green foreground."""
    horizon = dice.between(0.5, 0.64)
    paint_sky(canvas, mood, dice, horizon)
    rock = dice.pick(((112, 124, 158), (130, 118, 140), (100, 132, 146)))
    for depth, height in ((0.85, 0.34), (0.55, 0.24)):
        peaks = [
            (dice.between(-0.1, 1.1), height * dice.between(0.6, 1.1), dice.between(0.16, 0.32))
            for _ in range(3)
        ]
        for x, h, w in peaks:
            top, base = horizon - h, horizon + 0.03
            canvas.wash(
                [(x - w, base), (x, top), (x + w, base)],
                (mood.tone(rock, depth), mood.tone(shade(rock, 0.2), min(1.0, depth + 0.25))),
            )
            lit = mood.tone(shade(rock, 0.25), depth)
            canvas.poly([(x, top), (x + mood.side * w, base), (x + 0.1 * mood.side * w, base)], lit, 120)
            cap = [(x, top), (x + 0.34 * w, top + 0.34 * h), (x + 0.12 * w, top + 0.26 * h)]
            cap += [
                (x - 0.02 * w, top + 0.38 * h),
                (x - 0.14 * w, top + 0.27 * h),
                (x - 0.32 * w, top + 0.32 * h),
            ]
            canvas.poly(cap, mood.tone((246, 248, 250), depth * 0.5))
    green = dice.pick(((104, 148, 108), (134, 160, 100), (92, 138, 126)))
    if dice.chance(0.5):
        lake = mix(mood.sky[1], mood.tone((70, 140, 170)), 0.5)
        canvas.backdrop((mix(lake, mood.haze, 0.5), lake), horizon, horizon + 0.14)
        _glints(canvas, dice, shade(lake, 0.45), horizon + 0.01, horizon + 0.12, 8)
        horizon += 0.08
    hill(canvas, mood, dice, green, horizon + 0.05, 0.02, 0.15)
    ground = mood.tone(green)
    tufts(canvas, dice, ground, horizon, 18)
    return Stage(horizon + 0.06, ground)


def _glints(canvas: Canvas, dice: Dice, colour: Colour, top: float, bottom: float, count: int) -> None:
    """Scatter flat glints on water, larger when nearer."""
    for _ in range(count):
        near = dice.random()
        y, w = top + (bottom - top) * near, 0.02 + 0.09 * near * dice.random()
        canvas.oval(dice.random(), y, w, 0.0025 + 0.003 * near, colour, 150)


def sea(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Open water to the horizon, with the sun's path and far islands."""
    horizon = dice.between(0.42, 0.58)
    paint_sky(canvas, mood, dice, horizon, 3)
    for _ in range(dice.below(3)):
        x, w, h = dice.random(), dice.between(0.08, 0.25), dice.between(0.02, 0.08)
        island = [(x + w * (2 * k / 12 - 1), horizon - h * math.sin(math.pi * k / 12)) for k in range(13)]
        canvas.poly(island, mood.tone((104, 134, 140), 0.7))
    water = mood.tone(dice.pick(((48, 134, 176), (58, 156, 172), (44, 110, 160))))
    canvas.backdrop((mix(water, mood.haze, 0.62), mix(water, mood.sky[1], 0.2), shade(water, -0.2)), horizon)
    canvas.soft_oval(0.5 + mood.side * 0.25, 0.85, 0.22, 0.5, mood.sun, 0.28)
    _glints(canvas, dice, mix(water, (255, 252, 236), 0.55), horizon + 0.02, 0.98, 30)
    return Stage(horizon + 0.1, water, 0.3)


def beach(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """A strip of sea, foam, and sand."""
    horizon = dice.between(0.36, 0.48)
    paint_sky(canvas, mood, dice, horizon)
    water = mood.tone(dice.pick(((56, 168, 184), (62, 146, 190))))
    shore = horizon + dice.between(0.1, 0.2)
    canvas.backdrop((mix(water, mood.haze, 0.4), water, shade(water, 0.3)), horizon, shore + 0.06)
    _glints(canvas, dice, shade(water, 0.6), horizon + 0.01, shore, 12)
    sand = dice.pick(((240, 216, 168), (246, 226, 186), (232, 202, 158)))
    edge = canvas.ridge(dice, shore + 0.03, 0.02, 0.8)
    canvas.poly([(x, y - 0.018) for x, y in edge], mood.tone((255, 253, 246)), 220)
    canvas.wash(edge, (shade(mood.tone(sand), -0.12), mood.tone(shade(sand, 0.15)), mood.tone(sand)))
    for _ in range(30):
        y = shore + 0.07 + (0.93 - shore) * dice.random()
        tint = mood.tone(shade(sand, dice.pick((-0.25, 0.5))))
        canvas.oval(dice.random(), y, dice.between(0.003, 0.012), 0.003, tint, 170)
    return Stage(shore + 0.08, mood.tone(sand))


def sky(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """High above: big clouds, a far land at the bottom sometimes, a rainbow now and then."""
    paint_sky(canvas, mood, dice, 1.0, 1)
    if dice.chance(0.2) and not mood.dark:
        x, r = dice.between(0.2, 0.8), dice.between(0.5, 0.8)
        band = (
            (226, 88, 80),
            (246, 160, 88),
            (250, 216, 118),
            (126, 178, 98),
            (90, 146, 216),
            (158, 118, 194),
        )
        for k, colour in enumerate(band):
            arc = [
                (x + (r - 0.024 * k) * math.cos(t / 8), 1 - (r - 0.024 * k) * math.sin(t / 8))
                for t in range(26)
            ]
            canvas.line(arc, 0.026, mood.tone(colour), 150)
    if dice.chance(0.45):
        land = dice.pick(((126, 170, 120), (120, 150, 160)))
        hill(canvas, mood, dice, land, dice.between(0.86, 0.93), 0.03, 0.8)
    for _ in range(1 + dice.below(4)):
        y = dice.between(0.1, 0.98)
        cloud(canvas, mood, dice, dice.random(), y, dice.between(0.1, 0.3) * (0.5 + y), 235)
    return Stage(0.85, mix(mood.tone((255, 253, 248)), mood.haze, 0.25), 0.25)


def space(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Stars, nebulae, a planet."""
    deep = dice.pick(
        (((18, 16, 48), (40, 30, 84)), ((10, 22, 52), (24, 54, 92)), ((30, 14, 48), (74, 34, 92)))
    )
    canvas.backdrop(deep)
    for _ in range(3):
        cloud_colour = dice.pick(((126, 84, 176), (58, 120, 170), (196, 90, 140), (60, 150, 150)))
        size = dice.between(0.25, 0.5)
        canvas.soft_oval(dice.random(), dice.random(), size, size * 0.6, cloud_colour, 0.3)
    for _ in range(48):
        r = dice.between(0.002, 0.007)
        canvas.oval(dice.random(), dice.random(), r, r, (255, 248, 224), 80 + dice.below(170))
    if dice.chance(0.7):
        x, y, r = dice.random(), dice.between(0.05, 0.6), dice.between(0.06, 0.17)
        planet = dice.pick(((232, 160, 110), (130, 176, 200), (206, 130, 150), (180, 160, 210)))
        canvas.glow(x, y, 1.7 * r, planet, 0.35)
        canvas.oval(x, y, r, r, shade(planet, -0.35))
        canvas.oval(x + 0.1 * mood.side * r, y - 0.06 * r, 0.87 * r, 0.87 * r, planet)
        canvas.oval(x + 0.2 * mood.side * r, y - 0.3 * r, 0.5 * r, 0.16 * r, shade(planet, 0.3), 150)
        if dice.chance(0.5):
            ring = [
                (x + 1.7 * r * math.cos(t / 3), y + 0.4 * r * math.sin(t / 3) + 0.2 * r) for t in range(10)
            ]
            canvas.line(ring, 0.012, shade(planet, 0.5), 210)
    return Stage(0.82, (168, 166, 190), 0.35)


def underwater(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Blue depth with rays of light, weeds, sand."""
    top, low = dice.pick(
        (
            ((120, 214, 214), (22, 92, 140)),
            ((104, 196, 226), (30, 70, 140)),
            ((150, 222, 190), (26, 112, 126)),
        )
    )
    top, low = mood.tone(top), mood.tone(low)
    canvas.backdrop((shade(top, 0.25), top, mix(top, low, 0.7), low))
    for _ in range(4):
        x, w, lean = dice.random(), dice.between(0.03, 0.09), dice.between(-0.25, 0.25)
        canvas.poly([(x, 0), (x + w, 0), (x + lean + 2.2 * w, 0.95), (x + lean, 0.95)], (255, 255, 240), 26)
    floor = dice.between(0.76, 0.9)
    _seabed(canvas, dice, mix(low, (40, 60, 110), 0.25), floor - 0.1, 0.05)
    sand = mix(mood.tone((226, 206, 160)), low, 0.3)
    canvas.wash(canvas.ridge(dice, floor, 0.02, 0.9), (shade(sand, 0.2), shade(sand, -0.15)))
    for _ in range(2 + dice.below(5)):
        x, h, colour = (
            dice.random(),
            dice.between(0.08, 0.34),
            dice.pick(((60, 150, 110), (40, 120, 120), (200, 96, 116))),
        )
        sway, foot = dice.between(0.01, 0.03), floor + dice.between(0.0, 0.1)
        weed = [(x + sway * math.sin(k * 1.1 + 9 * x) * k / 6, foot - h * k / 8) for k in range(9)]
        canvas.line(weed, dice.between(0.012, 0.028), mix(mood.tone(colour), low, 0.35))
    for _ in range(dice.below(12)):
        r = dice.between(0.004, 0.014)
        canvas.oval(dice.random(), dice.random() * floor, r, r, (236, 252, 252), 110)
    return Stage(floor + 0.02, sand, 0.3)


def _seabed(canvas: Canvas, dice: Dice, colour: Colour, level: float, swing: float) -> None:
    canvas.poly(canvas.ridge(dice, level, swing, dice.between(0.8, 1.6)), colour)


Painter = Callable[[Canvas, Mood, Dice], Stage]
