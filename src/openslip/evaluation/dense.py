"""Common parts of measurements of patches: pictures and masks through the tower, labels of pixels, and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.data.given import pixels_of
from openslip.data.labelled import dataset_name
from openslip.data.masks import IGNORED, Masked, MaskedSet, open_masks
from openslip.data.preprocess import Preprocess
from openslip.data.views import center, center_labels
from openslip.errors import DataError, EvaluationError, note
from openslip.evaluation import Result, fingerprint
from openslip.evaluation.features import counting, evaluating
from openslip.evaluation.metrics import resampled
from openslip.evaluation.opened import Kept
from openslip.evaluation.outcomes import Outcomes, Statistic
from openslip.pictures import chunks_ahead

if TYPE_CHECKING:
    from openslip.encoder import Encoder

BATCH = 32
METRICS: tuple[Statistic, ...] = ("mean_iou", "pixel_accuracy")


class OnMasks(Kept[MaskedSet]):
    """An evaluator of the pictures with masks at `dataset`. protocol: the first half of its name."""

    protocol = ""
    if TYPE_CHECKING:

        @property
        def dataset(self) -> str: ...

    def open(self) -> MaskedSet:
        """Open the pictures and their masks."""
        return open_masks(self.dataset)

    @property
    def name(self) -> str:
        """The protocol and the data set's short name."""
        return f"{self.protocol}:{dataset_name(self.dataset)}"

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data = self.opened()
        return [data.describe(), *data.notes]


@dataclass(frozen=True)
class Seen:
    """The pictures that were measured: digests of those that could be read, with their masks; how many were skipped."""

    digests: tuple[bytes, ...]
    skipped: int

    @property
    def order(self) -> list[int]:
        """An order of the readable pictures that depends only on the pictures, not on names or locations of files.
        Random draws follow this order."""
        return sorted(range(len(self.digests)), key=self.digests.__getitem__)

    def content(self, class_names: Sequence[str]) -> str:
        """Return a digest of the pictures, their masks and the classes. The order of pictures does not matter."""
        names = (name.encode("utf-8", "surrogatepass") for name in class_names)
        return fingerprint.of_all([*names, *(self.digests[number] for number in self.order)])


def prepare(preprocess: Preprocess, image: Any, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return a picture as the model takes it, (3, S, S) float32, and its mask in the same layout, (S, S) uint8.

    The picture is decoded in full, so both are cropped at the same pixels. Raises DataError if their sizes differ.
    """
    pixels = pixels_of(image)
    if pixels.shape[:2] != mask.shape:
        raise DataError(
            "A picture and its mask have different sizes",
            got=f"{pixels.shape[1]} × {pixels.shape[0]} and {mask.shape[1]} × {mask.shape[0]}",
        )
    size, fit = preprocess.size, preprocess.fit
    view = torch.from_numpy(center(pixels, size, preprocess.interpolation, fit))
    return preprocess.normalised(view), torch.from_numpy(center_labels(mask, size, fit))


def through(
    encoder: Encoder,
    masked: Masked,
    use: Callable[[Tensor, Tensor], None],
    batch_size: int = BATCH,
    label: str = "images",
) -> Seen:
    """Call `use` with batches of prepared pictures (B, 3, S, S), on the model's device, and masks (B, S, S) uint8.

    Reading runs in threads, one batch ahead, and keeps the order. A picture that raises DataError is skipped and
    counted, and a note names the first reason. Raises EvaluationError if no picture can be read.
    """
    digests: list[bytes] = []
    reasons: list[str] = []

    def ready(index: int) -> tuple[Tensor, Tensor, bytes] | str:
        try:
            image, mask = masked.read(index)
            pixels, labels = prepare(encoder.preprocess, image, mask)
        except DataError as error:
            return str(error)
        return pixels, labels, fingerprint.of_picture(image) + fingerprint.of_picture(mask)

    with (
        chunks_ahead(ready, range(len(masked)), batch_size) as batches,
        counting(len(masked), label) as advance,
        evaluating(encoder),
        torch.no_grad(),
    ):
        for batch in batches:
            good = [one for one in batch if not isinstance(one, str)]
            reasons += [one for one in batch if isinstance(one, str)]
            if good:
                pixels = torch.stack([one[0] for one in good]).to(encoder.device, encoder.dtype)
                use(pixels, torch.stack([one[1] for one in good]))
                digests += [one[2] for one in good]
            advance(len(batch))
    if not digests:
        cause = reasons[0] if reasons else "There are none"
        raise EvaluationError(f"None of the {len(masked)} {label} can be read", cause=cause)
    if reasons:
        note(f"{len(reasons)} of {len(masked)} {label} skipped; the first: {reasons[0]}")
    return Seen(tuple(digests), len(reasons))


def upsampled(logits: Tensor, size: int) -> Tensor:
    """Return logits of patches (B, R, C, K) as logits of pixels (B, K, size, size), bilinear.

    The values are those of `interpolate(mode="bilinear", align_corners=False)`, computed as two matrix products. Their
    gradient is the same each time on every device; the gradient of `interpolate` is not.
    """
    rows, columns = (_weights(count, size, logits) for count in logits.shape[1:3])
    return (logits.permute(0, 3, 2, 1) @ rows).transpose(2, 3) @ columns


def _weights(count: int, size: int, like: Tensor) -> Tensor:
    """Return the weight of each of `count` patches in each of `size` pixels along a side, (count, size)."""
    eye = torch.eye(count, device=like.device, dtype=like.dtype)
    return F.interpolate(eye[None], size=size, mode="linear", align_corners=False)[0]


def labelled(logits: Tensor, size: int) -> Tensor:
    """Return the likeliest class of each pixel, (B, size, size), given logits of patches (B, R, C, K).

    Pictures are computed one by one, so batches take no more memory. Of equally likely classes the first is taken.
    """
    return torch.cat([upsampled(one[None], size).argmax(dim=1) for one in logits])


def areas(predicted: np.ndarray, masks: np.ndarray, classes: int) -> np.ndarray:
    """Return the intersection and the union of each class in each picture, in pixels, (B, 2, classes) int64.

    predicted: (B, S, S) classes. masks: (B, S, S) classes, and IGNORED where a pixel does not count.
    """
    of_picture = np.arange(len(masks))[:, None, None] * classes
    counts = masks != IGNORED

    def sizes(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
        index = (labels.astype(np.int64) + of_picture)[where]
        return np.bincount(index, minlength=len(masks) * classes).reshape(len(masks), classes)

    both = sizes(masks, counts & (predicted == masks))
    return np.stack([both, sizes(masks, counts) + sizes(predicted, counts) - both], axis=1)


def results(task: str, values: np.ndarray, seen: Seen, **about: Any) -> list[Result]:
    """Return mean_iou and pixel_accuracy. values: `areas` (N, 2, C) of the N pictures seen. about: other fields of the
    results.

    Raises EvaluationError if no pixel counts.
    """
    if not values.sum():
        raise EvaluationError(f"{task} has no pixel to measure on", cause="All labels are 255, or background")
    values = values[seen.order]
    samples = fingerprint.of_samples((seen.digests[number],) for number in seen.order)
    about["skipped"] = seen.skipped
    found = []
    for metric in METRICS:
        outcomes = Outcomes(values, metric, samples=samples)
        interval = resampled(outcomes.value, len(values))
        found.append(
            Result(task, metric, outcomes.value(), len(values), *interval, **about, outcomes=outcomes)
        )
    return found
