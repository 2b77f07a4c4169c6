"""What exists in the scenes: colours, textures, settings, lights, and the grammar that composes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from openslip.scenes.kinds import KINDS

T = TypeVar("T")
Colour = tuple[int, int, int]

COLOURS: dict[str, tuple[Colour, ...]] = {
    "red": ((214, 72, 66), (226, 88, 80), (192, 54, 62)),
    "orange": ((240, 140, 62), (233, 120, 52), (246, 160, 88)),
    "yellow": ((247, 203, 84), (241, 190, 62), (250, 216, 118)),
    "green": ((98, 160, 92), (126, 178, 98), (66, 138, 96)),
    "turquoise": ((64, 178, 176), (90, 196, 186), (42, 156, 162)),
    "blue": ((70, 122, 200), (90, 146, 216), (54, 96, 174)),
    "purple": ((138, 98, 178), (158, 118, 194), (112, 78, 158)),
    "pink": ((241, 150, 172), (247, 172, 184), (233, 126, 160)),
    "brown": ((150, 99, 66), (170, 117, 80), (126, 80, 56)),
    "white": ((238, 232, 220), (243, 238, 228), (229, 229, 228)),
    "black": ((54, 54, 68), (66, 63, 78), (44, 47, 60)),
}
"""The named colours, each in three shades."""

ACCENTS: dict[str, tuple[str, ...]] = {
    "red": ("white", "yellow", "turquoise", "black"),
    "orange": ("white", "blue", "turquoise", "brown"),
    "yellow": ("white", "orange", "blue", "purple"),
    "green": ("white", "yellow", "orange", "brown"),
    "turquoise": ("white", "orange", "pink", "yellow"),
    "blue": ("white", "yellow", "orange", "red"),
    "purple": ("white", "yellow", "pink", "turquoise"),
    "pink": ("white", "red", "purple", "turquoise"),
    "brown": ("white", "orange", "turquoise", "yellow"),
    "white": ("red", "blue", "turquoise", "orange"),
    "black": ("white", "yellow", "red", "pink"),
}
"""Colours that go well with each, for its trimmings."""

LAMPLIGHT: Colour = (255, 214, 124)

TEXTURES = ("plain", "striped", "dotted", "checked", "zigzag", "speckled")
SETTINGS = (
    *("underwater", "sea", "beach", "sky", "space", "meadow"),
    *("mountains", "forest", "desert", "snow", "street", "room"),
)
LIGHTS = ("day", "dawn", "sunset", "night", "fog")

GROUNDLESS = ("sky", "space", "sea")
"""Settings with nothing to stand on: things that stand get a cloud, a small planet, an islet."""


CLUTTER: dict[str, tuple[str, ...]] = {
    "underwater": ("bubble", "bubble", "shell", "starfish", "stone"),
    "sea": ("cloud", "bubble", "heart"),
    "beach": ("shell", "starfish", "ball", "stone", "cloud"),
    "sky": ("cloud", "leaf", "heart", "star"),
    "space": ("star", "star", "planet", "heart"),
    "meadow": ("blossom", "blossom", "stone", "leaf", "ball", "cloud"),
    "mountains": ("stone", "blossom", "cloud", "leaf"),
    "forest": ("leaf", "leaf", "stone", "blossom"),
    "desert": ("stone", "stone", "cloud", "star"),
    "snow": ("snowball", "gift", "star", "stone"),
    "street": ("leaf", "ball", "gift", "heart"),
    "room": ("ball", "gift", "book", "star", "heart"),
}
"""Small things that lie or float about, by setting."""


class Dice:
    """Random draws as a pure function of (seed, split, index, stream): plain Philox uniforms."""

    def __init__(self, seed: int, split: int, index: int, stream: int) -> None:
        key = np.array([seed % 2**64, split], dtype=np.uint64)
        counter = np.array([0, 0, index, stream], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        self._values: list[float] = []

    def random(self) -> float:
        """Uniform in [0, 1)."""
        if not self._values:
            self._values = self._generator.random(128).tolist()[::-1]
        return self._values.pop()

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def below(self, count: int) -> int:
        """Uniform among 0 … count - 1."""
        return int(self.random() * count)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.random() * len(options))]


@dataclass(frozen=True)
class Thing:
    """An object of one class, and its looks."""

    name: str
    colour: str
    texture: str
    accent: str
    """Colour of the pattern and the trimmings."""


@dataclass(frozen=True)
class Scene:
    """The whole description of a picture; the renderer only adds pose and detail."""

    main: Thing
    label: int
    setting: str
    light: str
    size: float
    """Extent of the main object as a share of the frame."""
    x: float
    """Its centre, 0 (left) to 1 (right)."""
    y: float
    """0 (far, or high up) to 1 (near, or low)."""
    angle: float
    """Rotation in radians."""
    mirrored: bool
    second: Thing | None
    """A smaller object of another class, or None."""
    second_left: bool
    clutter: tuple[str, ...]
    """Names of the 1–4 small things that lie or float about."""
    grain: float
    blur: float


SPLITS = ("train", "test", "heldout")
PICTURE, LANGUAGE, DETAIL = range(3)
"""Streams: what is in the picture, its captions, how it is drawn."""


def held_out(label: int, colour: str) -> bool:
    """Whether this combination of class and main colour is kept for the `heldout` split (41 of 264).

    The rule spreads them evenly over classes and colours, and spares every class's favourite colour.
    """
    return (3 * label + 4 * list(COLOURS).index(colour) + 2) % 13 < 2


_COLOURS_FOR = tuple(
    tuple(
        tuple(colour for colour in names if held_out(label, colour) == held)
        for names in (kind.colours, tuple(COLOURS))
        for held in (False, True)
    )
    for label, kind in enumerate(KINDS)
)


def compose(seed: int, split: str, index: int) -> Scene:
    """Draw scene `index` of a split; its class is the first draw, see `label_of`."""
    dice = Dice(seed, SPLITS.index(split), index, PICTURE)
    label = dice.below(len(KINDS))
    kind = KINDS[label]
    main = _thing(dice, label, held=split == "heldout")
    setting = dice.pick(kind.settings) if dice.chance(0.8) else dice.pick(SETTINGS)
    light = "night" if setting == "space" else dice.pick(_LIGHT_OF.get(setting, LIGHT_ODDS))
    size = 0.76 - 0.56 * dice.random() ** 1.5
    tilt = {"stand": 0.07, "fly": 0.3, "swim": 0.3, "sail": 0.12}[kind.stance]
    if kind.name in ("guitar", "umbrella"):
        tilt = 0.4
    second = None
    if dice.chance(0.3):
        other = (label + 1 + dice.below(len(KINDS) - 1)) % len(KINDS)
        second = _thing(dice, other, held=False)
    return Scene(
        main=main,
        label=label,
        setting=setting,
        light=light,
        size=size,
        x=0.5 + (dice.random() - 0.5) * (1.0 - 0.75 * size),
        y=dice.random(),
        angle=(dice.random() + dice.random() - 1.0) * tilt,
        mirrored=dice.chance(0.5),
        second=second,
        second_left=dice.chance(0.5),
        clutter=tuple(dice.pick(CLUTTER[setting]) for _ in range(1 + dice.below(4))),
        grain=dice.random() ** 2,
        blur=max(0.0, dice.random() - 0.75) * 2.4,
    )


def label_of(seed: int, split: str, index: int) -> int:
    """Return the class of scene `index` without composing the rest."""
    return Dice(seed, SPLITS.index(split), index, PICTURE).below(len(KINDS))


LIGHT_ODDS = ("day", "day", "day", "dawn", "sunset", "sunset", "night", "night", "fog")
_LIGHT_OF = {
    "room": ("day", "day", "sunset", "night"),
    "underwater": ("day", "day", "sunset", "night"),
}


def _thing(dice: Dice, label: int, held: bool) -> Thing:
    liked, liked_held, every, every_held = _COLOURS_FOR[label]
    liked, every = (liked_held, every_held) if held else (liked, every)
    colour = dice.pick(liked if liked and dice.chance(0.5) else every)
    kind = KINDS[label]
    texture = dice.pick(kind.textures if dice.chance(0.7) else TEXTURES)
    return Thing(kind.name, colour, texture, dice.pick(ACCENTS[colour]))
