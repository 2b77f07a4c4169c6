"""The colours that one object is drawn with, under the scene's light."""

from __future__ import annotations

from dataclasses import dataclass

from openslip.scenes.draw import mix, shade
from openslip.scenes.mood import Mood
from openslip.scenes.world import COLOURS, LAMPLIGHT, Colour, Dice, Thing


@dataclass(frozen=True)
class Ink:
    """An object's own colours, the usual materials, and whether lights are on."""

    base: Colour
    light: Colour
    pale: Colour
    dark: Colour
    deep: Colour
    mark: Colour
    """Colour of the pattern."""
    accent: Colour
    """Colour of the trimmings."""
    accent_dark: Colour
    cream: Colour
    wood: Colour
    bark: Colour
    black: Colour
    grey: Colour
    leaf: Colour
    leaf_dark: Colour
    gold: Colour
    rose: Colour
    pane: Colour
    """Window glass: lit from inside in the dark."""
    lit: bool


def ink_of(thing: Thing, mood: Mood, dice: Dice) -> Ink:
    """Mix an object's colours."""
    wobble = [dice.between(-9, 9) for _ in range(3)]
    r, g, b = (min(255, max(0, round(c + w))) for c, w in zip(dice.pick(COLOURS[thing.colour]), wobble))
    own: Colour = (r, g, b)
    accent = dice.pick(COLOURS[thing.accent])
    bright = sum(own) > 300
    mark = dice.pick((accent, shade(own, 0.55), shade(own, -0.3 if bright else 0.35)))
    near = mood.near
    return Ink(
        base=near(own),
        light=near(shade(own, 0.25)),
        pale=near(shade(own, 0.6)),
        dark=near(shade(own, -0.22)),
        deep=near(shade(own, -0.45)),
        mark=near(mark),
        accent=near(accent),
        accent_dark=near(shade(accent, -0.25)),
        cream=near((250, 240, 220)),
        wood=near((186, 134, 90)),
        bark=near(dice.pick(((122, 86, 70), (142, 104, 82), (104, 80, 82)))),
        black=near((46, 44, 60)),
        grey=near((152, 156, 170)),
        leaf=near(dice.pick(((104, 162, 96), (128, 176, 92), (78, 142, 110)))),
        leaf_dark=near((62, 118, 92)),
        gold=near((244, 196, 84)),
        rose=near((244, 160, 168)),
        pane=LAMPLIGHT if mood.dark else mix(near((176, 214, 226)), mood.sky[0], 0.2),
        lit=mood.dark,
    )
