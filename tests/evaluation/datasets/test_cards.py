"""The table of data sets: every card says what is needed to measure on its set as others do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from openslip.data.labelled.prompts import check_templates
from openslip.data.labelled.splits import SPLITS
from openslip.errors import ConfigError
from openslip.evaluation import datasets, measures
from openslip.evaluation.datasets import KINDS, Card, cards, find, get, plain, short, told

PAPER = {
    "top1": (
        *("food101", "cifar10", "cifar100", "cub200", "sun397", "cars", "dtd", "mnist", "fer2013", "stl10", "eurosat"),
        *("resisc45", "gtsrb", "kitti_distance", "country211", "patch_camelyon", "ucf101", "clevr_counts"),
        *("rendered_sst2", "imagenet"),
    ),
    "mean_per_class": ("aircraft", "pets", "caltech101", "flowers"),
    "top1_top5": ("kinetics700",),
    "roc_auc": ("hateful_memes",),
}  # fmt: skip
"""The paper's 26 sets, by the metric that it reports of them."""
TEMPLATES = {
    **{"imagenet": 80, "imagenet7": 7, "cifar": 18, "caltech101": 34, "ucf101": 48, "kinetics700": 28, "resisc45": 18},
    **{"food101": 1, "birds": 1, "sun397": 2, "cars": 8, "aircraft": 2, "dtd": 8, "pets": 1, "flowers": 1, "mnist": 1},
    **{"fer2013": 6, "stl10": 2, "eurosat": 3, "gtsrb": 3, "kitti_distance": 1, "country211": 5, "patch_camelyon": 1},
    **{"clevr_counts": 1, "hateful_memes": 1, "rendered_sst2": 1, "voc2007": 1, "svhn": 6, "scenes": 10},
}  # fmt: skip
"""How many templates CLIP has for each."""


@pytest.mark.parametrize("card", cards().values(), ids=lambda card: card.name)
def test_a_card_is_complete(card: Card) -> None:
    assert card.kind in KINDS
    assert card.metric in measures.MEASURES or "recall@" in card.metric
    assert card.title
    assert card.where
    assert card.licence
    assert card.splits
    assert set(card.splits) <= set(SPLITS)
    assert all(count > 0 for count in card.splits.values())
    assert (card.classes >= 2) == (card.kind in ("classes", "masks"))
    assert not {"test", "val"}.isdisjoint(card.splits)
    check_templates(card.templates)
    if card.kind == "classes":
        assert card.templates
    if card.labels:
        assert len(card.labels) == card.classes
        called = [names[0] for names in card.labels.values()]
        assert len(set(called)) == len(called)
        assert all(name == " ".join(name.split()) for names in card.labels.values() for name in names)


def test_the_papers_sets_come_first_with_its_metrics() -> None:
    paper = {name: card.metric for name, card in cards().items() if card.paper}
    assert paper == {name: metric for metric, names in PAPER.items() for name in names}
    assert len(paper) == 26
    assert list(cards())[:26] == list(paper)


def test_how_many_templates_there_are() -> None:
    assert {name: len(datasets.templates(name)) for name in datasets.template_sets()} == TEMPLATES
    assert set(datasets.templates("imagenet7")) < set(datasets.templates("imagenet"))
    assert datasets.templates("cifar")[8:11] == (
        "a photo of a big {}.",
        "a photo of the {}.",
        "a blurry photo of the {}.",
    )
    assert datasets.templates("caltech101")[-1] == "a doodle of the {}."


def test_names_of_a_card_are_found_in_any_spelling() -> None:
    for name in ("food101", "Food-101", "FOOD 101", "wds_food101"):
        assert find(name) is cards()["food101"]
    assert get("wds_vtab-caltech101").name == "caltech101"
    assert get("vtab/dtd").name == get("wds/vtab/dtd").name == "dtd"
    assert find("photos") is None
    with pytest.raises(ConfigError, match=r"no card.*Did you mean 'food101'.*slip datasets"):
        get("food102")


