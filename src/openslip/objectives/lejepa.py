"""LeJEPA: the views of an image agree, and all embeddings together are Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openslip.collectives import add_up, world
from openslip.needs import SSL_VIEWS, Need, View
from openslip.objectives.heads import MlpHead
from openslip.objectives.objective import At, Curve, Dims, Objective
from openslip.ranges import ABOVE_0, FROM_0, FROM_1, SHARE, Range

# Shape suffixes: n rows of this process, D dimensions of an embedding, M directions.


class LeJepa(Objective):
    """L = (1 − λ) · distance + λ · SIGReg (Balestriero & LeCun 2025, arXiv 2511.08544, section 5.1 and algorithm 2).

    The distance is the squared distance of an image's views from their centre, a mean over images, views and
    dimensions. The centre is the mean of the two large views, and all views are compared with it. SIGReg (section 4.2,
    eq. 5) is the Epps–Pulley statistic of the batch along random directions: how far the batch is from a standard
    Gaussian. SIGReg keeps all embeddings from becoming one point. There are no negatives, no teacher, and no input
    whose gradient is stopped.
    """

    name = "lejepa"
    title = "LeJEPA"
    views = SSL_VIEWS
    needs = tuple(Need(view.name) for view in SSL_VIEWS)
    curves = (
        Curve("lejepa_loss", "Self-supervised loss", "lower is better", "low"),
        Curve(
            "lejepa_distance", "Distance of an image's views", "0: all views of an image are one point", "low"
        ),
        Curve(
            "lejepa_statistic",
            "Distance from a Gaussian",
            "about 1 for a Gaussian batch; 0.41 times the batch where all has collapsed into one point",
            "low",
        ),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sigreg: Annotated[float, SHARE] = 0.05
        """Weight λ of SIGReg; the agreement of the views has weight 1 − λ. Raise it where the statistic stays far
        above 1, as with a small batch."""
        directions: Annotated[int, FROM_1] = 1024
        """Random directions along which SIGReg measures a batch, drawn anew in each step. Fewer cost less; the paper
        finds 512 nearly as good."""
        points: Annotated[int, Range("at least 2", 2)] = 9
        """Points of quadrature from 0 to `reach`, ends included. The other half of the integral is the same, so 9
        points are the paper's 17 from −5 to 5. More are needed only with a larger reach."""
        reach: Annotated[float, ABOVE_0] = 5.0
        """The characteristic function is compared from −reach to reach. Beyond 5 the integrand has no weight."""
        local: Annotated[int, FROM_0] = 0
        """Local crops of each image besides the two large views, drawn as `views.local` says. The paper has 6 to 8.
        Each costs a pass of a small picture through the tower; take some where there is time for them."""
        width: Annotated[int, FROM_1] = 2048
        """Width of the projector's hidden layer."""
        dim: Annotated[int, FROM_1] = 256
        """Dimension of the embeddings that are made Gaussian."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.projector = MlpHead(dims.width, config.width, config.dim)

    @classmethod
    def views_for(cls, config: Config) -> tuple[View, ...]:
        return (*SSL_VIEWS, *(View(f"local_{n}", "local") for n in range(1, config.local + 1)))

    @classmethod
    def needs_for(cls, config: Config) -> tuple[Need, ...]:
        return tuple(Need(view.name) for view in cls.views_for(config))

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings of each view by its name, (N, dim).

        The views pass the projector one after the other, so in training each is normalised by its own batch statistics.
        """
        return {need.view: self.projector(feature) for need, feature in features.items()}

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss`, `lejepa_loss` (the same, detached), `lejepa_distance` and `lejepa_statistic` for a batch.

        `embeddings` come from `embed`; row n of all views is from the same image. `lejepa_distance` is the first term
        and `lejepa_statistic` the second, without their weights. The statistic is a mean over views, as in the paper.
        """
        views = list(embeddings.values())
        centre = torch.stack([embeddings[view.name] for view in SSL_VIEWS]).mean(0)
        distance = torch.stack([(view - centre).square().mean() for view in views]).mean()
        along = directions(views[0].shape[1], self.config.directions, at).to(centre)
        statistics = [epps_pulley(view, along, self.config.points, self.config.reach) for view in views]
        statistic = torch.stack(statistics).mean()
        loss = (1 - self.config.sigreg) * distance + self.config.sigreg * statistic
        values = {"loss": loss, "distance": distance, "statistic": statistic}
        return {"loss": loss} | {f"lejepa_{key}": value.detach() for key, value in values.items()}


def directions(dim: int, count: int, at: At) -> Tensor:
    """Return the random unit vectors of a step, (dim, count) in fp32 on the CPU, the same on every process."""
    generator = torch.Generator().manual_seed((at.seed * 1_000_003 + at.step) % 2**63)
    drawn = torch.randn(dim, count, generator=generator, device="cpu")
    return drawn / drawn.norm(dim=0)


def epps_pulley(embeddings_nD: Tensor, along_DM: Tensor, points: int, reach: float) -> Tensor:
    """Return the Epps–Pulley statistic of all processes' rows, a mean over directions (section 4.2.3).

    Along a direction it is N ∫ |φ(t) − exp(−t²/2)|² exp(−t²/2) dt from −reach to reach, where φ(t), the mean of
    exp(i t u) over the N rows u, is the empirical characteristic function. The trapezoidal rule with `points` points
    from 0 to reach gives half of the integral. For Gaussian rows the statistic is √2π (1 − √⅓) = 1.06 on average,
    whatever N is; for rows that are all 0 it is N · √2π (1 − √2 + √⅓) = 0.41 N.

    The sine and cosine of a point are computed again in backward, so memory holds only a few times n · M numbers.
    """
    along_nM = embeddings_nD @ along_DM
    count, step = len(along_nM) * world(), reach / (points - 1)
    # At 0, where both functions are 1, there is nothing to compare.
    knots = [number * step for number in range(1, points)]
    sums = [checkpoint(_sums, along_nM, t, use_reentrant=False, preserve_rng_state=False) for t in knots]
    means_K2M = add_up(torch.stack(sums)) / count
    total = along_nM.new_zeros(())
    for number, (t, (real_M, imaginary_M)) in enumerate(zip(knots, means_K2M), 1):
        gaussian = math.exp(-(t**2) / 2)
        weight = 2 * step * gaussian * (0.5 if number == len(knots) else 1)
        total = total + weight * ((real_M - gaussian).square() + imaginary_M.square()).mean()
    return count * total


def _sums(along_nM: Tensor, t: float) -> Tensor:
    """Return the sums of cos(t u) and of sin(t u) over rows u, (2, M)."""
    angles = t * along_nM
    return torch.stack((angles.cos().sum(0), angles.sin().sum(0)))
