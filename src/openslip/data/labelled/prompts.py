"""Prompts: the sentences with a class name that the text tower reads.

Zero-shot classification averages their embeddings, and training on classes (`openslip.data.sources.class_captions`)
draws one prompt.

Templates hold `{}` where the class name goes. Templates and class names of public sets are on their cards
(`openslip.evaluation.datasets`). The classes identify a set's card, not the name of the data: `cifar100` begins like
`cifar10`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from openslip.errors import ConfigError, did_you_mean, printable
from openslip.files import expand, read_json, read_whole

if TYPE_CHECKING:
    from openslip.evaluation.datasets import Card

MOST_BYTES = 1 << 20
DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")

Templates = Sequence[str] | Mapping[str, Sequence[str]]
"""Sentences for classes; or several sets of sentences by the name of a data set."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts for the classes of a set. name: short, for results. class_names: C names, in order.

    synonyms: all names of each class, if some classes have several; their embeddings are averaged. named: whether the
    names are names, rather than numbers. whose: the origin of the names, if it is not the data.
    """

    name: str
    templates: tuple[str, ...]
    class_names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    named: bool = True
    whose: str = ""

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """All names of each class, C tuples."""
        return self.synonyms or tuple((name,) for name in self.class_names)

    def with_names(self, names: Sequence[Sequence[str]], whose: str) -> PromptSet:
        """Return the same prompts with other names of the C classes, one or several each.

        whose: the origin of the names, for results; empty if the name of the set tells the origin.
        """
        synonyms = tuple(map(tuple, names)) if any(len(some) > 1 for some in names) else ()
        return replace(
            self,
            name=f"{self._of_templates}, {whose}" if whose else self._of_templates,
            class_names=tuple(some[0] for some in names),
            synonyms=synonyms,
            named=True,
            whose=whose,
        )

    def with_templates(self, templates: Sequence[str]) -> PromptSet:
        """Return the same names with other templates. The text of templates that differ becomes the name."""
        given = tuple(templates)
        if given in ((), self.templates):
            return self
        return replace(self, name=_called(given) + (f", {self.whose}" if self.whose else ""), templates=given)

    @property
    def _of_templates(self) -> str:
        return self.name.removesuffix(f", {self.whose}") if self.whose else self.name


class HasClasses(Protocol):
    """Labelled images, or features of them."""

    @property
    def class_names(self) -> tuple[str, ...]: ...


def for_set(labelled: HasClasses, card: Card | None = None) -> PromptSet:
    """Return the prompts for labelled images, by their card. Without `card`, the classes tell which, not the name.

    The card's class names are used if the card knows all classes. So all 1,000 classes of ImageNet get CLIP's names.
    Templates in a file beside the data come before templates of the card.
    """
    from openslip.evaluation import datasets

    names, card = labelled.class_names, card or datasets.told(labelled.class_names)
    found = PromptSet("default", DEFAULT_TEMPLATES, names, named=getattr(labelled, "named", True))
    if card is not None and card.prompts:
        found = replace(found, name=card.prompts, templates=card.templates)
    found = found.with_templates(getattr(labelled, "templates", ()))
    called = card.called(getattr(labelled, "values", ()), names) if card else None
    if card is None or called is None or (found.named and called == found.names):
        return found
    return found.with_names(called, "" if card.prompts == "imagenet" else f"{card.name}'s names")


def digest(names: Sequence[Sequence[str]]) -> str:
    """Return eight characters that identify names of classes."""
    return hashlib.sha256(repr([list(some) for some in names]).encode()).hexdigest()[:8]


def called(name: str) -> tuple[str, ...]:
    """Return a set of templates by its name, or by a data set's name. Raises KeyError if there is none."""
    from openslip.evaluation import datasets

    if name == "default":
        return DEFAULT_TEMPLATES
    if name in datasets.template_sets():
        return datasets.templates(name)
    if (card := datasets.find(name)) and card.prompts:
        return card.templates
    raise KeyError(name)


def given_templates(words: Sequence[str]) -> Templates:
    """Return the templates that a command line names: sentences with `{}`, or one set of templates or file alone.

    See `read_templates` for sets and files. Raises ConfigError as `read_templates` and `check_templates` do.
    """
    if len(words) == 1 and "{}" not in words[0]:
        if "{" not in words[0] and " " in words[0] and not os.path.isfile(expand(words[0])):
            check_templates(words)  # a sentence without {}, not the name of a file
        return read_templates(words[0])
    check_templates(words)
    return tuple(dict.fromkeys(words))


