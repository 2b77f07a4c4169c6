"""More settings: forest, desert, snow, street, room; and the table of all of them."""

from __future__ import annotations

from openslip.scenes import scenery
from openslip.scenes.draw import Canvas, mix, shade
from openslip.scenes.mood import Mood
from openslip.scenes.scenery import Painter, Stage, hill, paint_sky, tufts
from openslip.scenes.world import LAMPLIGHT, Colour, Dice

_FRONTS: tuple[Colour, ...] = (
    *((224, 150, 122), (238, 206, 150), (160, 186, 190)),
    *((214, 176, 186), (178, 190, 150), (204, 196, 214)),
)
_WALLS: tuple[Colour, ...] = (
    *((236, 214, 196), (198, 214, 206), (206, 208, 226)),
    *((240, 222, 172), (222, 190, 190), (150, 178, 186)),
)


def forest(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Trunks in layers of mist, shafts of light, ferns."""
    green = dice.pick(((92, 142, 104), (116, 154, 92), (86, 134, 124), (176, 140, 82)))
    glow = mood.tone(mix(shade(green, 0.62), mood.haze, 0.3))
    canvas.backdrop((mood.tone(shade(green, 0.05)), glow, mood.tone(shade(green, 0.3))))
    canvas.glow(0.5 + mood.side * 0.2, 0.35, 0.5, mood.sun, 0.4 if not mood.dark else 0.15)
    floor = dice.between(0.62, 0.74)
    for depth, count, width in ((0.8, 7, 0.022), (0.5, 5, 0.036), (0.2, 3, 0.055)):
        bark = mix(mood.tone(shade(mix((112, 84, 74), green, 0.45), -0.25)), glow, depth)
        for _ in range(count):
            x, w, lean = dice.random(), width * dice.between(0.7, 1.3), dice.between(-0.03, 0.03)
            foot = floor + 0.1 * (0.8 - depth)
            canvas.poly(
                [(x - w, foot), (x + lean - 0.7 * w, 0), (x + lean + 0.7 * w, 0), (x + w, foot)], bark
            )
            if dice.chance(0.5):
                y = dice.between(0.1, 0.4)
                canvas.line([(x + lean, y + 0.08), (x + dice.pick((-3, 3)) * w, y)], 0.3 * w, bark)
        leaf = mix(mood.tone(shade(green, -0.12)), glow, 0.8 * depth)
        for _ in range(6):
            r = dice.between(0.06, 0.16)
            canvas.oval(dice.random(), dice.between(-0.08, 0.06), r, 0.8 * r, leaf)
    hill(canvas, mood, dice, shade(green, -0.08), floor, 0.02, 0.1)
    for _ in range(dice.below(3)):
        x, w, lean = dice.random(), dice.between(0.04, 0.1), -0.3 * mood.side
        canvas.poly([(x, 0), (x + w, 0), (x + lean + 1.6 * w, 0.9), (x + lean, 0.9)], mood.sun, 30)
    ground = mood.tone(shade(green, -0.08))
    tufts(canvas, dice, ground, floor, 26)
    return Stage(floor + 0.07, ground, 0.45)


def desert(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Dunes, mesas, heat."""
    horizon = dice.between(0.5, 0.64)
    paint_sky(canvas, mood, dice, horizon, 1)
    sand = dice.pick(((234, 190, 126), (226, 164, 110), (240, 206, 150), (214, 140, 104)))
    rock = mix(sand, (176, 88, 76), 0.6)
    for _ in range(dice.below(4)):
        x, w, h = dice.random(), dice.between(0.06, 0.18), dice.between(0.06, 0.2)
        top = horizon - h
        mesa = [(x - 1.3 * w, horizon + 0.03), (x - w, top + 0.3 * h), (x - 0.8 * w, top), (x + 0.8 * w, top)]
        mesa += [(x + w, top + 0.3 * h), (x + 1.3 * w, horizon + 0.03)]
        canvas.wash(mesa, (mood.tone(rock, 0.45), mood.tone(shade(rock, 0.2), 0.75)))
    hill(canvas, mood, dice, shade(sand, 0.1), horizon, 0.02, 0.6)
    hill(canvas, mood, dice, mix(sand, rock, 0.2), horizon + 0.05, 0.03, 0.3)
    hill(canvas, mood, dice, sand, horizon + 0.11, 0.03, 0.05)
    ripple = mood.tone(shade(sand, -0.14))
    for k in range(7):
        y = horizon + 0.16 + k * 0.055
        x, w = dice.random(), dice.between(0.08, 0.24)
        canvas.oval(x, y, w, 0.005, ripple, 120)
    return Stage(horizon + 0.12, mood.tone(sand))


def snow(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """White hills, pale woods far away."""
    horizon = dice.between(0.5, 0.64)
    paint_sky(canvas, mood, dice, horizon)
    white = dice.pick(((238, 244, 250), (232, 240, 250), (246, 242, 244)))
    hill(canvas, mood, dice, mix(white, (130, 160, 200), 0.5), horizon - 0.05, 0.05, 0.8)
    wood = mood.tone((112, 142, 160), 0.62)
    for _ in range(dice.below(22)):
        x, h = dice.random(), dice.between(0.03, 0.08)
        y = horizon + 0.03
        canvas.poly([(x - 0.3 * h, y), (x, y - h), (x + 0.3 * h, y)], wood)
    hill(canvas, mood, dice, mix(white, (130, 160, 200), 0.25), horizon + 0.02, 0.03, 0.4)
    hill(canvas, mood, dice, white, horizon + 0.08, 0.025, 0.0)
    for _ in range(12):
        y = horizon + 0.14 + (0.84 - horizon) * dice.random()
        canvas.oval(dice.random(), y, dice.between(0.02, 0.09), 0.006, mood.tone((200, 216, 238)), 110)
    return Stage(horizon + 0.1, mood.tone(white), 0.3)


def street(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """A row of houses, pavement, road."""
    horizon = dice.between(0.6, 0.7)
    paint_sky(canvas, mood, dice, horizon, 1)
    x = -dice.random() * 0.1
    while x < 1.0:
        width = dice.between(0.13, 0.24)
        _facade(canvas, mood, dice, x, width, horizon)
        x += width
    kerb = mood.tone((206, 200, 196))
    road = mood.tone(dice.pick(((122, 120, 134), (150, 142, 146), (196, 170, 150))))
    canvas.backdrop((kerb, shade(kerb, -0.08)), horizon, horizon + 0.08)
    canvas.backdrop((shade(road, 0.08), shade(road, -0.12)), horizon + 0.08)
    canvas.oval(0.5, horizon + 0.085, 0.8, 0.005, shade(kerb, -0.25))
    at = dice.random() * 0.2 - 0.2
    for k in range(6):
        left = at + 0.24 * k
        dash = [(left, 0.9), (left + 0.12, 0.9), (left + 0.11, 0.918), (left - 0.01, 0.918)]
        canvas.poly(dash, mood.tone((244, 236, 214)), 200)
    return Stage(horizon + 0.06, road)


def _facade(canvas: Canvas, mood: Mood, dice: Dice, x: float, w: float, foot: float) -> None:
    """Paint one house of the row: wall, roof, windows (some lit at night)."""
    h = dice.between(0.2, 0.5)
    wall, top = mood.tone(dice.pick(_FRONTS), 0.38), foot - h
    canvas.wash([(x, top), (x + w, top), (x + w, foot), (x, foot)], (wall, shade(wall, 0.12)))
    roof = mood.tone(mix(dice.pick(_FRONTS), (110, 74, 84), 0.6), 0.38)
    canvas.poly([(x - 0.01, top), (x + w / 2, top - dice.between(0.02, 0.1)), (x + w + 0.01, top)], roof)
    glass = mix(mood.tone((120, 146, 170), 0.3), mood.sky[0], 0.3)
    columns, y = max(2, round(w / 0.07)), top + 0.04
    while y < foot - 0.08:
        for k in range(columns):
            at = x + w * (k + 0.5) / columns
            pane = LAMPLIGHT if mood.dark and dice.chance(0.5) else glass
            canvas.poly(
                [(at - 0.016, y), (at + 0.016, y), (at + 0.016, y + 0.045), (at - 0.016, y + 0.045)], pane
            )
        y += 0.085


def room(canvas: Canvas, mood: Mood, dice: Dice) -> Stage:
    """Wallpaper, a window or pictures, a table or floor."""
    edge = dice.between(0.58, 0.7)
    _wallpaper(canvas, mood, dice, edge)
    at = dice.between(0.12, 0.88) if dice.chance(0.65) else -1.0
    _pictures(canvas, mood, dice, at)
    wood = dice.pick(((186, 132, 92), (206, 160, 112), (142, 98, 78), (226, 204, 176), (120, 136, 150)))
    board = mood.near(wood)
    canvas.backdrop((shade(board, 0.16), board, shade(board, -0.16)), edge)
    canvas.poly([(0, edge), (1, edge), (1, edge + 0.02), (0, edge + 0.02)], shade(board, 0.3))
    for k in range(3):
        y = edge + 0.07 + 0.1 * k + 0.03 * dice.random()
        canvas.poly([(0, y), (1, y), (1, y + 0.005), (0, y + 0.005)], shade(board, -0.14))
    if at > 0:
        _window(canvas, mood, dice, at, edge)
    return Stage(edge + 0.05, board, 0.45)


def _wallpaper(canvas: Canvas, mood: Mood, dice: Dice, edge: float) -> None:
    """Paint the wall: plain, striped or dotted."""
    wall = dice.pick(_WALLS)
    lit = mood.near(wall)
    canvas.backdrop((shade(lit, -0.1), lit), 0.0, edge)
    pattern, tint = dice.below(4), shade(lit, dice.pick((-0.09, 0.25)))
    if pattern == 0:
        for k in range(0, 20, 2):
            canvas.poly([(k / 18, 0), ((k + 1) / 18, 0), ((k + 1) / 18, edge), (k / 18, edge)], tint)
    elif pattern == 1:
        for row in range(int(10 * edge)):
            for column in range(9):
                canvas.oval((column + 0.5 * (row % 2)) / 8, row / 10 + 0.04, 0.011, 0.011, tint)


def _pictures(canvas: Canvas, mood: Mood, dice: Dice, window: float) -> None:
    """Hang up to two pictures where the window is not."""
    for side in (0.0, 0.5):
        x, y, w, h = (
            side + dice.between(0.12, 0.38),
            dice.between(0.12, 0.32),
            dice.between(0.05, 0.085),
            dice.between(0.05, 0.1),
        )
        frame = mood.near(dice.pick(((150, 108, 78), (244, 238, 226), (70, 66, 78))))
        inner = mood.near(dice.pick(((246, 226, 190), (150, 190, 190), (226, 150, 130))))
        if dice.chance(0.5) or abs(x - window) < 0.3:
            continue
        canvas.poly([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], frame)
        w, h = w - 0.015, h - 0.015
        canvas.poly([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], inner)
        land = [
            (x - w, y + h),
            (x - w, y + 0.3 * h),
            (x - 0.2 * w, y - 0.2 * h),
            (x + w, y + 0.5 * h),
            (x + w, y + h),
        ]
        canvas.poly(land, shade(inner, -0.35))
        canvas.oval(x + 0.4 * w, y - 0.4 * h, 0.016, 0.016, shade(inner, 0.6))


def _window(canvas: Canvas, mood: Mood, dice: Dice, x: float, edge: float) -> None:
    """Put a window in the wall, with the sky in it and its light on the floor."""
    w, h = dice.between(0.1, 0.17), dice.between(0.13, 0.2)
    y = edge - h - dice.between(0.1, 0.18)
    frame = mood.near((250, 245, 234))
    canvas.poly([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], frame)
    w, h = w - 0.016, h - 0.016
    canvas.wash([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], mood.sky)
    if mood.dark:
        for _ in range(6):
            canvas.oval(
                x + w * dice.between(-0.9, 0.9),
                y + h * dice.between(-0.9, 0.9),
                0.004,
                0.004,
                (255, 250, 220),
            )
    canvas.poly([(x - 0.006, y - h), (x + 0.006, y - h), (x + 0.006, y + h), (x - 0.006, y + h)], frame)
    canvas.poly([(x - w, y - 0.006), (x + w, y - 0.006), (x + w, y + 0.006), (x - w, y + 0.006)], frame)
    if not mood.dark:
        fall = 0.5 * mood.side
        light = [(x - w, edge), (x + w, edge), (x + w - fall, 1.0), (x - w - fall, 1.0)]
        canvas.poly(light, mood.sun, 46)
    if dice.chance(0.5):
        cloth = mood.near(dice.pick(((226, 120, 110), (246, 240, 226), (110, 150, 160), (240, 190, 100))))
        for s in (-1, 1):
            at = x + s * (w + 0.02)
            canvas.poly(
                [
                    (at - 0.045, y - h - 0.04),
                    (at + 0.045, y - h - 0.04),
                    (at + 0.02 * s + 0.03, y + h + 0.06),
                    (at + 0.02 * s - 0.03, y + h + 0.06),
                ],
                cloth,
            )


PAINTERS: dict[str, Painter] = {
    "underwater": scenery.underwater,
    "sea": scenery.sea,
    "beach": scenery.beach,
    "sky": scenery.sky,
    "space": scenery.space,
    "meadow": scenery.meadow,
    "mountains": scenery.mountains,
    "forest": forest,
    "desert": desert,
    "snow": snow,
    "street": street,
    "room": room,
}
