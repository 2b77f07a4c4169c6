"""From a scene's description to its picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from openslip.scenes import buildings, creatures, household, plants, vehicles
from openslip.scenes.clutter import FLOATING, pedestal, scatter
from openslip.scenes.draw import Canvas, Pen, mix, shade
from openslip.scenes.fabric import weave
from openslip.scenes.ink import Ink, ink_of
from openslip.scenes.kinds import INDEX, KINDS
from openslip.scenes.mood import Mood, mood_of
from openslip.scenes.places import PAINTERS
from openslip.scenes.scenery import Stage
from openslip.scenes.world import GROUNDLESS, Colour, Dice, Scene, Thing

SUPERSAMPLING = 2
_SHADOW: Colour = (26, 22, 58)
_SOFTEN = [round(0.34 * k) for k in range(256)]
_WATER = ("sea", "beach", "mountains")

ARTISTS: dict[str, Callable[[Pen, Ink, Dice], None]] = {
    "fish": creatures.fish,
    "bird": creatures.bird,
    "butterfly": creatures.butterfly,
    "cat": creatures.cat,
    "owl": creatures.owl,
    "snail": creatures.snail,
    "tree": plants.tree,
    "pine": plants.pine,
    "cactus": plants.cactus,
    "flower": plants.flower,
    "mushroom": plants.mushroom,
    "house": buildings.house,
    "tent": buildings.tent,
    "lighthouse": buildings.lighthouse,
    "castle": buildings.castle,
    "car": vehicles.car,
    "train": vehicles.train,
    "sailboat": vehicles.sailboat,
    "hot air balloon": vehicles.hot_air_balloon,
    "rocket": vehicles.rocket,
    "umbrella": household.umbrella,
    "teapot": household.teapot,
    "lamp": household.lamp,
    "guitar": household.guitar,
}


def render(scene: Scene, size: int, dice: Dice, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the picture of a scene, (size, size, 3) uint8; `dice` adds pose and detail.

    mask: (size, size) uint8, which gets 1 + the class where one of the two things is drawn. Small things in front of
    the thing count as part of it; the thing's shadow does not.
    """
    canvas = Canvas(SUPERSAMPLING * size)
    mood = mood_of(scene.light, dice)
    stage = PAINTERS[scene.setting](canvas, mood, dice)
    for name in scene.clutter:
        if name in FLOATING:
            scatter(canvas, mood, stage, dice, name)
    if scene.second is not None:
        reach = min(0.17, max(0.055, scene.size * dice.between(0.18, 0.28)))
        gap = 0.5 * scene.size + 0.8 * reach
        x = scene.x - gap if scene.second_left else scene.x + gap
        if not 0.06 < x < 0.94:
            x = min(0.93, max(0.07, 2 * scene.x - x))
        _set(
            canvas, mood, stage, dice, scene, scene.second, (x, dice.random()), reach, 0.5 * scene.angle, mask
        )
    for name in scene.clutter[::2]:
        if name not in FLOATING:
            scatter(canvas, mood, stage, dice, name)
    _set(
        canvas, mood, stage, dice, scene, scene.main, (scene.x, scene.y), 0.5 * scene.size, scene.angle, mask
    )
    for name in scene.clutter[1::2]:
        if name not in FLOATING:
            scatter(canvas, mood, stage, dice, name)
    _air(canvas, mood, dice, scene)
    return _develop(canvas, dice, scene, size)