def test_no_two_cards_share_a_name() -> None:
    by_name: dict[str, str] = {}
    for card in cards().values():
        for name in {short(one) for one in (card.name, card.title, *card.aliases, card.hub) if one}:
            assert by_name.setdefault(name, card.name) == card.name


@pytest.mark.parametrize("name", [card.name for card in cards().values() if card.told_by == "labels"])
def test_all_names_tell_a_set_by_its_folders_or_its_prompts(name: str) -> None:
    card = cards()[name]
    assert told(card.labels) is card
    assert told([names[-1].upper().replace(" ", "_") for names in card.labels.values()]) is card
    assert told([*card.labels][1:]) is not card
    assert told([*[*card.labels][1:], "something else"]) is not card


@pytest.mark.parametrize("name", [card.name for card in cards().values() if card.told_by == "name"])
def test_sets_that_nothing_tells_are_not_taken_for_others(name: str) -> None:
    if labels := cards()[name].labels:
        assert told(labels) is None


def test_imagenet_is_told_by_its_names() -> None:
    from openslip.data.labelled import imagenet

    assert told(imagenet.clip_names()[:20]) is told(imagenet.clip_names()) is cards()["imagenet"]
    assert told(imagenet.clip_names()[:5]) is None
    assert told([*imagenet.clip_names()[:20], "my grandmother"]) is None


def called(card: Card, values: Sequence[str | int]) -> tuple[tuple[str, ...], ...]:
    """Return what a card calls classes that it has."""
    found = card.called(values)
    assert found is not None
    return found


def test_what_classes_are_called_by_names_and_numbers() -> None:
    caltech = cards()["caltech101"]
    assert caltech.called(["Faces", "Faces_easy", "car_side"]) == (
        ("off-center face",),
        ("centered face",),
        ("side of a car",),
    )
    assert caltech.called([0, 1], ["faces easy", "watch"]) == (("centered face",), ("watch",))
    assert caltech.called(["Faces", "my cat"]) is None
    assert caltech.called(["Faces", "off-center face"]) is None
    flowers = cards()["flowers"]
    every = tuple(flowers.labels.values())
    assert flowers.called(range(102)) == flowers.called([f"{i:03}" for i in range(1, 103)]) == every
    assert flowers.called(range(101)) is flowers.called(range(2, 104)) is None
    digits = cards()["svhn"]
    assert called(digits, range(10))[0] == ("zero",)
    assert digits.called(range(1, 11)) is None  # of the authors' files, where 10 is the digit 0
    assert called(cards()["clevr_counts"], [f"{i}" for i in range(3, 11)])[0] == ("3",)
    assert called(cards()["clevr_counts"], range(8))[0] == ("3",)
    assert cards()["fer2013"].called(["happy"]) == (("happy", "smiling"),)
    assert cards()["ucf101"].called(["ApplyEyeMakeup", "HandstandPushups"]) == (
        ("Apply Eye Makeup",),
        ("Hand Stand Pushups",),
    )
    assert cards()["country211"].called(["AD", "ZW"]) == (("Andorra",), ("Zimbabwe",))


def test_labels_of_imagenet_are_numbers_or_names() -> None:
    v2 = cards()["imagenetv2"]
    assert called(v2, [f"{i}" for i in range(1000)])[:2] == (("tench",), ("goldfish",))
    assert v2.called(range(999)) is None
    assert cards()["imagenet-r"].called(range(200)) is None


def test_spellings_of_classes() -> None:
    assert plain("Apply_Eye-Makeup") == plain("ApplyEyeMakeup") == "applyeyemakeup"
    assert plain("F-16A/B") == plain("F-16A_B")


def test_importing_the_table_is_cheap() -> None:
    code = (
        "import sys; from openslip.evaluation import datasets; datasets.cards(); "
        "print([m for m in ('torch', 'numpy', 'timm', 'PIL') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
