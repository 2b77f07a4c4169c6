"""The classes: the names of each, the looks that it likes, the places where it is found, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One class. Colours, textures and settings are likes, never exclusive; a repeated like counts more."""

    name: str
    family: str
    stance: str
    """stand (on some ground), fly, swim or sail."""
    colours: tuple[str, ...]
    textures: tuple[str, ...]
    settings: tuple[str, ...]
    synonyms: tuple[str, ...]
    hypernyms: tuple[str, ...]
    doing: tuple[str, ...]


def _kind(name: str, nature: str, looks: str, settings: str, words: str) -> Kind:
    """Read one entry: `family stance`, `colours | textures`, `settings`, `synonyms | hypernyms | doing`."""
    family, stance = nature.split()
    colours, textures = (tuple(part.split()) for part in looks.split(" | "))
    synonyms, hypernyms, doing = (tuple(part.split(", ")) for part in words.split(" | "))
    return Kind(name, family, stance, colours, textures, tuple(settings.split()), synonyms, hypernyms, doing)


KINDS: tuple[Kind, ...] = (
    _kind(
        *("fish", "animal swim", "orange blue yellow | striped plain speckled"),
        "underwater underwater underwater sea sky",
        "goldfish, little fish | sea creature, animal | swimming, drifting, looking around",
    ),
    _kind(
        *("bird", "animal fly", "blue red yellow brown | plain plain speckled"),
        "sky forest meadow snow beach street",
        "birdie, songbird, sparrow | animal, feathered friend | flying, singing, on its way",
    ),
    _kind(
        *("butterfly", "animal fly", "orange purple blue yellow | dotted plain striped"),
        "meadow forest sky room underwater",
        "moth, flutterby | insect, animal | fluttering, dancing, resting",
    ),
    _kind(
        *("cat", "animal stand", "orange black white brown | plain striped speckled"),
        "room room street meadow beach snow",
        "kitty, kitten, tomcat | pet, animal | sitting, waiting, watching",
    ),
    _kind(
        *("owl", "animal stand", "brown white purple | speckled plain zigzag"),
        "forest forest snow street space",
        "owlet, night bird | animal, bird of prey | staring, watching, wide awake",
    ),
    _kind(
        *("snail", "animal stand", "brown pink yellow | striped plain"),
        "meadow forest underwater beach",
        "garden snail, slow snail | animal, little creature | crawling, taking its time, going home",
    ),
    _kind(
        *("tree", "plant stand", "green orange red pink | plain plain speckled"),
        "meadow meadow street mountains beach desert",
        "oak, apple tree, old tree | plant, some greenery | growing, standing, in the wind",
    ),
    _kind(
        *("pine", "plant stand", "green turquoise | plain dotted striped"),
        "snow snow mountains forest room",
        "pine tree, fir, christmas tree | plant, evergreen | standing, growing",
    ),
    _kind(
        *("cactus", "plant stand", "green turquoise | striped plain speckled"),
        "desert desert room beach mountains",
        "saguaro, prickly cactus | plant, succulent | standing, in bloom",
    ),
    _kind(
        *("flower", "plant stand", "red pink yellow purple | plain plain dotted"),
        "meadow meadow room forest street",
        "daisy, blossom, bloom | plant | blooming, in bloom, growing",
    ),
    _kind(
        *("mushroom", "plant stand", "red brown | dotted dotted plain"),
        "forest forest meadow snow underwater",
        "toadstool, fungus | forest find, thing | growing, hiding",
    ),
    _kind(
        *("house", "building stand", "red yellow white blue | plain checked striped"),
        "street meadow mountains snow sea",
        "cottage, cabin, home | building, place | standing, waiting",
    ),
    _kind(
        *("tent", "building stand", "orange green blue | plain striped zigzag"),
        "mountains forest desert meadow snow",
        "tipi, wigwam, camp tent | shelter, place to sleep | pitched, standing",
    ),
    _kind(
        *("lighthouse", "building stand", "red white black | striped striped plain"),
        "sea sea beach mountains snow",
        "beacon, light tower | building, tower | standing, shining",
    ),
    _kind(
        *("castle", "building stand", "white brown pink | plain checked speckled"),
        "mountains meadow sky underwater desert",
        "fortress, palace, fort | building, old place | standing, towering",
    ),
    _kind(
        *("car", "vehicle stand", "red blue yellow | plain plain striped"),
        "street street desert beach mountains",
        "automobile, little car, auto | vehicle, ride | parked, driving, on a trip",
    ),
    _kind(
        *("train", "vehicle stand", "black red green | plain striped"),
        "mountains desert meadow snow room",
        "locomotive, steam engine, steam train | vehicle | rolling, puffing, on its way",
    ),
    _kind(
        *("sailboat", "vehicle sail", "white red blue | plain striped plain"),
        "sea sea beach mountains sky",
        "boat, yacht, sailing boat | vessel, vehicle | sailing, drifting",
    ),
    _kind(
        *("hot air balloon", "vehicle fly", "red yellow purple | striped striped zigzag checked"),
        "sky sky mountains desert meadow",
        "balloon, air balloon, montgolfier | flying thing, aircraft | floating, rising, flying",
    ),
    _kind(
        *("rocket", "vehicle fly", "white red black | plain plain striped checked"),
        "space space sky desert",
        "rocket ship, spaceship | vehicle, spacecraft | taking off, flying, on its way",
    ),
    _kind(
        *("umbrella", "thing stand", "red yellow turquoise | striped plain dotted"),
        "street beach beach room sky",
        "parasol, brolly | thing, object | open, in the wind, left behind",
    ),
    _kind(
        *("teapot", "thing stand", "white blue turquoise | dotted plain zigzag"),
        "room room room meadow beach",
        "kettle, tea pot, pot of tea | piece of kitchenware, thing | steaming, waiting",
    ),
    _kind(
        *("lamp", "thing stand", "yellow white black | plain plain checked striped"),
        "room room room street desert",
        "table lamp, bedside lamp, reading light | piece of furniture, thing | shining, glowing, switched on",
    ),
    _kind(
        *("guitar", "thing stand", "brown orange black | plain plain speckled"),
        "room room street beach meadow",
        "acoustic guitar, ukulele | instrument, thing | leaning, left behind, waiting for music",
    ),
)
NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
INDEX: Mapping[str, int] = {name: i for i, name in enumerate(NAMES)}
