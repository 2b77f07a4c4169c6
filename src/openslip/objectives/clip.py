"""CLIP: images and texts find each other among the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from openslip.collectives import gather_rows, rank, world
from openslip.needs import IMAGE, LABELS, LOGIT_SCALE, TEXT, Need
from openslip.objectives.contrast import contrast, groups_of, unit
from openslip.objectives.objective import At, Curve, LogitScale, Objective
from openslip.ranges import FROM_0


class Clip(Objective):
    """L_clip = ½ [CE(s·I·Tᵀ) + CE(s·T·Iᵀ)], matching pairs on the diagonal (Radford et al. 2021, fig. 3).

    With `positives` of labels, the target of a row is uniform over all pairs of its class (UniCL; Yang et al. 2022).
    """

    name = "clip"
    title = "CLIP"
    views = (IMAGE,)
    needs = (Need("image", "embedding"), Need(TEXT, "embedding"), LOGIT_SCALE)
    logit_scale = LogitScale(initial=1 / 0.07, low=1, high=100)
    curves = (
        Curve("clip_loss", "Image–text loss", "lower is better", "low", lambda batch, _: math.log(batch)),
        Curve(
            "clip_acc",
            "Image–text accuracy",
            "right caption found among the batch's",
            "high",
            lambda batch, _: 1 / batch,
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        block: Annotated[int, FROM_0] = 1024
        """Rows of the similarity matrix held at a time; 0 holds it whole."""
        gradient: Literal["exact", "reference"] = "exact"
        """With several processes: exact is the gradient that one process with the whole batch has; reference that of
        the reference implementation, which takes the gathered embeddings for constants."""
        positives: Literal["pairs", "labels"] = "pairs"
        """What belongs to an image beside its own caption. pairs: nothing; labels: the captions of its class. Of a
        source of classes, `labels:…`, training takes labels where nothing is said."""

    config: Config

    @classmethod
    def needs_for(cls, config: Config) -> tuple[Need, ...]:
        return (*cls.needs, LABELS) if config.positives == "labels" else cls.needs

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `image` and `text`, each (N, D), and `logit_scale`: all are the model's; and `labels` if needed."""
        image, text, scale = (features[need] for need in self.needs)
        found = {"image": image, "text": text, "logit_scale": scale}
        return found | ({"labels": features[LABELS]} if self.config.positives == "labels" else {})

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `clip_loss` (the same, detached) and `clip_acc` for a batch.

        `embeddings` holds `image` and `text`, each (N, D) of any length (normalised here), row n of one
        the match of row n of the other, `logit_scale`, the scalar s itself, and with `positives` of labels
        `labels` (N,), -1 for a row that matches itself alone. `clip_acc`, in [0, 1], is the share of images whose
        most similar text of the batch is their own, or of their class.
        """
        image, text = unit(embeddings["image"]), unit(embeddings["text"])
        scale, block = embeddings["logit_scale"], self.config.block
        # The batch's pairs are spread over the processes by rank.
        first = rank() * len(image)
        match = torch.arange(first, first + len(image), device=image.device)
        groups = groups_of(embeddings["labels"]) if self.config.positives == "labels" else None
        if self.config.gradient == "reference" and world() > 1:
            by_image = contrast(image, gather_rows(text).detach(), scale, match, block=block, groups=groups)
            by_text = contrast(text, gather_rows(image).detach(), scale, match, block=block, groups=groups)
            loss = (
                (by_image.rows - by_image.positives).mean() + (by_text.rows - by_text.positives).mean()
            ) / 2
            return _values(loss, by_image.hits)
        logits = contrast(image, gather_rows(text), scale, match, columns=True, block=block, groups=groups)
        # Every process has reduced each text's logits over its own images. Row n's positive is column n's as well; of
        # groups the means over rows and over columns add up to the same, as both are as long as the group.
        columns = cast(Tensor, logits.columns)  # asked for above
        by_text = gather_rows(columns[None]).logsumexp(0) if world() > 1 else columns
        by_text = by_text[first : first + len(text)]
        loss = ((logits.rows - logits.positives).mean() + (by_text - logits.positives).mean()) / 2
        return _values(loss, logits.hits)


def _values(loss: Tensor, hits: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "clip_loss": loss.detach(), "clip_acc": hits.float().mean()}
