"""CLIP: images and texts find each other among the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from openslip.collectives import gather_rows, rank, world
from openslip.errors import ConfigError, did_you_mean
from openslip.objectives.contrast import check_block, contrast, unit

GRADIENTS = ("exact", "reference")


@dataclass(frozen=True)
class Clip:
    """L_clip = ½ [CE(s·I·Tᵀ) + CE(s·T·Iᵀ)], matching pairs on the diagonal (Radford et al. 2021, fig. 3)."""

    name = "clip"
    needs = ("image", "text")

    block: int = 1024
    """Rows of the similarity matrix held at a time; 0 holds it whole."""
    gradient: str = "exact"
    """Of several processes: `exact` is that of one process with the whole batch; `reference` is the reference
    implementation's, which takes the embeddings of the other processes, and its own among them, for constants."""

    def __post_init__(self) -> None:
        check_block(self.block)
        if self.gradient not in GRADIENTS:
            raise ConfigError(
                "There is no such gradient", got=self.gradient, fix=did_you_mean(self.gradient, GRADIENTS)
            )

    def __call__(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, `clip_loss` (the same, detached) and `clip_acc` for a batch.

        `embeddings` holds `image` and `text`, each (N, D) of any length (normalised here), row n of one
        the match of row n of the other, and `logit_scale`, the scalar s itself. `clip_acc`, in [0, 1], is the
        share of images whose own text is the most similar of the batch.

        Of several processes each has its share of the batch, equally many, and returns the values of its own pairs
        among all texts and images: their means over the processes are those of the whole batch.
        """
        image, text = unit(embeddings["image"]), unit(embeddings["text"])
        scale = embeddings["logit_scale"]
        # The batch's pairs are spread over the processes by rank.
        first = rank() * len(image)
        match = torch.arange(first, first + len(image), device=image.device)
        if self.gradient == "reference" and world() > 1:
            by_image = contrast(image, gather_rows(text).detach(), scale, match, block=self.block)
            by_text = contrast(text, gather_rows(image).detach(), scale, match, block=self.block)
            loss = (
                (by_image.rows - by_image.positives).mean() + (by_text.rows - by_text.positives).mean()
            ) / 2
            return self._values(loss, by_image.hits)
        logits = contrast(image, gather_rows(text), scale, match, columns=True, block=self.block)
        # Every process has reduced each text's logits over its own images; row n's positive is column n's as well.
        columns = cast(Tensor, logits.columns)  # asked for above
        by_text = gather_rows(columns[None]).logsumexp(0) if world() > 1 else columns
        by_text = by_text[first : first + len(text)]
        loss = ((logits.rows - logits.positives).mean() + (by_text - logits.positives).mean()) / 2
        return self._values(loss, logits.hits)

    def _values(self, loss: Tensor, hits: Tensor) -> dict[str, Tensor]:
        return {"loss": loss, "clip_loss": loss.detach(), "clip_acc": hits.float().mean()}

    def __str__(self) -> str:
        return self.name
