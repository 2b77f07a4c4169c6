"""Zero-shot classification: the class whose prompts lie nearest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.labelled import LabelledSet, prompts
from openslip.data.labelled.prompts import PromptSet, check_templates
from openslip.errors import EvaluationError
from openslip.evaluation import Result
from openslip.evaluation.classification import classification, softmax
from openslip.evaluation.features import BATCH, encode_texts, labelled_features, require_text
from openslip.evaluation.multilabel import multilabel
from openslip.evaluation.opened import OnLabelled

if TYPE_CHECKING:
    from openslip.encoder import Encoder


@dataclass(frozen=True)
class ZeroShot(OnLabelled):
    """top1, top5 (more than 5 classes) and mean_per_class of zero-shot classification of a labelled set's test split,
    or of all of a set without splits: nothing is trained, so no picture need be held out. Of a set with several labels
    an image mean_average_precision and roc_auc.

    templates: sentences with `{}` where the class name goes; empty for those that suit the data set. labelled: an open
    set, to be measured in place of one that is opened; `dataset` is what it is called.
    """

    dataset: str
    templates: Sequence[str] = ()
    batch_size: int = BATCH
    columns: Mapping[str, str] = field(default_factory=dict)
    labelled: LabelledSet | None = None
    needs_text = True
    several = True
    protocol = "zeroshot"
    measured_on = ("untrained",)

    def open(self) -> LabelledSet:
        return super().open() if self.labelled is None else self.labelled

    @property
    def name(self) -> str:
        return super().name if self.labelled is None else f"{self.protocol}:{self.dataset}"

    def about(self) -> dict[str, str]:
        """Return what tells this measurement from others."""
        data = self.opened()
        return {"data": data.location, "prompts": self._asked(data).name}

    def check(self) -> None:
        """Raise DataError without a test split, EvaluationError for classes without names, ConfigError for a template
        that no class name goes into."""
        check_templates(self.templates)
        data = self.keep()
        data.untrained()
        self._require_names(data)

    def lines(self) -> list[str]:
        """Return sentences for people about what is measured on."""
        data, lines = self.opened(), super().lines()
        if data.undivided:
            count = len(data.untrained())
            lines.append(
                f"{data.name} has no splits: {self.name} measures all {count:,} images, as nothing is trained."
            )
        if twice := named_twice(self._asked(data).class_names):
            lines.append(
                f"{data.name} has classes of one name, which {self.name} cannot tell apart and counts as wrong: "
                + ", ".join(twice[:5])
                + (", …" if len(twice) > 5 else "")
            )
        return lines

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, or classes without names; ConfigError for
        templates without `{}`."""
        require_text(encoder, self.name)
        check_templates(self.templates)
        data = self.opened()
        self._require_names(data)
        asked = self._asked(data)
        # The prompts come first: they take seconds, and what is wrong with them is known before the pictures are read.
        weights = classifier(encoder, asked.class_names, asked.templates, self.batch_size)
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
            **about,
        )

    def _asked(self, data: LabelledSet) -> PromptSet:
        """Return what the classes are asked for with: the templates that were given, else those that suit the set."""
        usual, given = prompts.for_set(data), tuple(self.templates)
        return (
            usual if given in ((), usual.templates) else replace(usual, name=_called(given), templates=given)
        )

    def _require_names(self, data: LabelledSet) -> None:
        if not data.named:
            raise EvaluationError(
                f"{self.name} cannot be measured: the classes of {data.name} have no names",
                cause=next((said for said in data.notes if "zero-shot needs" in said), ""),
                fix='Put a classes.json beside the data: ["cat", "dog", …] in the order of the labels, or by label: '
                '{"1": "cat", …}.',
            )


def _called(templates: Sequence[str]) -> str:
    """Return given templates in one text; of equal ones, and no others, the texts are equal."""
    return repr(list(templates)) if any("|" in one for one in templates) else " | ".join(templates)


def named_twice(class_names: Sequence[str]) -> list[str]:
    """Return the names that several classes have, as a text tower reads them: in lower case."""
    counts = Counter(" ".join(name.lower().split()) for name in class_names)
    return [name for name, count in counts.items() if count > 1]


def classifier(
    encoder: Encoder, class_names: Sequence[str], templates: Sequence[str], batch_size: int = BATCH
) -> np.ndarray:
    """Return the (C, D) float32 class embeddings: normalised text embeddings, mean over the templates, normalised.

    Cosine similarity with image embeddings scores the classes. Raises ConfigError for a template without `{}`.
    """
    at_once = max(1, batch_size // len(templates))
    means = []
    for start in range(0, len(class_names), at_once):
        names = class_names[start : start + at_once]
        texts = [prompts.fill(template, name) for name in names for template in templates]
        embeddings = encode_texts(encoder, texts, batch_size)
        means.append(embeddings.reshape(len(names), len(templates), -1).mean(axis=1))
    mean = np.concatenate(means)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
