"""CLIP: images and texts find each other among the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slip.objectives.contrast import check_block, contrast, unit


@dataclass(frozen=True)
class Clip:
    """L_clip = ½ [CE(s·I·Tᵀ) + CE(s·T·Iᵀ)], matching pairs on the diagonal (Radford et al. 2021, fig. 3)."""

    name = "clip"
    needs = ("image", "text")

    block: int = 1024
    """Rows of the similarity matrix held at a time; 0 holds it whole."""

    def __post_init__(self) -> None:
        check_block(self.block)

    def __call__(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, `clip_loss` (the same, detached) and `clip_acc` for a batch.

        `embeddings` holds `image` and `text`, each (N, D) of any length (normalised here), row n of one
        the match of row n of the other, and `logit_scale`, the scalar s itself. `clip_acc`, in [0, 1], is the
        share of images whose own text is the most similar of the batch.
        """
        image, text = unit(embeddings["image"]), unit(embeddings["text"])
        match = torch.arange(len(image), device=image.device)
        logits = contrast(image, text, embeddings["logit_scale"], match, columns=True, block=self.block)
        assert logits.columns is not None  # asked for above
        # Row n's positive is column n's as well.
        loss = ((logits.rows - logits.positives).mean() + (logits.columns - logits.positives).mean()) / 2
        return {"loss": loss, "clip_loss": loss.detach(), "clip_acc": logits.hits.float().mean()}

    def __str__(self) -> str:
        return self.name
