"""From a classifier's scores to its results: the same metrics for every protocol that classifies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from openslip.errors import EvaluationError
from openslip.evaluation import Result, fingerprint
from openslip.evaluation.metrics import (
    correct_topk,
    mean_per_class_interval,
    resampled,
    roc_auc_interval,
    wilson,
)
from openslip.evaluation.outcomes import Outcomes, answers


class Samples(NamedTuple):
    """The pictures that N scores belong to. rows: (N,) indices in the split; digests: N of 16 bytes; class_names: C."""

    rows: np.ndarray
    digests: tuple[bytes, ...]
    class_names: tuple[str, ...]

    def numbers(self, told: Iterable[str]) -> np.ndarray | None:
        """Return numbers (N,) that identify samples by the picture and a text for each; None if the pictures are not
        known."""
        if not (self.digests and all(self.digests)):
            return None
        return fingerprint.of_samples(zip(self.digests, told))


def classification(
    task: str,
    scores: np.ndarray,
    labels: np.ndarray,
    skipped: int = 0,
    *,
    probabilities: np.ndarray | None = None,
    samples: Samples | None = None,
    first: str = "top1",
    **about: Any,
) -> list[Result]:
    """Return a classifier's results: top1, top5 for more than 5 classes, mean_per_class, and ece if it has
    probabilities. The metric `first` comes before the others, if the classifier has it: one of these, or
    - top1_top5: the mean of both;
    - roc_auc, for two classes: scored by how much class 1 is likelier than class 0.

    scores: (N, C), higher is likelier; labels: (N,) in [0, C). probabilities: (N, C), with rows that add up to 1.
    samples: the pictures; with them, the results include the answer to each picture. about: other fields of the
    results.

    Raises EvaluationError if N is 0.
    """
    count = len(labels)
    if count == 0:
        raise EvaluationError(
            f"{task} has no sample left to measure", fix="Check that its images can be read."
        )
    known = None if samples is None else samples.numbers(samples.class_names[i] for i in labels.tolist())
    hits = {k: correct_topk(scores, labels, k) for k in ((1, 5) if scores.shape[1] > 5 else (1,))}
    found = [
        (f"top{k}", Outcomes(correct, samples=known), wilson(float(correct.sum()), count))
        for k, correct in hits.items()
    ]
    of_classes = Outcomes(hits[1], "mean_per_class", labels, samples=known)
    found.append(("mean_per_class", of_classes, mean_per_class_interval(hits[1], labels)))
    if probabilities is not None:
        sure = Outcomes(np.stack([probabilities.max(axis=1), hits[1]], axis=1), "ece", samples=known)
        found.append(("ece", sure, resampled(sure.value, count)))
    if first == "top1_top5" and 5 in hits:
        both = Outcomes((hits[1].astype(np.float64) + hits[5]) / 2, samples=known)
        # Samples that are all alike do not make the number certain: Wilson's interval is used for them.
        alike = both.values.min() == both.values.max()
        interval = wilson(float(both.values.sum()), count) if alike else resampled(both.value, count)
        found.append((first, both, interval))
    if first == "roc_auc" and scores.shape[1] == 2 and len(np.unique(labels)) == 2:
        margin = scores[:, 1].astype(np.float64) - scores[:, 0]
        found.append(
            (first, Outcomes(margin, "roc_auc", labels, samples=known), roc_auc_interval(margin, labels))
        )
    found.sort(key=lambda one: one[0] != first)
    said = None if samples is None else answers(scores, labels, probabilities, **samples._asdict())
    return [
        Result(
            task,
            metric,
            outcomes.value(),
            count,
            *interval,
            skipped,
            **about,
            outcomes=outcomes,
            answers=None if number else said,
        )
        for number, (metric, outcomes, interval) in enumerate(found)
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, C) of logits (N, C)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
