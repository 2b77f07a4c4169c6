"""Geometry of the shared space: how near pictures are to their captions, and how much of the space is used.

- `alignment`: the mean squared distance of a picture to its captions, in [0, 4] (Wang and Isola 2020, α = 2).
- `image_uniformity`, `text_uniformity`: log of the mean of exp(-2 · squared distance) over all pairs of different
  pictures, or captions; 0 if all are alike, and lower the more evenly they are spread (same paper, t = 2).
- `modality_gap`: the distance between the mean of the pictures and the mean of the captions (Liang et al. 2022).
- `image_effective_rank`, `text_effective_rank`: exp of the entropy of the singular values of all embeddings, without
  centring; the number of directions in use, at most the dimension (RankMe, Garrido et al. 2023, equation 1).
- `logit_scale`: the factor on cosine similarities that the model has learned.

All embeddings have length 1. Each picture counts once: a number of a picture and its captions is the mean over the
captions. Uniformity and effective rank of captions use the distinct captions. An image-only model has only the numbers
of pictures, in the space of its features.

Every number except the logit scale is the mean of one value a sample; uniformity is the log of that mean. The jackknife
gives these values: exactly, or for the effective rank by the derivative with respect to the sample's weight. So each
number has an interval without a bootstrap, and two models can be compared sample by sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.errors import EvaluationError
from openslip.evaluation import Result, fingerprint
from openslip.evaluation.captioned import OnCaptioned
from openslip.evaluation.metrics import mean_interval
from openslip.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from openslip.encoder import Encoder

SIMILARITIES = 2**24
"""Similarities held at a time."""
LEAST = 3
"""The fewest pictures, and captions, that can be measured."""


@dataclass(frozen=True)
class Geometry(OnCaptioned):
    """Alignment, uniformity, modality gap, effective rank and logit scale on a captioned source."""

    protocol = "geometry"
    captions_required = False

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises DataError if a model with text finds no caption, EvaluationError for too few
        pictures or captions."""
        found = self.embedded(encoder)
        for what, values in (("pictures", found.images), ("captions", found.texts)):
            if values is not None and len(values) < LEAST:
                raise EvaluationError(
                    f"{self.name} needs at least {LEAST} different {what}", got=f"{len(values)}"
                )
        about: dict[str, Any] = self.about() | {"content": found.content}
        device = encoder.device

        def result(metric: str, outcomes: Outcomes, bounds: tuple[float, float]) -> Result:
            low, high = _interval(outcomes, bounds)
            value = min(max(outcomes.value(), bounds[0]), bounds[1])  # outside the bounds only by rounding
            count = len(outcomes.values)
            interval = min(value, low), max(value, high)
            skipped = found.skipped
            return Result(self.name, metric, value, count, *interval, skipped, **about, outcomes=outcomes)

        pictures = fingerprint.of_samples((digest,) for digest in found.digests)
        captions = fingerprint.of_samples((caption,) for caption in found.captions)

        def side(
            name: str, values: np.ndarray, groups: np.ndarray | None, samples: np.ndarray
        ) -> list[Result]:
            spread = Outcomes(uniformity_parts(values, device), "log_mean", groups=groups, samples=samples)
            rank = Outcomes(effective_rank_parts(values), "mean_value", groups=groups, samples=samples)
            return [
                result(f"{name}_uniformity", spread, (-8.0, 0.0)),
                result(f"{name}_effective_rank", rank, (1.0, float(min(values.shape)))),
            ]

        if found.texts is None:
            return side("image", found.images, None, pictures)
        near, apart = pair_parts(found.images, found.texts, found.image_ids, found.text_ids)
        groups = _first_images(found.image_ids, found.text_ids)
        scale, count = encoder.logit_scale, len(found.images)
        return [
            result("alignment", Outcomes(near, "mean_value", samples=pictures), (0.0, 4.0)),
            *side("image", found.images, None, pictures),
            *side("text", found.texts, groups, captions),
            result("modality_gap", Outcomes(apart, "mean_value", samples=pictures), (0.0, 2.0)),
            Result(self.name, "logit_scale", scale, count, scale, scale, found.skipped, **about),
        ]


def pair_parts(
    images: np.ndarray, texts: np.ndarray, image_ids: np.ndarray, text_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two values (I,) of each image, whose means are the alignment and the modality gap.

    images: (I, D), texts: (T, D), of length 1; (image_ids, text_ids): (P,) pairs. The second value is the component
    along the gap of an image's distance to its captions.
    """
    counts = np.bincount(image_ids, minlength=len(images))
    captions = np.zeros(images.shape)
    np.add.at(captions, image_ids, texts[text_ids].astype(np.float64))
    captions /= counts[:, None]  # their mean, an image
    near = 2 - 2 * (images.astype(np.float64) * captions).sum(axis=1)
    apart = images - captions
    gap = apart.mean(axis=0)
    length = float(np.linalg.norm(gap))
    return near, apart @ (gap / length) if length else np.zeros(len(images))


@torch.no_grad()
def uniformity_parts(values: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Return values (N,) whose mean is that of exp(-2 · squared distance) over all pairs of N different samples.

    values: (N, D), of length 1, N at least 3. The jackknife's values: N times the mean over all pairs, less N - 1 times
    the mean over the pairs without the sample.
    """
    count = len(values)
    keys = torch.from_numpy(values).to(device)
    rows = []
    for start in range(0, count, step := max(1, SIMILARITIES // count)):
        block = torch.exp(4 * (keys[start : start + step] @ keys.T) - 4)
        own = torch.arange(len(block), device=block.device)
        block[own, own + start] = 0
        rows.append(block.sum(dim=1, dtype=torch.float64 if block.device.type != "mps" else None))
    with_others = torch.cat(rows).double().cpu().numpy() / (count - 1)
    whole = with_others.mean()
    return (2 * (count - 1) * with_others - count * whole) / (count - 2)


def effective_rank_parts(values: np.ndarray) -> np.ndarray:
    """Return values (N,) whose mean is the effective rank of embeddings (N, D): the rank, plus N times its derivative
    with respect to each sample's weight.

    A weight w of sample x adds w·x·xᵀ to the Gram matrix, and so w·(u·x)² to the squared singular value of direction u.
    """
    x = values.astype(np.float64)
    squares, directions = np.linalg.eigh(x.T @ x)
    singular = np.sqrt(np.maximum(squares, 0))
    used = singular > 1e-6 * singular.max()
    singular, directions = singular[used], directions[:, used]
    total = singular.sum()
    share = singular / total
    entropy = -(share * np.log(share)).sum()
    rank = math.exp(entropy)
    slope = -rank * (np.log(share) + entropy) / total / (2 * singular)
    return rank + len(x) * (np.square(x @ directions) @ slope)


def _interval(outcomes: Outcomes, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of a number of geometry, within its bounds."""
    low, high = mean_interval(outcomes.values, outcomes.groups)
    if outcomes.statistic == "log_mean":
        value, mean = outcomes.value(), (low + high) / 2
        half = (high - low) / 2 / mean  # the derivative of the logarithm
        low, high = value - half, value + half
    return max(bounds[0], low), min(bounds[1], high)


def _first_images(image_ids: np.ndarray, text_ids: np.ndarray) -> np.ndarray:
    """Return for each text the first image that it belongs to: captions of one image form a group."""
    first = np.full(int(text_ids.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, text_ids, image_ids)
    return first