def _set(
    canvas: Canvas,
    mood: Mood,
    stage: Stage,
    dice: Dice,
    scene: Scene,
    thing: Thing,
    spot: tuple[float, float],
    reach: float,
    angle: float,
    mask: np.ndarray | None,
) -> None:
    """Draw one object at its place, with its shadow and its light. `spot`: x, and y as a share of its range."""
    stance, setting, x = KINDS[INDEX[thing.name]].stance, scene.setting, spot[0]
    flying = stance == "fly" or stance == "swim" or (thing.name == "umbrella" and setting in ("sky", "space"))
    if flying:
        low = (
            0.9 - reach
            if setting in ("sky", "space", "underwater")
            else min(0.9, stage.horizon + 0.1) - reach
        )
        y = min(1.1 * reach, low) + max(0.0, low - 1.1 * reach) * spot[1]
        y = max(y, 0.85 * reach)
    else:
        ledge = {"sky": 0.35, "space": 0.66}.get(setting, stage.horizon + 0.02)
        top = min(0.93, max(ledge, 1.9 * reach + 0.02))
        foot = top + (min(0.96, max(top, 0.9)) - top) * spot[1]
        y = foot - reach
        if stance == "sail" and setting not in GROUNDLESS[:2] and setting != "underwater":
            pond = mix(mood.tone((70, 150, 180)), mood.sky[1], 0.25)
            if setting not in ("sea", "beach"):
                canvas.oval(x, foot - 0.03 * reach, 1.5 * reach, 0.25 * reach, shade(pond, 0.25))
                canvas.oval(x, foot - 0.02 * reach, 1.42 * reach, 0.21 * reach, pond)
        elif setting in GROUNDLESS:
            pedestal(canvas, mood, dice, setting, x, foot, reach)
        if setting != "sky":
            canvas.soft_oval(
                x - 0.16 * mood.side * reach, foot, 1.1 * reach, 0.26 * reach, _SHADOW, stage.shadow
            )
    pen = Pen(canvas.side, (x, y), reach, angle, scene.mirrored)
    ink = ink_of(thing, mood, dice)
    weave(pen, thing.texture, ink.base, ink.mark, dice)
    ARTISTS[thing.name](pen, ink, dice)
    _paste(canvas, pen, mood, grounded=not flying)
    if mask is not None:
        cover = Image.new("L", (canvas.side, canvas.side))
        cover.paste(pen.layer.getchannel("A"), pen.origin)
        mask[np.asarray(cover.reduce(SUPERSAMPLING)) >= 128] = 1 + INDEX[thing.name]
    if stance == "sail" and setting not in ("sky", "space"):
        for k in range(5):
            at = x + (k / 2 - 1) * 0.9 * reach
            canvas.oval(
                at, y + 0.98 * reach, 0.4 * reach, 0.045 * reach + 0.004, mood.tone((226, 244, 248)), 190
            )
    if thing.name == "fish" and setting != "underwater":
        canvas.oval(x, y, 1.25 * reach, 1.25 * reach, (214, 242, 250), 60)
        canvas.oval(x - 0.6 * reach, y - 0.7 * reach, 0.2 * reach, 0.12 * reach, (255, 255, 255), 200)


def _paste(canvas: Canvas, pen: Pen, mood: Mood, grounded: bool) -> None:
    """Light an object from the scene's side, soften its edge with a shadow behind it, and set it on the canvas."""
    box = pen.layer.getbbox()
    if box is None:
        return
    layer = pen.layer.crop(box)
    width, height = layer.size
    soft = max(0.8, 0.03 * pen.scale)
    pad = 4 * math.ceil(2.6 * soft)
    frame = Image.new("L", (width + 2 * pad, height + 2 * pad))
    frame.paste(layer.getchannel("A"), (pad, pad))
    small = frame.reduce(4).filter(ImageFilter.GaussianBlur(soft))
    shadow = small.resize(frame.size, Image.Resampling.BILINEAR).point(_SOFTEN)
    drop = max(2.0, (0.05 if grounded else 0.09) * pen.scale)
    left, top = pen.origin[0] + box[0], pen.origin[1] + box[1]
    at = (round(left - pad - mood.side * drop), round(top - pad + drop * (0.2 if grounded else 0.7)))
    canvas.image.paste(_SHADOW, at, shadow)
    relief = _relief(np.asarray(small, dtype=np.float32), mood)
    light = Image.fromarray(relief).resize(frame.size, Image.Resampling.BILINEAR)
    light = light.crop((pad, pad, pad + width, pad + height))
    canvas.image.paste(ImageChops.soft_light(layer.convert("RGB"), light), (left, top), layer)
    for x, y, radius, colour, strength in pen.glows:
        canvas.glow(x, y, radius, colour, 0.62 * strength)


