"""Which sentences the classes of a set are asked for with: told by the classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from openslip.data.labelled import imagenet, prompts
from openslip.errors import ConfigError
from openslip.evaluation import datasets
from openslip.scenes import TEMPLATES, Scenes

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def asked(names):
    return prompts.for_set(SimpleNamespace(class_names=tuple(names)))


def some_of(card, count):
    """Names that tell a set, among others that tell nothing."""
    telling = [one.split("|")[0] for one in datasets.get(card).told_by]
    return [*telling, *(f"thing {i}" for i in range(count - len(telling)))]


def test_sets_are_known_by_their_classes():
    assert (asked(CIFAR10).name, len(asked(CIFAR10).templates)) == ("cifar", 18)
    assert asked(reversed(["plane", "car", *CIFAR10[2:]])).name == "cifar"
    assert asked(CIFAR10[1:]).name == "default"
    assert asked(Scenes.class_names).templates == TEMPLATES
    caltech = some_of("caltech101", 101)
    assert (asked(caltech).name, len(asked(caltech).templates)) == ("caltech101", 34)
    assert asked(name.replace(" ", "_").title() for name in caltech).name == "caltech101"
    assert asked(some_of("cifar100", 100)).name == "cifar"
    assert asked(["cat", "dog"]) == prompts.PromptSet("default", prompts.DEFAULT_TEMPLATES, ("cat", "dog"))


def test_parts_of_imagenet():
    some = imagenet.clip_names()[:200:10]
    assert (asked(some).name, len(asked(some).templates), asked(some).class_names) == ("imagenet", 80, some)
    assert asked(imagenet.clip_names()[:5]).name == "default"
    assert asked([*some, "my grandmother"]).name == "default"


def test_all_of_imagenet_is_asked_for_by_clips_names():
    descriptions = [imagenet._descriptions()[one] for one in imagenet._ids()]
    for names in (imagenet.clip_names(), descriptions, [d.split(",")[0] for d in descriptions]):
        assert asked(names).class_names == imagenet.clip_names()


def test_names_that_two_classes_have_say_nothing_in_another_order():
    turned = tuple(reversed(imagenet.clip_names()))
    assert asked(turned).class_names == turned


@pytest.mark.parametrize("names", [CIFAR10, imagenet.clip_names()[:20], Scenes.class_names, ["a", "b"]])
def test_every_template_takes_a_name(names):
    templates = asked(names).templates
    assert len(set(templates)) == len(templates)
    assert all("gnu" in prompts.fill(t, "gnu") for t in templates)
    assert not any(mark in prompts.fill(t, "gnu") for t in templates for mark in "{}")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}"])
def test_a_template_without_a_place_is_an_error(template):
    with pytest.raises(ConfigError, match=r"holds \{\} once"):
        prompts.fill(template, "cat")


def labelled(class_names, values=(), **more):
    return SimpleNamespace(class_names=tuple(class_names), values=tuple(values), **more)


def test_a_card_gives_names_where_it_knows_them_all():
    found = prompts.for_set(
        labelled(["AnnualCrop", *(n for n in datasets.labels("eurosat") if n != "AnnualCrop")])
    )
    assert found.name == "eurosat, eurosat's names"
    assert found.class_names[0] == "annual crop land"
    other = prompts.for_set(labelled(["Annual Crop", "Forest"]))
    assert other.name == "default"
    unnamed = labelled(map(str, range(7)), range(7), named=False)
    assert not prompts.for_set(unnamed).named
    faces = prompts.for_set(unnamed, datasets.get("fer2013"))
    assert faces.named
    assert faces.names[3] == ("happy", "smiling")
    assert faces.class_names[3] == "happy"


def test_prompts_beside_the_data_come_before_the_cards():
    beside = ("a {}", "the {}")
    assert prompts.for_set(labelled(CIFAR10, templates=beside)).name == "a {} | the {}"
    assert prompts.for_set(labelled(CIFAR10, templates=datasets.templates("cifar"))).name == "cifar"


def test_templates_on_the_command_line(tmp_path):
    assert prompts.given_templates(["a {}", "a {}"]) == ("a {}",)
    assert prompts.given_templates(["imagenet7"]) == datasets.templates("imagenet7")
    assert prompts.given_templates(["imagenet1k"]) == datasets.templates("imagenet")
    (tmp_path / "mine.json").write_text('{"food101": ["{c} to eat"], "wds/vtab/dtd": ["{} stuff"]}')
    given = prompts.given_templates([str(tmp_path / "mine.json")])
    assert isinstance(given, Mapping)
    assert prompts.of_set(given, datasets.get("food101")) == ("{} to eat",)
    assert prompts.of_set(given, datasets.get("dtd")) == ("{} stuff",)
    assert prompts.of_set(given, None, "Food-101") == ("{} to eat",)
    assert prompts.of_set(given, None, "birds") is prompts.of_set(given, datasets.get("cars")) is None
    assert prompts.one_set(given, list(datasets.labels("food101"))) == ("{} to eat",)
    with pytest.raises(ConfigError, match="of several data sets.*do not tell"):
        prompts.one_set(given, ["cat", "dog"])
    with pytest.raises(ConfigError, match="of several data sets, and of none that is CIFAR-10"):
        prompts.one_set(given, CIFAR10)
    (tmp_path / "empty.json").write_text('{"food101": []}')
    with pytest.raises(ConfigError, match="holds no templates.*It has none for food101"):
        prompts.given_templates([str(tmp_path / "empty.json")])
    (tmp_path / "bad.json").write_text('{"food101": {"apple pie": ["an {}"]}}')
    with pytest.raises(ConfigError, match="holds no templates.*type dict for food101"):
        prompts.read_templates(str(tmp_path / "bad.json"))
    with pytest.raises(ConfigError, match="no such templates.*Did you mean 'caltech101'"):
        prompts.read_templates("caltech100")
