"""SigLIP: every pair of an image and a text is a question of its own: do the two belong together?"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openslip.collectives import gather_rows, rank
from openslip.needs import IMAGE, LABELS, LOGIT_SCALE, TEXT, Need
from openslip.objectives.contrast import groups_of, row_blocks, unit
from openslip.objectives.objective import At, Curve, Dims, LogitScale, Objective, mean_over_captions
from openslip.objectives.relations import numbered, packed
from openslip.ranges import FROM_0, FROM_1


class SigLip(Objective):
    """L = −1/N Σ_ij log σ(z_ij (s·x_i·y_j + b)), z_ij = 1 for a pair, else −1 (Zhai et al. 2023, eq. 1 and alg. 1).

    A pair is an image with its own text, or with a text that is equal to its own. Where captions repeat, the paper's
    diagonal would teach that an image does not belong to its caption. With `positives` of labels, all texts of an
    image's class are its texts, too. With several `captions` of each image the loss is the mean of their losses.
    """

    name = "siglip"
    title = "SigLIP"
    views = (IMAGE,)
    needs = (Need("image", "embedding"), Need(TEXT, "embedding"), LOGIT_SCALE, Need(TEXT, "ids"))
    # The authors' code sets no limits. Ours only keep the scale a usable number, far from where training takes it.
    # CLIP's limit of 100 guards a softmax against a scale that makes it one-hot, and would hinder a sigmoid.
    logit_scale = LogitScale(initial=10, low=0.01, high=1000)
    curves = (
        Curve(
            "siglip_loss",
            "Image–text sigmoid loss",
            "lower is better",
            "low",
            # The loss of equal logits for all pairs, with the best bias there is: log(1 / (N − 1)).
            lambda batch, _: math.log(batch) + (batch - 1) * math.log(batch / max(1, batch - 1)),
        ),
        Curve(
            "siglip_acc",
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
        bias: float = -10.0
        """Where the bias b starts; b is trained. It starts below zero, because most images and texts do not match."""
        positives: Literal["pairs", "labels"] = "pairs"
        """What belongs to an image besides its own caption. pairs: nothing. labels: the captions of its class. With a
        source of classes, `labels:…`, training takes labels unless you set this option."""
        captions: Annotated[int, FROM_1] = 1
        """How many captions of each image a step takes, for pictures that have several. The image tower sees the
        picture once, and the text tower reads each caption. A picture with fewer captions has some of them twice."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.context, self.bits = dims.context, dims.vocabulary.bit_length() or 32
        self.bias = nn.Parameter(torch.tensor(config.bias))

    @classmethod
    def needs_for(cls, config: Config) -> tuple[Need, ...]:
        image, text, scale, ids = cls.needs
        text, ids = (replace(need, captions=config.captions) for need in (text, ids))
        return (image, text, scale, ids, *[LABELS] * (config.positives == "labels"))

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `image` and `text`, each (N, D), `logit_scale`, and `captions` (N, K) int64, equal for equal captions;
        `labels` (N,) if needed.

        Texts are cut to the longest of a process's rows; `captions` are of one length on all processes. With several
        captions `text` is (N, captions, D), and `captions` (N, captions, K).
        """
        image, text, scale, ids = (features[need] for need in self.needs_for(self.config)[:4])
        captions = packed(F.pad(ids, (0, max(0, self.context - ids.shape[-1]))), self.bits)
        found = {"image": image, "text": text, "logit_scale": scale, "captions": captions}
        return found | ({"labels": features[LABELS]} if self.config.positives == "labels" else {})

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `siglip_loss` (the same, detached) and `siglip_acc` for a batch.

        `embeddings` holds `image` and `text`, each (N, D) of any length (normalised here); row n of one is the match of
        row n of the other. It also holds `logit_scale`, the scalar s itself; `captions` (N, K) integers, equal rows for
        equal captions; and with `positives` of labels `labels` (N,), -1 for a row without a class. `siglip_acc`, in
        [0, 1], is the share of images whose most similar text of the batch is their own, equal to it, or of their
        class.
        """
        return mean_over_captions(self._loss, embeddings, self.config.captions)

    def _loss(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of `loss` for one caption of each image."""
        image, text = unit(embeddings["image"]), unit(embeddings["text"])
        texts, kinds = gather_rows(text), [numbered(gather_rows(embeddings["captions"]))]
        if self.config.positives == "labels":
            kinds.append(groups_of(embeddings["labels"]))
        # The batch's pairs are spread over the processes by rank: each process has its own images, with all texts.
        first = rank() * len(image)
        scale, bias = (x.to(image.dtype) for x in (embeddings["logit_scale"], self.bias))
        losses, hits = [], []
        for rows in row_blocks(len(image), self.config.block):
            # Neither the block's logits nor anything of their size waits for the backward pass.
            block = checkpoint(
                _of_block, image[rows], texts, scale, bias, [(kind[first:][rows], kind) for kind in kinds],
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            losses.append(block[0])
            hits.append(block[1])
        loss = torch.cat(losses).mean()
        accuracy = torch.cat(hits).float().mean()
        return {"loss": loss, "siglip_loss": loss.detach(), "siglip_acc": accuracy}


def _of_block(
    image: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, kinds: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return for some images their loss over all texts (B,), and whether their best text is one of theirs (B,).

    kinds: each has a number for every image (B,) and every text (M,). Equal numbers belong together.
    """
    logits = torch.addmm(bias, image * scale, texts.T)
    pairs = _any([own[:, None] == every for own, every in kinds])
    losses = -F.logsigmoid(torch.where(pairs, logits, -logits)).sum(1)
    best = logits.detach().argmax(1)
    return losses, _any([every[best] == own for own, every in kinds])


def _any(found: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.logical_or, found)
