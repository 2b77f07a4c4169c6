"""MoCo v3: each view finds its twin, as a slow average of the model sees it, among the twins of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from openslip.collectives import gather_rows, rank
from openslip.errors import TrainingError
from openslip.needs import SSL_VIEWS, Need
from openslip.objectives.contrast import contrast, unit
from openslip.objectives.heads import MlpHead, ProjectionHead
from openslip.objectives.objective import At, Curve, Dims, Objective, cosine_momentum
from openslip.ranges import ABOVE_0, FROM_0, FROM_1, SHARE


class MoCoV3(Objective):
    """L = 2τ · [CE(Q₁ K₂ᵀ / τ) + CE(Q₂ K₁ᵀ / τ)] (Chen, Xie & He 2021, algorithm 1).

    q is the output of the student's projector and predictor for a view. k is the output of the teacher's projector, a
    constant. All have length 1. The positive of an image's q is the image's k of the other view. The k of all other
    images in the batch of all processes are negatives. CE is a mean over images, and 2τ keeps the size of its gradient
    the same at every temperature.

    Projector and predictor end in a BatchNorm without weights (section 5, MLP heads), as in the authors' code.
    """

    name = "mocov3"
    title = "MoCo v3"
    views = SSL_VIEWS
    needs = tuple(Need(view.name, by=by) for by in ("student", "teacher") for view in SSL_VIEWS)
    teacher_heads = ("projector",)
    curves = (
        Curve(
            "mocov3_loss",
            "Self-supervised cross-entropy",
            "lower is better; a mean of both directions, without the factor 4τ",
            "low",
            lambda _, rows: math.log(max(1, rows)),
        ),
        Curve(
            "mocov3_acc",
            "Self-supervised accuracy",
            "teacher's twin found among the batch's",
            "high",
            lambda _, rows: 1 / max(1, rows),
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        temperature: Annotated[float, ABOVE_0] = 0.2
        """Temperature of the softmax. The paper has 0.2 for vision transformers, and 1 for ResNets."""
        momentum: Annotated[float, SHARE] = 0.99
        """Share of its weights that the teacher keeps in the first step; it rises to 1 in the last. Raise it towards
        0.996 for runs of more than some ten thousand steps."""
        width: Annotated[int, FROM_1] = 4096
        """Width of the projector's and the predictor's hidden layers. Lower it where the heads are larger than the
        tower, as the plan shows."""
        dim: Annotated[int, FROM_1] = 256
        """Dimension of the embeddings that are contrasted."""
        block: Annotated[int, FROM_0] = 1024
        """Rows of the similarity matrix held at a time; 0 holds it whole. Lower it where memory is short."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.projector = _normalised(ProjectionHead(dims.width, config.width, config.dim), config.dim)
        self.predictor = _normalised(MlpHead(config.dim, config.width, config.dim), config.dim)

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return for each view `query_…` by the student and `key_…` by the teacher, each (N, dim).

        The views pass the heads one after the other. So in training each view is normalised by its own batch
        statistics, and the teacher's by the statistics of the teacher's features.
        """
        if self.teacher is None:
            raise TrainingError(
                "MoCo v3 has no teacher", fix="Train it with openslip.train, which makes one."
            )
        embeddings = {}
        for view in SSL_VIEWS:
            embeddings[f"query_{view.name}"] = self.predictor(self.projector(features[Need(view.name)]))
            of_teacher = features[Need(view.name, by="teacher")]
            embeddings[f"key_{view.name}"] = self.teacher("projector", of_teacher)
        return embeddings

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `mocov3_loss` and `mocov3_acc` for a batch.

        `embeddings` are those of `embed`, of any length (normalised here). `mocov3_loss` is the mean cross-entropy of
        the two directions, and `loss` is 4τ times as large. `mocov3_acc`, in [0, 1], is the share of the 2N queries
        whose most similar key is their twin's.
        """
        one, two = (view.name for view in SSL_VIEWS)
        crosses, hits = [], []
        for mine, other in ((one, two), (two, one)):
            queries, keys = unit(embeddings[f"query_{mine}"]), unit(embeddings[f"key_{other}"]).detach()
            twin = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
            logits = contrast(
                queries, gather_rows(keys), 1 / self.config.temperature, twin, block=self.config.block
            )
            crosses.append((logits.rows - logits.positives).mean())
            hits.append(logits.hits.float().mean())
        cross = torch.stack(crosses).mean()
        return {
            "loss": 4 * self.config.temperature * cross,
            "mocov3_loss": cross.detach(),
            "mocov3_acc": torch.stack(hits).mean(),
        }

    def momentum(self, at: At) -> float:
        """Return the teacher's momentum of the step, which rises to 1 along a cosine, as in BYOL."""
        return cosine_momentum(self.config.momentum, at)


def _normalised(head: nn.Module, dim: int) -> nn.Sequential:
    """Return a head whose outputs are normalised over the batch, without weights."""
    return nn.Sequential(head, nn.BatchNorm1d(dim, affine=False))
