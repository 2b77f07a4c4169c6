"""Zero-shot classification: the class whose prompts are nearest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.labelled import LabelledSet, prompts
from openslip.data.labelled.names import GivenNames, renamed
from openslip.data.labelled.prompts import HasClasses, PromptSet, Templates, check_templates
from openslip.errors import EvaluationError
from openslip.evaluation import Result, datasets
from openslip.evaluation.classification import classification, softmax
from openslip.evaluation.datasets import Card, Names
from openslip.evaluation.features import BATCH, encode_texts, labelled_features, remembered, require_text
from openslip.evaluation.multilabel import multilabel
from openslip.evaluation.opened import OnLabelled

if TYPE_CHECKING:
    from openslip.encoder import Encoder

PROMPTS = 2**15
"""Prompts whose embeddings are held at a time."""


@dataclass(frozen=True)
class ZeroShot(OnLabelled):
    """top1, top5 (more than 5 classes) and mean_per_class of zero-shot classification on a labelled set.

    The test split is measured, or all of a set without splits: nothing is trained, so no picture need be held out. A
    set with several labels an image has mean_average_precision and roc_auc. The metric of the set's card comes first.

    templates: sentences with `{}` for the class name, or such sentences by data set; empty: those that suit the data
    set. class_names: the names of the classes in prompts, as `read_names` gives them; None: the names of the card or of
    the data. labelled: an open set to measure, under the name `dataset`; None: open `dataset`.
    """

    dataset: str
    templates: Templates = ()
    batch_size: int = BATCH
    columns: Mapping[str, str] = field(default_factory=dict)
    labelled: LabelledSet | None = None
    class_names: GivenNames | None = None
    needs_text = True
    several = True
    protocol = "zeroshot"
    measured_on = ("untrained",)

    def open(self) -> LabelledSet:
        return super().open() if self.labelled is None else self.labelled

    @property
    def name(self) -> str:
        return super().name if self.labelled is None else f"{self.protocol}:{self.dataset}"

    def card(self, data: HasClasses) -> Card | None:
        return super().card(data) if self.labelled is None else datasets.told(data.class_names)

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        data = self.opened()
        return {"data": data.location, "prompts": self._asked(data).name}

    def check(self) -> None:
        """Raise DataError without a test split, EvaluationError for classes without names, ConfigError for a template
        without `{}`."""
        check_templates(self.templates)
        data = self.keep()
        data.untrained()
        self._require_names(self._asked(data), data)

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data, lines = self.opened(), super().lines()
        asked = self._asked(data)
        if asked.named:  # by the card, or by given names
            lines = [line for line in lines if line not in data.notes or "zero-shot needs" not in line]
        if data.undivided:
            count = len(data.untrained())
            lines.append(
                f"{data.name} has no splits: {self.name} trains nothing and measures all {count:,} images."
            )
        lines += self._about_prompts(data, asked)
        if twice := named_twice(asked.class_names):
            lines.append(
                f"{data.name} has classes with the same name. {self.name} cannot tell them apart: pictures of them "
                "count as wrong: " + ", ".join(twice[:5]) + (", …" if len(twice) > 5 else "")
            )
        return lines

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, or classes without names; ConfigError for
        templates without `{}`."""
        require_text(encoder, self.name)
        check_templates(self.templates)
        data = self.opened()
        asked = self._asked(data)
        self._require_names(asked, data)
        # The prompts come first: they take seconds, and their errors show before the pictures are read.
        weights = classifier(encoder, asked.names, asked.templates, self.batch_size)
        images = labelled_features(encoder, data, "untrained", "embeddings", self.batch_size)
        about = images.about() | {"prompts": asked.name}
        scores = images.values @ weights.T
        if images.labels.ndim == 2:
            return multilabel(self.name, scores, images.labels, images.skipped, images.samples, **about)
        return classification(
            self.name,
            scores,
            images.labels,
            images.skipped,
            probabilities=softmax(encoder.logit_scale * scores),
            samples=images.samples,
            first=self.metric(data),
            **about,
        )

    def _asked(self, data: LabelledSet) -> PromptSet:
        """Return the prompts for the classes: those that were given, else those that suit the set.

        Raises DataError for given names that do not fit the classes.
        """
        asked = prompts.for_set(data, self.card(data))
        if names := self._renamed(data):
            asked = asked.with_names(names, f"names {prompts.digest(names)}")
        return asked.with_templates(self._given(data) or ())

    def _renamed(self, data: LabelledSet) -> list[Names] | None:
        """Return the given names of the classes; None if there are none, or only names for other sets."""
        if self.class_names is None:
            return None
        return renamed(self.class_names, data, self.card(data), self.name.partition(":")[2])

    def _given(self, data: LabelledSet) -> tuple[str, ...] | None:
        return prompts.for_one(self.templates, self.card(data), self.name.partition(":")[2])

    def _about_prompts(self, data: LabelledSet, asked: PromptSet) -> list[str]:
        """Return sentences about the prompts for the classes of a set."""
        lines = []
        if self._given(data) is None:
            lines.append(
                f"The given templates have none for {data.name}, which is measured with {asked.name}."
            )
        if self.class_names is not None and self._renamed(data) is None:
            lines.append(
                f"{self.class_names.source} has no names for the classes of {data.name}, which keep their names."
            )
        if asked.names != tuple((name,) for name in data.class_names):
            pairs = zip(data.class_names, asked.names)
            own, told = next((own, told) for own, told in pairs if (own,) != told)
            lines.append(
                f"{self.name} uses other class names than the data: {own} is {' or '.join(map(repr, told))}."
            )
        return lines

    def _require_names(self, asked: PromptSet, data: LabelledSet) -> None:
        if not asked.named:
            raise EvaluationError(
                f"{self.name} cannot be measured: the classes of {data.name} have no names",
                cause=next((said for said in data.notes if "zero-shot needs" in said), ""),
                fix='Put a classes.json beside the data: ["cat", "dog", …] in the order of the labels, or by label: '
                '{"1": "cat", …}. Or give such a file as --classnames FILE, or name a set that has a card: '
                f"{self.protocol}:NAME@{self.dataset}",
            )


