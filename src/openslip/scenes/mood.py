"""The light of a scene: its sky, and how it tints what stands in it, near and far."""

from __future__ import annotations

from dataclasses import dataclass

from openslip.scenes.draw import mix
from openslip.scenes.world import Colour, Dice

_SKIES: dict[str, tuple[tuple[Colour, ...], ...]] = {
    "day": (
        ((96, 184, 226), (170, 220, 238), (232, 246, 242)),
        ((126, 200, 232), (206, 234, 236), (253, 243, 220)),
        ((76, 158, 212), (140, 202, 232), (214, 238, 242)),
        ((150, 212, 220), (214, 236, 226), (255, 246, 226)),
    ),
    "dawn": (
        ((150, 176, 226), (220, 196, 220), (253, 214, 196)),
        ((174, 160, 214), (246, 190, 198), (254, 226, 196)),
        ((132, 188, 208), (236, 206, 200), (255, 232, 204)),
    ),
    "sunset": (
        ((76, 60, 124), (226, 112, 136), (254, 196, 124)),
        ((234, 132, 96), (246, 172, 118), (252, 218, 160)),
        ((44, 64, 118), (188, 104, 132), (250, 184, 148)),
        ((112, 76, 146), (240, 138, 138), (255, 214, 158)),
    ),
    "night": (
        ((14, 24, 62), (34, 56, 108), (66, 92, 144)),
        ((20, 18, 52), (54, 48, 104), (104, 82, 138)),
        ((10, 34, 58), (24, 70, 98), (62, 118, 132)),
    ),
    "fog": (
        ((192, 206, 212), (214, 222, 222), (234, 236, 230)),
        ((204, 202, 202), (226, 218, 210), (242, 234, 222)),
        ((178, 200, 204), (206, 220, 218), (228, 234, 226)),
    ),
}
_AMBIENT = {
    "day": (1.0, 1.0, 1.0),
    "dawn": (0.98, 0.92, 0.93),
    "sunset": (0.98, 0.8, 0.74),
    "night": (0.42, 0.47, 0.72),
    "fog": (0.93, 0.95, 0.96),
}
_HAZE = {"day": 0.62, "dawn": 0.72, "sunset": 0.66, "night": 0.6, "fog": 0.97}
_SUNS: dict[str, Colour] = {
    "day": (255, 248, 214),
    "dawn": (255, 236, 210),
    "sunset": (255, 226, 150),
    "night": (250, 244, 214),
    "fog": (252, 250, 240),
}


@dataclass(frozen=True)
class Mood:
    """One light: what it does to colours, and where it comes from."""

    light: str
    sky: tuple[Colour, ...]
    haze: Colour
    sun: Colour
    ambient: tuple[float, float, float]
    side: float
    """-1: the light comes from the left; +1: from the right."""
    high: float
    """How steeply the light falls, 0–1."""

    @property
    def dark(self) -> bool:
        """Whether lamps are lit."""
        return self.light == "night"

    def tone(self, colour: Colour, depth: float = 0.0) -> Colour:
        """Return a colour under this light, `depth` (0 near – 1 far) into the haze."""
        r, g, b = self.ambient
        lit = (round(colour[0] * r), round(colour[1] * g), round(colour[2] * b))
        return mix(lit, self.haze, depth * _HAZE[self.light]) if depth else lit

    def near(self, colour: Colour) -> Colour:
        """Return an object's colour under this light: tinted less than the scenery, so that it stays readable."""
        r, g, b = (0.3 + 0.7 * k for k in self.ambient)
        fog = 0.16 if self.light == "fog" else 0.0
        return mix((round(colour[0] * r), round(colour[1] * g), round(colour[2] * b)), self.haze, fog)


def mood_of(light: str, dice: Dice) -> Mood:
    """Draw a variation of a light."""
    sky = dice.pick(_SKIES[light])
    high = {"day": 0.8, "fog": 0.6, "night": 0.7}.get(light, 0.35) + dice.between(-0.15, 0.2)
    side = -1.0 if dice.chance(0.5) else 1.0
    return Mood(light, sky, sky[-1], _SUNS[light], _AMBIENT[light], side, high)
