"""Captions: varied, often partial, and never about colour alone."""

from __future__ import annotations

import itertools

from openslip.scenes import TEMPLATES
from openslip.scenes.captions import _COLOURS, _PLACES, captions_of
from openslip.scenes.kinds import KINDS
from openslip.scenes.world import COLOURS, Dice, compose


def corpus(count: int = 3000) -> list[tuple[int, str, tuple[str, ...]]]:
    scenes = [compose(0, "train", index) for index in range(count)]
    return [(s.label, s.main.colour, captions_of(s, Dice(0, 0, i, 1))) for i, s in enumerate(scenes)]


CORPUS = corpus()
ALL = [caption.lower() for _, _, captions in CORPUS for caption in captions]


def share(condition) -> float:
    flags = [condition(label, colour, c.lower()) for label, colour, captions in CORPUS for c in captions]
    return sum(flags) / len(flags)


def test_two_to_five_different_ones_each() -> None:
    assert {len(captions) for _, _, captions in CORPUS} == {2, 3, 4, 5}
    for _, _, captions in CORPUS:
        assert len(set(captions)) == len(captions)
        assert all(caption.strip() == caption and caption for caption in captions)


def test_colour_stands_in_some_and_the_class_in_most() -> None:
    def coloured(label: int, colour: str, caption: str) -> bool:
        return any(word in caption.split() for word in _COLOURS.get(colour, (colour,)))

    def named(label: int, colour: str, caption: str) -> bool:
        return any(word in caption for word in (KINDS[label].name, *KINDS[label].synonyms))

    assert 0.32 < share(coloured) < 0.45
    assert 0.68 < share(named) < 0.86


def test_setting_and_light_stand_in_some() -> None:
    def says(words: tuple[str, ...]) -> float:
        return sum(any(word in caption for word in words) for caption in ALL) / len(ALL)

    assert says(("night", "sunset", "dusk", "evening", "dawn", "morning", "sun", "fog", "mist")) > 0.12
    assert says(tuple(phrase for phrases in _PLACES.values() for phrase in phrases)) > 0.2
    assert says(("img", "dsc", ".jpg", ".png", "untitled")) > 0.01


def test_grammar() -> None:
    for caption in ALL:
        words = caption.rstrip(".!").split()
        for article, word in itertools.pairwise(words):
            if article == "a":
                assert word[0] not in "aeiou" or word.startswith("uku"), caption
            if article == "an":
                assert word[0] in "aeiou", caption
    assert len(set(ALL)) > 0.7 * len(ALL)


def test_templates_take_a_name() -> None:
    assert all(template.format("fish").count("fish") == 1 for template in TEMPLATES)
    assert not any(colour in template for colour in COLOURS for template in TEMPLATES)
