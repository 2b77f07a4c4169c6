"""SimCLR: two views of one image find each other among all views of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openslip.collectives import gather_rows, rank
from openslip.errors import ConfigError
from openslip.objectives.contrast import check_block, contrast, unit


@dataclass(frozen=True)
class SimClr:
    """NT-Xent: each of 2N views classifies its twin among the 2N − 1 others (Chen et al. 2020, eq. 1)."""

    name = "simclr"
    needs = ("ssl_1", "ssl_2")

    temperature: float = 0.1
    block: int = 1024
    """Rows of the similarity matrix held at a time; 0 holds it whole."""

    def __post_init__(self) -> None:
        check_block(self.block)
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(
                "SimCLR's temperature must be positive", got=self.temperature, fix="The paper uses 0.1."
            )

    def __call__(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, `simclr_loss` (the same, detached) and `simclr_acc` for a batch.

        `embeddings` holds `ssl_1` and `ssl_2`, each (N, D) of any length (normalised here), row n of both
        from the same image. `simclr_acc`, in [0, 1], is the share of the N first views whose most similar
        other view is their twin (counted on the first views alone, as the reference implementation does).

        Of several processes each has its share of the batch, equally many, and returns the values of its own views
        among those of all: their means over the processes are those of the whole batch.
        """
        views = unit(torch.cat((embeddings["ssl_1"], embeddings["ssl_2"])))
        itself = torch.arange(len(views), device=views.device) + rank() * len(views)
        twin = itself.roll(len(views) // 2)
        logits = contrast(
            views, gather_rows(views), 1 / self.temperature, twin, excluded=itself, block=self.block
        )
        loss = (logits.rows - logits.positives).mean()
        hits = logits.hits[: len(views) // 2]
        return {"loss": loss, "simclr_loss": loss.detach(), "simclr_acc": hits.float().mean()}

    def __str__(self) -> str:
        return self.name
