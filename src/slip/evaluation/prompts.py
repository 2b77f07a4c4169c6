"""What a class name becomes before the text tower reads it: sentences in which it stands, averaged.

Templates hold `{}` where the class name goes. The sets for CIFAR-10, Caltech-101 and ImageNet are those of Radford et
al. 2021 (CLIP), the ImageNet ones as open_clip ships them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slip.errors import ConfigError

DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")

_CIFAR10_FRAMES = (
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
CIFAR10_TEMPLATES = tuple(frame.format(article=a) for a in ("a", "the") for frame in _CIFAR10_FRAMES)
CALTECH101_TEMPLATES = tuple(frame.format(article=a) for a in ("a", "the") for frame in _CALTECH101_FRAMES)


def templates_for(dataset_name: str) -> tuple[str, ...]:
    """Return the templates that suit a data set, told by its name; DEFAULT_TEMPLATES for one not known."""
    name = _plain(dataset_name)
    if name.startswith("scenes"):
        from slip.data.scenes import TEMPLATES

        return tuple(TEMPLATES)
    if name.startswith("cifar10"):
        return CIFAR10_TEMPLATES
    if name.startswith("caltech101"):
        return CALTECH101_TEMPLATES
    if "imagenet" in name:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return DEFAULT_TEMPLATES


def name_for(dataset_name: str) -> str:
    """Return what the templates that suit a data set are called: `default`, or by the data that they were made for."""
    name = _plain(dataset_name)
    known = [known for known in ("scenes", "cifar10", "caltech101") if name.startswith(known)]
    return known[0] if known else "imagenet" if "imagenet" in name else "default"


def names_for(dataset_name: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names to ask with: those given, but CLIP's for the 1,000 of ImageNet in its label order."""
    if _plain(dataset_name).startswith("imagenet") and len(class_names) == 1000:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

        return tuple(IMAGENET_CLASSNAMES)
    return tuple(class_names)


def fill(template: str, class_name: str) -> str:
    """Put a class name into a template. Raises ConfigError for a template without `{}`."""
    if template.count("{}") != 1:
        raise ConfigError(
            "A prompt template holds {} once, where the class name goes",
            got=template,
            fix="For example 'a photo of a {}.'",
        )
    return template.replace("{}", class_name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
