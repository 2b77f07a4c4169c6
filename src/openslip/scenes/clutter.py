"""Small things that lie or float about, and supports for things where there is no ground."""

from __future__ import annotations

import math
from collections.abc import Callable

from openslip.scenes.draw import Canvas, Pen, mix, shade
from openslip.scenes.mood import Mood
from openslip.scenes.scenery import Stage, cloud
from openslip.scenes.world import COLOURS, Colour, Dice

FLOATING = ("cloud", "bubble", "heart", "star", "planet")


def _star(pen: Pen, colour: Colour) -> None:
    r = [1.0 if k % 2 == 0 else 0.45 for k in range(10)]
    pen.poly(
        [(r[k] * math.sin(k * math.pi / 5), -r[k] * math.cos(k * math.pi / 5)) for k in range(10)], colour
    )


def _starfish(pen: Pen, colour: Colour) -> None:
    r = [1.0 if k % 2 == 0 else 0.36 for k in range(10)]
    pen.curve(
        [(r[k] * math.sin(k * math.pi / 5), -r[k] * math.cos(k * math.pi / 5)) for k in range(10)], colour
    )
    pen.oval(0, 0, 0.16, 0.16, shade(colour, 0.4))


def _leaf(pen: Pen, colour: Colour) -> None:
    pen.curve([(-1, 0), (-0.3, -0.5), (0.4, -0.4), (1, 0), (0.4, 0.4), (-0.3, 0.5)], colour)
    pen.line([(-1.2, 0), (0.7, 0)], 0.12, shade(colour, -0.3))


def _stone(pen: Pen, colour: Colour) -> None:
    grey = mix(colour, (150, 148, 160), 0.8)
    pen.curve([(-1, 0.6), (-0.7, -0.2), (0, -0.5), (0.7, -0.1), (1, 0.6), (0, 0.75)], grey)
    pen.curve([(-0.6, 0.0), (-0.1, -0.4), (0.4, -0.2), (0, 0.1)], shade(grey, 0.25))


def _blossom(pen: Pen, colour: Colour) -> None:
    pen.line([(0, 0), (0, 1.2)], 0.2, (86, 138, 96))
    for k in range(5):
        turn = k * math.tau / 5
        pen.oval(0.5 * math.cos(turn), 0.5 * math.sin(turn), 0.42, 0.42, colour)
    pen.oval(0, 0, 0.3, 0.3, (250, 210, 110))


def _ball(pen: Pen, colour: Colour) -> None:
    pen.oval(0, 0, 0.9, 0.9, colour)
    pen.curve(
        [(-0.3, -0.85), (0.3, -0.85), (0.45, 0), (0.3, 0.85), (-0.3, 0.85), (-0.45, 0)], (250, 244, 230)
    )
    pen.oval(-0.3, -0.4, 0.16, 0.16, (255, 255, 255))


def _shell(pen: Pen, colour: Colour) -> None:
    pale = shade(colour, 0.5)
    pen.curve([(0, 0.8), (-0.9, 0.1), (-0.6, -0.6), (0, -0.8), (0.6, -0.6), (0.9, 0.1)], pale)
    for x in (-0.5, 0.0, 0.5):
        pen.line([(0, 0.7), (x, -0.55)], 0.1, colour)


def _gift(pen: Pen, colour: Colour) -> None:
    ribbon = (250, 240, 220)
    pen.poly([(-0.8, -0.5), (0.8, -0.5), (0.8, 0.9), (-0.8, 0.9)], colour)
    pen.poly([(-0.95, -0.6), (0.95, -0.6), (0.95, -0.2), (-0.95, -0.2)], shade(colour, -0.2))
    pen.poly([(-0.16, -0.6), (0.16, -0.6), (0.16, 0.9), (-0.16, 0.9)], ribbon)
    for s in (-1, 1):
        pen.oval(0.3 * s, -0.78, 0.3, 0.17, ribbon, 0.5 * s)


def _book(pen: Pen, colour: Colour) -> None:
    pen.poly([(-1, 0.1), (1, 0.1), (1, 0.7), (-1, 0.7)], colour)
    pen.poly([(-0.9, 0.22), (1, 0.22), (1, 0.58), (-0.9, 0.58)], (250, 244, 226))
    pen.poly([(-0.8, -0.4), (0.8, -0.4), (0.8, 0.1), (-0.8, 0.1)], shade(colour, 0.4))


def _heart(pen: Pen, colour: Colour) -> None:
    for s in (-1, 1):
        pen.oval(0.42 * s, -0.3, 0.48, 0.48, colour)
    pen.poly([(-0.84, -0.08), (0.84, -0.08), (0, 0.95)], colour)


