"""Zero-shot segmentation: the class whose prompts are nearest to each patch, upsampled to pixels.

`openslip.models.dense.patch_embeddings` embeds patches in the space shared with text; with a class token, it does so as
MaskCLIP (Zhou, Loy and Dai 2022). Cosine similarities with the class embeddings of zero-shot classification are
upsampled (bilinear), and each pixel gets the nearest class. Nothing is trained. No prompt can name a class called
`background`: it is not a candidate, and its pixels do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.data.labelled import dataset_name, prompts
from openslip.data.labelled.prompts import PromptSet, Templates, check_templates
from openslip.data.masks import BACKGROUND, IGNORED, MaskedSet
from openslip.errors import EvaluationError
from openslip.evaluation import Result, datasets
from openslip.evaluation.dense import BATCH, OnMasks, areas, labelled, results, through
from openslip.evaluation.features import require_text
from openslip.evaluation.zeroshot import classifier
from openslip.models.dense import check_patches, patch_embeddings

if TYPE_CHECKING:
    from openslip.encoder import Encoder


@dataclass(frozen=True)
class ZeroShotSegmentation(OnMasks):
    """mean_iou and pixel_accuracy on the test split, else val, or all of a set without splits.

    templates: sentences with `{}` for the class name, or such sentences by data set; empty: those that suit the
    classes.
    """

    dataset: str
    templates: Templates = ()
    batch_size: int = BATCH
    needs_text = True
    protocol = "zeroshot-segmentation"

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        data = self.opened()
        return {"data": data.location, "prompts": self._asked(data).name}

    def check(self) -> None:
        """Raise DataError without a split to measure on, ConfigError for a template without `{}`, EvaluationError for
        fewer than two classes."""
        check_templates(self.templates)
        data = self.keep()
        _ = data.test
        if len(self._asked(data).class_names) < 2:
            raise EvaluationError(f"{self.name} needs two classes or more", got=data.class_names)

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data, lines = self.opened(), super().lines()
        if any(map(_is_background, data.class_names)):
            lines.append(f"{data.name}: pixels of {BACKGROUND} do not count for {self.name}.")
        if self._given(_things(data)) is None:
            asked = self._asked(data).name
            lines.append(f"The given templates have none for {data.name}, which is measured with {asked}.")
        return lines

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises EvaluationError for a model without text, or a tower whose pooling gives no patch
        embeddings."""
        require_text(encoder, self.name)
        check_templates(self.templates)
        data = self.opened()
        asked = self._asked(data)
        check_patches(encoder.model, embeddings=True)
        weights = torch.from_numpy(classifier(encoder, asked.names, asked.templates))
        weights = weights.to(encoder.device)
        numbers = _without_background(data.class_names)
        found: list[np.ndarray] = []

        def measure(pixels: Tensor, labels: Tensor) -> None:
            embeddings = F.normalize(patch_embeddings(encoder.model, pixels).float(), dim=-1)
            predicted = labelled(embeddings @ weights.T, labels.shape[-1]).cpu().numpy()
            found.append(areas(predicted, numbers[labels.numpy()], len(weights)))

        seen = through(encoder, data.splits[data.test], measure, self.batch_size, f"{data.name} {data.test}")
        about = self.about() | {"split": data.test, "content": seen.content(data.class_names)}
        return results(self.name, np.concatenate(found), seen, **about)

    def _asked(self, data: MaskedSet) -> PromptSet:
        """Return the prompts for the classes: the templates that were given, else those that suit the classes."""
        things = _things(data)
        return prompts.for_set(things).with_templates(self._given(things) or ())

    def _given(self, things: MaskedSet) -> tuple[str, ...] | None:
        return prompts.for_one(self.templates, datasets.told(things.class_names), dataset_name(self.dataset))


def _things(data: MaskedSet) -> MaskedSet:
    """Return a set without the class `background`."""
    return replace(data, class_names=tuple(name for name in data.class_names if not _is_background(name)))


def _is_background(name: str) -> bool:
    return name.strip().lower() == BACKGROUND


def _without_background(class_names: Sequence[str]) -> np.ndarray:
    """Return the number of each label, (256,) uint8, counted without background. Background becomes IGNORED."""
    numbers = np.full(256, IGNORED, dtype=np.uint8)
    things = [label for label, name in enumerate(class_names) if not _is_background(name)]
    numbers[things] = np.arange(len(things))
    return numbers
