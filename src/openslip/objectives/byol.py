"""BYOL: from one view of an image the model predicts how a slow average of itself sees the other view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from openslip.collectives import add_up, world
from openslip.errors import TrainingError
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives.contrast import unit
from openslip.objectives.heads import MlpHead
from openslip.objectives.objective import At, Curve, Dims, Objective, cosine_momentum
from openslip.ranges import FROM_1, SHARE


class Byol(Objective):
    """L = mean over images of (2 − 2 cos(q₁, z'₂)) + (2 − 2 cos(q₂, z'₁)) (Grill et al. 2020, section 3.1, eq. 2).

    q is the output of the student's projector and predictor; z' is the teacher's projection, a constant. Each of the
    two terms is in [0, 4], so their sum is in [0, 8]. There are no negatives: the predictor and the teacher keep the
    images from becoming one point, and `byol_std` shows whether they do.
    """

    name = "byol"
    title = "BYOL"
    views = SSL_VIEWS
    needs = tuple(Need(view.name, by=by) for by in ("student", "teacher") for view in SSL_VIEWS)
    teacher_heads = ("projector",)
    curves = (
        Curve(
            "byol_loss",
            "Self-supervised loss",
            "distance of the prediction from the teacher; of use beside the spread alone",
            "low",
            lambda *_: 4.0,
        ),
        Curve("byol_std", "Spread of the projections", "1: as wide as can be; 0: all in one point", "high"),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, FROM_1] = 4096
        """Width of the projector's and the predictor's hidden layer."""
        dim: Annotated[int, FROM_1] = 256
        """Dimension of the projections."""
        momentum: Annotated[float, SHARE] = 0.996
        """Share of its weights that the teacher keeps in the first step; it rises to 1 in the last."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.projector = MlpHead(dims.width, config.width, config.dim)
        self.predictor = MlpHead(config.dim, config.width, config.dim)

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return for each view `projected_…` and `predicted_…` by the student, `target_…` by the teacher, (N, dim).

        The views pass the heads one after the other. So in training each view is normalised by its own batch
        statistics, and the teacher's by the statistics of the teacher's features.
        """
        if self.teacher is None:
            raise TrainingError("BYOL has no teacher", fix="Train it with openslip.train, which makes one.")
        embeddings = {}
        for view in SSL_VIEWS:
            projected = self.projector(features[Need(view.name)])
            embeddings[f"projected_{view.name}"] = projected
            embeddings[f"predicted_{view.name}"] = self.predictor(projected)
            of_teacher = features[Need(view.name, by="teacher")]
            embeddings[f"target_{view.name}"] = self.teacher("projector", of_teacher)
        return embeddings

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `byol_loss` (the same, detached) and `byol_std` for a batch.

        `embeddings` are those of `embed`, of any length (normalised here). `byol_std` is the standard deviation of the
        student's projections of length 1 over both views of the batch, as a mean over dimensions, times √dim. It is
        near 1 where the projections point everywhere, and 0 where they have collapsed into one.
        """
        one, two = (view.name for view in SSL_VIEWS)
        units = {name: unit(rows) for name, rows in embeddings.items()}
        cosines = [
            (units[f"predicted_{a}"] * units[f"target_{b}"].detach()).sum(1)
            for a, b in ((one, two), (two, one))
        ]
        loss = (4 - 2 * (cosines[0] + cosines[1])).mean()
        spread = _spread(torch.cat([units[f"projected_{name}"] for name in (one, two)]))
        return {"loss": loss, "byol_loss": loss.detach(), "byol_std": spread}

    def momentum(self, at: At) -> float:
        """Return τ of the step; τ rises to 1 (section 3.3)."""
        return cosine_momentum(self.config.momentum, at)


@torch.no_grad()
def _spread(rows: Tensor) -> Tensor:
    """Return √D times the mean over D dimensions of the standard deviation of rows (n, D), of all processes' rows."""
    count = world() * len(rows)
    centred = rows - add_up(rows.sum(0)) / count
    variance = add_up(centred.square().sum(0)) / count
    return variance.sqrt().mean() * math.sqrt(rows.shape[1])