def _relief(cover: np.ndarray, mood: Mood) -> np.ndarray:
    """Return soft light and shade, (h, w, 3) uint8 around 128: warm where the outline faces the light."""
    h, w = cover.shape
    dx, dy = max(1, round(0.07 * w)), max(1, round(0.07 * h * (0.5 + mood.high)))
    big = np.zeros((h + 2 * dy, w + 2 * dx), dtype=np.float32)
    big[dy : dy + h, dx : dx + w] = cover
    away = big[2 * dy :, :w] if mood.side > 0 else big[2 * dy :, 2 * dx :]
    towards = big[:h, 2 * dx :] if mood.side > 0 else big[:h, :w]
    slope = np.linspace(22.0, -30.0, h, dtype=np.float32)[:, None]
    slope = slope + np.linspace(-16.0, 16.0, w, dtype=np.float32)[None] * np.float32(mood.side)
    level = 0.34 * (away - towards) + slope
    channels = (level * np.float32(1.12) + 134, level + 130, level * np.float32(0.8) + 128)
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def _air(canvas: Canvas, mood: Mood, dice: Dice, scene: Scene) -> None:
    """Fill the air in front: falling snow, drifting fog, blue depth."""
    if scene.setting == "snow" and dice.chance(0.6):
        for _ in range(30):
            r = dice.between(0.003, 0.011)
            canvas.oval(dice.random(), dice.random(), r, r, (255, 255, 255), 120 + dice.below(130))
    if scene.light == "fog" and scene.setting not in ("room", "space", "underwater"):
        for _ in range(4):
            y = dice.between(0.3, 0.95)
            canvas.soft_oval(
                dice.random(), y, dice.between(0.4, 0.8), dice.between(0.08, 0.2), mood.haze, 0.5
            )
    if scene.setting == "underwater":
        for _ in range(dice.below(10)):
            x, y, r = dice.random(), dice.random(), dice.between(0.004, 0.016)
            canvas.oval(x, y, r, r, (232, 252, 252), 100)
            canvas.oval(x - 0.3 * r, y - 0.3 * r, 0.3 * r, 0.3 * r, (255, 255, 255), 220)


@lru_cache(maxsize=4)
def _vignette(size: int) -> np.ndarray:
    """Brightness towards the corners, (size, 3·size)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    return np.repeat(1.03 - 0.1 * (axis[:, None] ** 2 + axis[None] ** 2), 3, axis=1).astype(np.float32)


@lru_cache(maxsize=4)
def _film(size: int) -> np.ndarray:
    """A tile of film grain, (2·size, 6·size), grey, about unit variance: sums of three uniforms."""
    generator = np.random.Generator(np.random.Philox(key=np.array([7, 7], dtype=np.uint64)))
    grain = 2 * generator.random((3, 2 * size, 2 * size)).sum(axis=0) - 3
    return np.repeat(grain, 3, axis=1).astype(np.float32)


def _develop(canvas: Canvas, dice: Dice, scene: Scene, size: int) -> np.ndarray:
    """Scale down, blur, expose, and add grain."""
    picture = canvas.image.reduce(SUPERSAMPLING)
    if scene.blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.blur * size / 96))
    exposure = math.exp(dice.between(-0.12, 0.1))
    warmth = dice.between(-0.035, 0.035)
    tint = np.array([exposure * (1 + warmth), exposure, exposure * (1 - warmth)], dtype=np.float32)
    pixels = np.asarray(picture).reshape(size, 3 * size) * _vignette(size)
    pixels *= np.tile(tint, size)
    top, left = dice.below(size), 3 * dice.below(size)
    grain = _film(size)[top : top + size, left : left + 3 * size]
    pixels += grain * np.float32(0.6 + 4.6 * scene.grain) + np.float32(0.5)
    return pixels.clip(0, 255, out=pixels).astype(np.uint8).reshape(size, size, 3)
