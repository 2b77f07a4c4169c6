"""Zero-shot classification: the class whose prompts lie nearest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slip.errors import EvaluationError
from slip.evaluation import Result, prompts
from slip.evaluation.datasets import Labelled, dataset_name, open_labelled
from slip.evaluation.features import (
    BATCH,
    LabelledFeatures,
    encode_texts,
    labelled_features,
    require_text,
)
from slip.evaluation.metrics import classification

if TYPE_CHECKING:
    from slip.encoder import Encoder


@dataclass(frozen=True)
class ZeroShot:
    """top1, top5 (more than 5 classes) and mean_per_class of zero-shot classification of a labelled set's test split,
    or of all of a set without splits.

    templates: sentences with `{}` where the class name goes; empty for those that suit the data set.
    """

    dataset: str
    templates: tuple[str, ...] = ()
    batch_size: int = BATCH
    needs_text = True

    @property
    def name(self) -> str:
        return f"zeroshot:{dataset_name(self.dataset)}"

    def check(self) -> None:
        """Raise DataError without a test split, EvaluationError for classes without names."""
        self._require_names(open_labelled(self.dataset).untrained())

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, or classes without names."""
        require_text(encoder, self.name)
        images = labelled_features(encoder, self.dataset, "untrained", "embeddings", self.batch_size)
        self._require_names(images)
        asked = prompts.for_set(images)
        weights = classifier(encoder, asked.class_names, self.templates or asked.templates, self.batch_size)
        return classification(
            self.name, images.values @ weights.T, images.labels, images.skipped, **images.about
        )

    def _require_names(self, images: Labelled | LabelledFeatures) -> None:
        if not images.named:
            raise EvaluationError(
                f"{self.name} cannot be measured: the classes of {images.name} have no names",
                fix='Put a classes.json beside the data: ["cat", "dog", …] in the order of the labels.',
            )


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
