"""Captions like people's: several phrasings a picture, often partial, sometimes useless."""

from __future__ import annotations

from collections.abc import Callable

from openslip.scenes.kinds import INDEX, KINDS
from openslip.scenes.world import GROUNDLESS, Dice, Scene, Thing

TEMPLATES: tuple[str, ...] = (
    "a {}",
    "the {}",
    "my {}",
    "a picture of a {}",
    "a photo of a {}",
    "a drawing of a {}",
    "a little {}",
    "a big {}",
    "look, a {}",
    "a {} in the evening",
)
"""Prompts for zero-shot classification, in the captions' own language."""

_COLOURS = {"turquoise": ("turquoise", "teal"), "purple": ("purple", "violet"), "black": ("black", "dark")}
_TEXTURES = {
    "plain": (),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "checkered"),
    "zigzag": ("zigzag", "patterned"),
    "speckled": ("speckled", "patterned"),
}
_PLACES = {
    "underwater": ("under the sea", "underwater", "at the bottom of the sea", "deep in the water"),
    "sea": ("at sea", "on the water", "by the sea", "in the middle of the ocean"),
    "beach": ("on the beach", "by the sea", "in the sand", "at the seaside"),
    "sky": ("in the sky", "up in the air", "above the clouds", "among the clouds"),
    "space": ("in space", "among the stars", "in outer space", "far from earth"),
    "meadow": ("in a meadow", "on the grass", "in the fields", "in the countryside", "on a green hill"),
    "mountains": ("in the mountains", "in front of the mountains", "in the alps", "below the peaks"),
    "forest": ("in the forest", "in the woods", "between the trees", "deep in the forest"),
    "desert": ("in the desert", "in the sand", "among the dunes", "in the heat"),
    "snow": ("in the snow", "in winter", "on a snowy hill", "in the cold"),
    "street": ("in the street", "in town", "in front of the houses", "in the city"),
    "room": ("in the room", "at home", "indoors", "on the table", "in the living room"),
}
_PEDESTALS = {
    "sky": ("on a cloud", "in the sky"),
    "space": ("on a small planet", "on the moon", "in space"),
    "sea": ("on an island", "on a rock in the sea", "in the sea"),
}
_SCENES = {
    "underwater": ("the deep sea", "underwater world", "diving"),
    "sea": ("the sea", "ocean view", "calm water", "the open sea"),
    "beach": ("the beach", "holidays", "a day at the beach", "summer"),
    "sky": ("the sky", "clouds", "high up", "flying"),
    "space": ("outer space", "stars", "the universe", "another planet"),
    "meadow": ("green hills", "the countryside", "a meadow", "spring"),
    "mountains": ("mountains", "a hike", "the alps", "mountain view"),
    "forest": ("the forest", "a walk in the woods", "deep woods"),
    "desert": ("the desert", "dunes", "sand and more sand"),
    "snow": ("winter", "snow", "first snow", "a cold day"),
    "street": ("downtown", "our street", "the old town", "city life"),
    "room": ("home", "my room", "a quiet corner", "the living room"),
}
_LIGHTS = {
    "day": ("on a sunny day", "in the sun", "in daylight", "in the afternoon"),
    "dawn": ("at dawn", "early in the morning", "at sunrise", "in the morning light"),
    "sunset": ("at sunset", "in the evening", "at dusk", "in the evening light"),
    "night": ("at night", "under the stars", "in the dark", "by night"),
    "fog": ("in the fog", "on a misty day", "in the mist", "on a grey day"),
}
_TIMES = {
    "day": ("sunny day", "blue sky", "what a day"),
    "dawn": ("sunrise", "early morning", "good morning"),
    "sunset": ("sunset", "evening light", "golden hour"),
    "night": ("night", "good night", "moonlight"),
    "fog": ("fog", "misty morning", "grey day"),
}
_USELESS = (
    *(
        "untitled",
        "nice",
        "no title",
        "test",
        "love it",
        "wow",
        "new",
        "my favourite place",
        "for you",
        "cover",
    ),
    *(
        "image",
        "picture 1",
        "copy of copy",
        "hello",
        "throwback",
        "daily drawing",
        "wip",
        "enjoy",
        "best day ever",
    ),
)
_PLURALS = {"leaf": "leaves", "starfish": "starfish"}