def named_twice(class_names: Sequence[str]) -> list[str]:
    """Return the names that several classes share, in lower case, as a text tower reads them."""
    counts = Counter(" ".join(name.lower().split()) for name in class_names)
    return [name for name, count in counts.items() if count > 1]


def classifier(
    encoder: Encoder,
    class_names: Sequence[str | Sequence[str]],
    templates: Sequence[str],
    batch_size: int = BATCH,
) -> np.ndarray:
    """Return the (C, D) float32 class embeddings: normalised text embeddings, averaged over templates, normalised.

    class_names: C names; a class may have several names, over which the mean is taken, too. Cosine similarity with
    image embeddings scores the classes. Prompts of many classes go through the text tower together, sorted by length,
    because one class has few prompts, of different lengths. Within a session, equal prompts are computed once. Raises
    ConfigError for a template without `{}`.
    """
    every = tuple((names,) if isinstance(names, str) else tuple(names) for names in class_names)
    return remembered(
        encoder,
        *("classifier", every, tuple(templates)),
        compute=lambda: _classifier(encoder, every, templates, batch_size),
    )


def _classifier(
    encoder: Encoder, every: Sequence[Sequence[str]], templates: Sequence[str], batch_size: int
) -> np.ndarray:
    at_once = max(1, PROMPTS // len(templates))
    means = []
    for start in range(0, len(every), at_once):
        some = every[start : start + at_once]
        texts = [prompts.fill(template, name) for names in some for name in names for template in templates]
        embeddings = encode_texts(encoder, texts, batch_size)
        ends = np.cumsum([len(names) * len(templates) for names in some])
        means += [one.mean(axis=0) for one in np.split(embeddings, ends[:-1])]
    mean = np.stack(means)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