def one_set(templates: Templates, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the templates for classes. If templates are given by data set, the classes identify the set.

    Raises ConfigError if there are no templates for that set.
    """
    if not isinstance(templates, Mapping):
        return tuple(templates)
    from openslip.evaluation import datasets

    card = datasets.told(class_names)
    if found := of_set(templates, card):
        return tuple(found)
    raise ConfigError(
        "These are templates of several data sets, and "
        + (f"of none that is {card.title}" if card else "the classes do not tell which set they belong to"),
        got=", ".join(list(templates)[:8]),
        fix="Pass a file with a list of templates, or the name of a set of templates",
    )


def read_templates(spec: str) -> Templates:
    """Return the templates of a named set, or of a file: a JSON list, else one a line.

    A JSON file may have lists by data set, as the SLIP paper's templates.json. `{}` is the place of the class, or `{c}`
    as in clip-benchmark. Raises ConfigError for an unknown name, a file without templates, and a template without a
    place for the class.
    """
    path = expand(spec)
    if not os.path.isfile(path):
        try:
            return called(spec)
        except KeyError:
            from openslip.evaluation import datasets

            close = did_you_mean(spec, ("default", *datasets.template_sets()))
            raise ConfigError(
                "There are no such templates",
                got=spec,
                fix="Name a set of templates, or a file of them (a JSON list, or one a line) with {} for the class. "
                + (
                    close if close.startswith("Did") else "`slip datasets` lists the sets that have templates"
                ),
            ) from None
    try:
        if path.suffix.lower() == ".json":
            found = read_json(path, MOST_BYTES)
        else:
            found = template_lines(read_whole(path, MOST_BYTES))
        if not found:
            raise ValueError("It is empty")
        if isinstance(found, dict):
            return {str(name): _listed(some, f" for {name}") for name, some in found.items()}
        return _listed(found)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no templates",
            cause=str(error),
            fix='Write ["a photo of a {}.", "a {}."] as JSON, or one template a line as text; or lists by data set, '
            '{"food101": ["a photo of {}."]}',
        ) from None


def template_lines(text: bytes) -> list[str]:
    """Return the templates in lines of text. Raises ValueError if the text is not UTF-8."""
    lines = text.decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _listed(found: Any, what: str = "") -> tuple[str, ...]:
    """Return a list of templates in our form. Raises TypeError for another type, ValueError for an empty list, and
    ConfigError for a wrong template."""
    if not isinstance(found, list):
        raise TypeError(f"It holds a value of type {type(found).__name__}{what}, not a list")
    if not found:
        raise ValueError(f"It has none{what}")
    templates = [as_ours(one) if isinstance(one, str) else one for one in found]
    check_templates(templates)
    return tuple(dict.fromkeys(templates))


def as_ours(template: str) -> str:
    """Return a template of clip-benchmark, which has `{c}` for the class, in our form."""
    return template.replace("{c}", "{}")


def of_set(given: Mapping[str, Any], card: Card | None, *names: str) -> Any:
    """Return the value of a data set in a file with data sets as keys, by the card's name, an alias, or other `names`.

    None if the file has nothing for the set."""
    from openslip.evaluation import datasets

    by_name = {datasets.short(name): value for name, value in given.items()}
    if card is not None:
        if (exact := by_name.get(datasets.short(card.name))) is not None:
            return exact
        for name, value in given.items():
            if datasets.find(name) is card:
                return value
    return next((by_name[short] for name in names if (short := datasets.short(name)) in by_name), None)


def for_one(templates: Templates, card: Card | None, *names: str) -> tuple[str, ...] | None:
    """Return the templates given for one data set, () if none were given, None if they are for other sets.

    card, names: of the set.
    """
    if not isinstance(templates, Mapping):
        return tuple(templates)
    found = of_set(templates, card, *names)
    return None if found is None else tuple(found)


def check_templates(templates: Templates) -> None:
    """Raise ConfigError for a template that is not text, holds `{}` not exactly once, or holds control characters."""
    if isinstance(templates, Mapping):
        for some in templates.values():
            check_templates(some)
        return
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
            fix="Write it as in 'a photo of a {}.'",
        )
    return template.replace("{}", class_name)


def _called(given: Sequence[str]) -> str:
    """Return the given templates as one text. Only equal templates give equal texts."""
    return repr(list(given)) if any("|" in one for one in given) else " | ".join(given)