def _a(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" and not phrase.startswith("uku") else f"a {phrase}"


def _plural(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    return f"{noun}es" if noun.endswith(("sh", "s")) else f"{noun}s"


def _noun(thing: Thing, dice: Dice) -> str:
    """Return what someone calls a thing: mostly its name."""
    kind, fate = KINDS[INDEX[thing.name]], dice.random()
    if fate < 0.86:
        return kind.name
    return dice.pick(kind.synonyms if fate < 0.97 else kind.hypernyms)


def _colour(thing: Thing, dice: Dice) -> str:
    if thing.texture != "plain" and thing.accent != thing.colour and dice.chance(0.12):
        return f"{thing.colour} and {thing.accent}"
    return dice.pick(_COLOURS.get(thing.colour, (thing.colour,)))


def _phrase(thing: Thing, dice: Dice, noun: str = "", size: float = 0.5, colour: float = 0.56) -> str:
    """Return the noun with some of its adjectives: size, texture, colour."""
    words = []
    if size < 0.32 and dice.chance(0.3):
        words.append(dice.pick(("little", "small", "tiny")))
    elif size > 0.64 and dice.chance(0.25):
        words.append(dice.pick(("big", "large", "huge")))
    if _TEXTURES[thing.texture] and dice.chance(0.45):
        words.append(dice.pick(_TEXTURES[thing.texture]))
    if dice.chance(colour):
        words.append(_colour(thing, dice))
    return " ".join((*words, noun or _noun(thing, dice)))


def _place(scene: Scene, dice: Dice) -> str:
    stance = KINDS[scene.label].stance
    if stance == "stand" and scene.setting in GROUNDLESS and dice.chance(0.6):
        return dice.pick(_PEDESTALS[scene.setting])
    return dice.pick(_PLACES[scene.setting])


def _full(scene: Scene, dice: Dice) -> str:
    """A whole sentence's worth: what, doing what, where, when."""
    parts = [_a(_phrase(scene.main, dice, size=scene.size))]
    if dice.chance(0.3):
        parts.append(dice.pick(KINDS[scene.label].doing))
    if dice.chance(0.65):
        parts.append(_place(scene, dice))
    if dice.chance(0.42):
        parts.append(dice.pick(_LIGHTS[scene.light]))
    if len(parts) < 3 and dice.chance(0.12):
        side = "on the left" if scene.x < 0.4 else "on the right" if scene.x > 0.6 else "in the middle"
        parts.append(side)
    return " ".join(parts)


def _short(scene: Scene, dice: Dice) -> str:
    phrase = _phrase(scene.main, dice, size=scene.size)
    return dice.pick((phrase, _a(phrase), f"the {phrase}"))


def _personal(scene: Scene, dice: Dice) -> str:
    phrase = _phrase(scene.main, dice, colour=0.3)
    forms = ("my {}", "our {}", "{}!", "my favourite {}", "the {} again", "that {}", "hello {}", "{} :)")
    return f"look, {_a(phrase)}" if dice.chance(0.12) else dice.pick(forms).format(phrase)


def _picture(scene: Scene, dice: Dice) -> str:
    medium = dice.pick(("a photo of", "a picture of", "picture of", "a drawing of", "illustration of"))
    if scene.size > 0.62 and dice.chance(0.3):
        medium = "close-up of"
    tail = f" {_place(scene, dice)}" if dice.chance(0.3) else ""
    return f"{medium} {_a(_phrase(scene.main, dice))}{tail}"


def _together(scene: Scene, dice: Dice) -> str:
    """Two things, or the thing and what lies about."""
    main = _a(_phrase(scene.main, dice, colour=0.36))
    if scene.second is None:
        count, thing = scene.clutter.count(scene.clutter[0]), scene.clutter[0]
        many = f"{('', 'one', 'two', 'three', 'four')[count]} {_plural(thing)}" if count > 1 else _a(thing)
        return f"{main} {dice.pick(('and', 'with'))} {many}"
    other = _a(_phrase(scene.second, dice, size=0.3, colour=0.25))
    if dice.chance(0.3):
        return f"{other} {dice.pick(('next to', 'beside', 'and', 'near'))} {main}"
    tail = f" {_place(scene, dice)}" if dice.chance(0.3) else ""
    return f"{main} {dice.pick(('and', 'and', 'with', 'next to'))} {other}{tail}"


def _mood(scene: Scene, dice: Dice) -> str:
    """Where or when, not what."""
    where, when = dice.pick(_SCENES[scene.setting]), dice.pick(_TIMES[scene.light])
    return dice.pick((where, when, f"{when}, {where}", f"{where} {dice.pick(_LIGHTS[scene.light])}"))


def _vague(scene: Scene, dice: Dice) -> str:
    """What kind of thing, or only its colour."""
    if dice.chance(0.5):
        word = (
            _colour(scene.main, dice)
            if dice.chance(0.6)
            else dice.pick(_TEXTURES[scene.main.texture] or ("nice",))
        )
        return f"something {word} {_place(scene, dice)}"
    kind = dice.pick(KINDS[scene.label].hypernyms)
    return f"{_a(_phrase(scene.main, dice, noun=kind, colour=0.4))} {_place(scene, dice)}"


def _useless(scene: Scene, dice: Dice) -> str:
    number = dice.below(10_000)
    forms = (
        f"IMG {number:04d}",
        f"DSC_{number:04d}.jpg",
        f"IMG_{number:04d}.JPG",
        f"scan{number % 100:02d}.png",
    )
    return dice.pick(forms) if dice.chance(0.5) else dice.pick(_USELESS)


_FORMS: tuple[tuple[float, Callable[[Scene, Dice], str]], ...] = (
    (0.34, _full),
    (0.14, _short),
    (0.10, _personal),
    (0.08, _picture),
    (0.14, _together),
    (0.08, _mood),
    (0.06, _vague),
    (0.06, _useless),
)


def _form(dice: Dice) -> Callable[[Scene, Dice], str]:
    fate = dice.random()
    for weight, form in _FORMS:
        fate -= weight
        if fate < 0:
            return form
    return _full


def captions_of(scene: Scene, dice: Dice) -> tuple[str, ...]:
    """Return two to five different captions of a scene."""
    wanted = 2 + dice.below(4)
    captions: dict[str, None] = {}
    while len(captions) < wanted:
        form = _form(dice)
        text = form(scene, dice)
        if form is not _useless:
            if dice.chance(0.3):
                text = text[0].upper() + text[1:]
            if dice.chance(0.1):
                text += "."
        captions[text] = None
    return tuple(captions)
