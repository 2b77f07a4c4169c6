"""ImageNet's classes: WordNet ids (`n01440764`), order and names.

The ids and WordNet's names come from timm. The 1,000 names in the prompts of Radford et al. 2021 come from open_clip.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

SIZE = 1000
"""Classes of ImageNet-1k."""
FEWEST = 10
"""The fewest names by which a part of ImageNet is recognised: a few household things are not taken for ImageNet."""

_WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)


def is_wordnet_id(text: str) -> bool:
    """Return whether `text` is written like a noun's WordNet id, the form of ImageNet's class folders."""
    return _WORDNET_ID.fullmatch(text) is not None


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """Return the names of known WordNet ids: CLIP's names for ImageNet-1k, WordNet's first names for others."""
    ids = list(ids)
    clip, descriptions = dict(zip(_ids(), clip_names(), strict=True)), _descriptions()
    return {
        one: clip.get(one) or descriptions[one].split(",")[0].strip()
        for one in ids
        if one in clip or one in descriptions
    }


@cache
def clip_names() -> tuple[str, ...]:
    """Return CLIP's names of ImageNet's 1,000 classes in the order of labels, which is the order of ids."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def holds(class_names: Sequence[str]) -> bool:
    """Return whether these are at least FEWEST names of ImageNet-1k's classes, by CLIP or by WordNet."""
    return len(class_names) >= FEWEST and all(_labels(name) for name in class_names)


def labels_of(class_names: Sequence[str]) -> list[int] | None:
    """Return the label of each name in ImageNet-1k if these are names of all its classes, None otherwise.

    A name of several classes (`crane`) gets its label from its position.
    """
    if len(class_names) != SIZE:
        return None
    possible = [_labels(name) for name in class_names]
    if all(i in labels for i, labels in enumerate(possible)):
        return list(range(SIZE))
    certain = [next(iter(labels)) for labels in possible if len(labels) == 1]
    return certain if len(set(certain)) == SIZE else None


def _labels(name: str) -> set[int]:
    """Return the labels of the classes that have a name, or a list of names (`tench, Tinca tinca`)."""
    return _labels_by_name().get(_plain(name), set())


@cache
def _labels_by_name() -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    descriptions = _descriptions()
    for label, (one, clip) in enumerate(zip(_ids(), clip_names(), strict=True)):
        for name in (clip, descriptions[one], *descriptions[one].split(",")):
            found[_plain(name)].add(label)
    return dict(found)


@cache
def _ids() -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@cache
def _descriptions() -> dict[str, str]:
    """Return WordNet's names of all classes of ImageNet-21k by id. Commas separate several names of a class."""
    from timm.data.imagenet_info import ImageNetInfo

    found: dict[str, str] = {}
    for subset in ("imagenet-1k", "imagenet-21k-goog", "imagenet-22k"):
        info = ImageNetInfo(subset)
        found |= {one: info.label_name_to_description(one) for one in info.label_names()}
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