def _snowball(pen: Pen, colour: Colour) -> None:
    pen.oval(0, 0, 0.9, 0.9, (206, 220, 240))
    pen.oval(-0.1, -0.12, 0.72, 0.72, (250, 252, 255))


def _planet(pen: Pen, colour: Colour) -> None:
    pen.oval(0, 0, 0.8, 0.8, colour)
    pen.oval(-0.15, -0.15, 0.5, 0.5, shade(colour, 0.25))
    pen.line([(-1.3, 0.4), (0, 0.15), (1.3, -0.4)], 0.15, shade(colour, 0.6))


_ARTISTS: dict[str, Callable[[Pen, Colour], None]] = {
    "star": _star,
    "starfish": _starfish,
    "leaf": _leaf,
    "stone": _stone,
    "blossom": _blossom,
    "ball": _ball,
    "shell": _shell,
    "gift": _gift,
    "book": _book,
    "heart": _heart,
    "snowball": _snowball,
    "planet": _planet,
}
_OWN = {"star": ("yellow",), "leaf": ("green", "orange", "red", "yellow"), "heart": ("red", "pink")}


def scatter(canvas: Canvas, mood: Mood, stage: Stage, dice: Dice, name: str) -> None:
    """Draw one small thing at a free place of its kind: in the air, or on the ground."""
    size = dice.between(0.026, 0.058)
    x = dice.between(0.04, 0.96)
    if name == "cloud":
        cloud(canvas, mood, dice, x, dice.between(0.08, 0.45), 2.6 * size, 235)
        return
    y = (
        dice.between(0.05, 0.6)
        if name in FLOATING
        else stage.horizon + (0.96 - stage.horizon) * dice.random()
    )
    if name == "bubble":
        canvas.oval(x, y, size, size, (226, 248, 252), 90)
        canvas.oval(x - 0.35 * size, y - 0.35 * size, 0.25 * size, 0.25 * size, (255, 255, 255), 210)
        return
    if name not in FLOATING:
        canvas.soft_oval(x, y + 0.8 * size, 1.5 * size, 0.6 * size, (30, 26, 60), stage.shadow)
    pen = Pen(canvas.side, (x, y), size, dice.between(-0.5, 0.5))
    colour = dice.pick(COLOURS[dice.pick(_OWN.get(name, tuple(COLOURS)))])
    _ARTISTS[name](pen, mood.near(colour))
    canvas.image.paste(pen.layer, pen.origin, pen.layer)


def pedestal(
    canvas: Canvas, mood: Mood, dice: Dice, setting: str, x: float, foot: float, reach: float
) -> None:
    """Paint the support of a thing where there is no ground: a cloud, a small planet, an islet."""
    if setting == "sky":
        for shift in (-0.45, 0.45, 0.0):
            cloud(canvas, mood, dice, x + shift * reach, foot + 0.12 * reach, 1.1 * reach)
    elif setting == "space":
        r = max(0.3, 1.2 * reach) * dice.between(1.0, 1.5)
        rock = mood.near(dice.pick(((176, 170, 200), (206, 150, 140), (140, 176, 180), (220, 196, 150))))
        canvas.glow(x, foot + r, 1.25 * r, rock, 0.35)
        canvas.oval(x, foot + r - 0.02, r, r, rock)
        canvas.oval(x - 0.06 * r * mood.side, foot + 1.1 * r, 0.94 * r, 0.98 * r, shade(rock, -0.16))
        for _ in range(6):
            turn, far, hole = dice.between(-2.4, -0.7), dice.between(0.5, 0.93), dice.between(0.04, 0.1) * r
            cx, cy = x + far * r * math.cos(turn), foot + r + far * r * math.sin(turn)
            canvas.oval(cx, cy, hole, 0.6 * hole, shade(rock, -0.3))
    else:
        rock = mood.tone(dice.pick(((150, 140, 136), (176, 156, 130), (124, 130, 146))))
        w = 1.35 * reach
        land = [(-1.0, 0.3), (-0.8, 0.05), (-0.5, -0.03), (0.4, -0.03), (0.8, 0.06), (1.0, 0.3)]
        canvas.wash([(x + u * w, foot + v * reach) for u, v in land], (shade(rock, 0.15), shade(rock, -0.25)))
        green = mood.tone((130, 172, 100))
        canvas.oval(x, foot, 0.62 * w, 0.05 * reach + 0.008, green)
        foam = mix(mood.tone((240, 250, 250)), mood.haze, 0.2)
        canvas.oval(x, foot + 0.3 * reach, 1.12 * w, 0.012, foam, 200)
