"""What a class name becomes before the text tower reads it: sentences in which it stands.

Zero-shot classification averages them, and training on classes (`openslip.data.sources.class_captions`) draws one.

Templates hold `{}` where the class name goes. The sets for CIFAR, Caltech-101 and ImageNet are those of Radford et al.
2021 (CLIP), the ImageNet ones as open_clip ships them. The classes decide which set is used, not the name of the data:
`cifar100` begins like `cifar10`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from openslip.data.labelled import imagenet
from openslip.errors import ConfigError, printable
from openslip.files import expand, read_json, read_whole

SETS = ("default", "cifar", "caltech101", "imagenet", "scenes")
"""Sets of templates by name."""
MOST_BYTES = 1 << 20
DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")

_CIFAR_FRAMES = (
    "a photo of {article} {{}}.",
    "a blurry photo of {article} {{}}.",
    "a black and white photo of {article} {{}}.",
    "a low contrast photo of {article} {{}}.",
    "a high contrast photo of {article} {{}}.",
    "a bad photo of {article} {{}}.",
    "a good photo of {article} {{}}.",
    "a photo of {article} small {{}}.",
    "a photo of {article} big {{}}.",
)
_CALTECH101_FRAMES = (
    "a photo of {article} {{}}.",
    "a painting of {article} {{}}.",
    "{article} plastic {{}}.",
    "a sculpture of {article} {{}}.",
    "a sketch of {article} {{}}.",
    "a tattoo of {article} {{}}.",
    "{article} toy {{}}.",
    "a rendition of {article} {{}}.",
    "{article} embroidered {{}}.",
    "{article} cartoon {{}}.",
    "{article} {{}} in a video game.",
    "{article} plushie {{}}.",
    "{article} origami {{}}.",
    "art of {article} {{}}.",
    "graffiti of {article} {{}}.",
    "a drawing of {article} {{}}.",
    "a doodle of {article} {{}}.",
)
CIFAR_TEMPLATES = tuple(frame.format(article=a) for a in ("a", "the") for frame in _CIFAR_FRAMES)
CALTECH101_TEMPLATES = tuple(frame.format(article=a) for a in ("a", "the") for frame in _CALTECH101_FRAMES)


_CIFAR10 = (
    {"airplane", "aeroplane", "plane"},
    {"automobile", "car"},
    *({name} for name in ("bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")),
)
_OF_CIFAR100 = {
    *("aquarium fish", "lawn mower", "maple tree", "willow tree", "pickup truck", "sweet pepper", "flatfish"),
    *("shrew", "skunk", "possum", "streetcar", "wardrobe"),
}
_OF_CALTECH101 = {
    *(
        "brontosaurus",
        "stegosaurus",
        "ceiling fan",
        "cougar body",
        "euphonium",
        "garfield",
        "gerenuk",
        "okapi",
    ),
    *("inline skate", "snoopy", "trilobite", "windsor chair", "yin yang"),
}
"""Of each set some names that hardly another one has together."""


@dataclass(frozen=True)
class PromptSet:
    """What the classes of a set are asked for with. name: short, for results; class_names: C names, in their order."""

    name: str
    templates: tuple[str, ...]
    class_names: tuple[str, ...]


class HasClasses(Protocol):
    """Labelled images, or features of them."""

    @property
    def class_names(self) -> tuple[str, ...]: ...


def for_set(labelled: HasClasses) -> PromptSet:
    """Return the templates that suit labelled images, told by the classes that they have, whatever their name is.

    Of all 1,000 classes of ImageNet the names become CLIP's; other names stay as they are.
    """
    names = labelled.class_names
    told = {" ".join(re.split(r"[\s_-]+", name.lower())) for name in names}
    if len(names) == len(_CIFAR10) and all(told & alike for alike in _CIFAR10):
        return PromptSet("cifar", CIFAR_TEMPLATES, names)
    if len(names) == 100 and told >= _OF_CIFAR100:
        return PromptSet("cifar", CIFAR_TEMPLATES, names)
    if len(names) in (100, 101, 102) and told >= _OF_CALTECH101:
        return PromptSet("caltech101", CALTECH101_TEMPLATES, names)
    if told == _scenes():
        return PromptSet("scenes", called("scenes"), names)
    if imagenet.holds(names):
        labels, clip = imagenet.labels_of(names), imagenet.clip_names()
        names = tuple(clip[label] for label in labels) if labels else names
        return PromptSet("imagenet", called("imagenet"), names)
    return PromptSet("default", DEFAULT_TEMPLATES, names)


def called(name: str) -> tuple[str, ...]:
    """Return the templates of one of SETS."""
    match name:
        case "scenes":
            from openslip.scenes import TEMPLATES

            return tuple(TEMPLATES)
        case "imagenet":
            from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

            return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return {"default": DEFAULT_TEMPLATES, "cifar": CIFAR_TEMPLATES, "caltech101": CALTECH101_TEMPLATES}[name]


def read_templates(spec: str) -> tuple[str, ...]:
    """Return templates given by the name of one of SETS, or in a file: a JSON list of them, else one a line.

    Raises ConfigError for another name, a file that holds none, and a template that no class name goes into.
    """
    if spec in SETS:
        return called(spec)
    path = expand(spec)
    if not os.path.isfile(path):
        names = ", ".join(SETS)
        raise ConfigError(
            "There are no such templates",
            got=spec,
            fix=f"Name a file of them, as a JSON list or one a line, with {{}} for the class; or one of {names}",
        )
    try:
        if path.suffix.lower() == ".json":
            templates = read_json(path, MOST_BYTES)
            if not isinstance(templates, list):
                raise TypeError(f"It holds a {type(templates).__name__}, and no list")
        else:
            lines = read_whole(path, MOST_BYTES).decode("utf-8-sig").splitlines()
            templates = [line.strip() for line in lines if line.strip()]
        if not templates:
            raise ValueError("It is empty")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no templates",
            cause=str(error),
            fix='Write ["a photo of a {}.", "a {}."] as JSON, or one template a line of a text file',
        ) from None
    check_templates(templates)
    return tuple(dict.fromkeys(templates))


def check_templates(templates: Sequence[str]) -> None:
    """Raise ConfigError for a template that is no text, holds `{}` other than once, or holds control characters."""
    if isinstance(templates, str):
        raise ConfigError(
            "Templates are several texts, not one", got=templates, fix="Write ('a photo of a {}.',)"
        )
    for template in templates:
        if not isinstance(template, str):
            raise ConfigError("A prompt template is a text", got=template)
        if printable(template) != template or "\n" in template:
            raise ConfigError(
                "A prompt template holds control characters",
                got=template,
                fix="Write it in one line of plain text.",
            )
        fill(template, "class")


def fill(template: str, class_name: str) -> str:
    """Put a class name into a template. Raises ConfigError for a template without `{}`."""
    if template.count("{}") != 1:
        raise ConfigError(
            "A prompt template holds {} once, where the class name goes",
            got=template,
            fix="For example 'a photo of a {}.'",
        )
    return template.replace("{}", class_name)


def _scenes() -> frozenset[str]:
    from openslip.scenes import Scenes

    return frozenset(Scenes.class_names)
