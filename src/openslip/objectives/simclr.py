"""SimCLR: two views of one image find each other among all views of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from openslip.collectives import gather_rows, rank
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives.contrast import contrast, unit
from openslip.objectives.heads import ProjectionHead
from openslip.objectives.objective import At, Curve, Dims, Objective
from openslip.ranges import ABOVE_0, FROM_0, FROM_1


class SimClr(Objective):
    """NT-Xent: each of 2N views classifies its twin among the 2N − 1 others (Chen et al. 2020, eq. 1)."""

    name = "simclr"
    title = "SimCLR"
    views = SSL_VIEWS
    needs = tuple(Need(view.name) for view in SSL_VIEWS)
    curves = (
        Curve(
            "simclr_loss",
            "Self-supervised loss",
            "lower is better",
            "low",
            lambda _, rows: math.log(max(1, 2 * rows - 1)),
        ),
        Curve(
            "simclr_acc",
            "Self-supervised accuracy",
            "twin view found among the batch's",
            "high",
            lambda _, rows: 1 / max(1, 2 * rows - 1),
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        temperature: Annotated[float, ABOVE_0] = 0.1
        """Temperature of the softmax."""
        block: Annotated[int, FROM_0] = 1024
        """Rows of the similarity matrix held at a time; 0 holds it whole."""
        width: Annotated[int, FROM_1] = 4096
        """Width of the head's two hidden layers."""
        dim: Annotated[int, FROM_1] = 256
        """Dimension of the embeddings that are contrasted."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.head = ProjectionHead(dims.width, config.width, config.dim)

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `ssl_1` and `ssl_2`, each (N, dim).

        The two views pass the head one after the other, as in the reference. So in training each view is normalised by
        its own batch statistics.
        """
        return {need.view: self.head(features[need]) for need in self.needs}

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `simclr_loss` (the same, detached) and `simclr_acc` for a batch.

        `embeddings` holds `ssl_1` and `ssl_2`, each (N, D) of any length (normalised here); row n of both is
        from the same image. `simclr_acc`, in [0, 1], is the share of the N first views whose most similar
        other view is their twin (counted on the first views alone, as the reference implementation does).
        """
        views = unit(torch.cat((embeddings["ssl_1"], embeddings["ssl_2"])))
        itself = torch.arange(len(views), device=views.device) + rank() * len(views)
        twin = itself.roll(len(views) // 2)
        logits = contrast(
            views,
            gather_rows(views),
            1 / self.config.temperature,
            twin,
            excluded=itself,
            block=self.config.block,
        )
        loss = (logits.rows - logits.positives).mean()
        hits = logits.hits[: len(views) // 2]
        return {"loss": loss, "simclr_loss": loss.detach(), "simclr_acc": hits.float().mean()}
