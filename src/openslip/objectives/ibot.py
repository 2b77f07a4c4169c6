"""iBOT: from the visible patches of a view, the student predicts the teacher's classes of the hidden patches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from openslip.collectives import rank, world
from openslip.errors import ConfigError
from openslip.needs import SSL_VIEWS, Need, View
from openslip.objectives.objective import At, Dims
from openslip.objectives.prototypes import PrototypeObjective, PrototypeOptions, curves_of
from openslip.ranges import SHARE

TRIES = 10
"""Blocks that are drawn for a mask, before single patches make up what is missing."""
ASPECT = 0.3
"""The narrowest block's ratio of sides, and one over the widest's (BEiT; Bao et al. 2022, algorithm 1)."""


class Ibot(PrototypeObjective):
    """L = mean over images and views of the mean over hidden patches of H(p, q) (Zhou et al. 2022, section 3.1).

    q comes from the student's patch token where the patch was hidden. p comes from the teacher's token of the same
    patch, computed from the whole view. `PrototypeObjective` defines p, q and H.

    In the paper, patches share their head with DINO's class token, and half of the images are not masked. Here `dino`
    is a term of its own: iBOT has its own head and masks every image, and `dino` sees its views whole.
    """

    name = "ibot"
    title = "iBOT"
    views = SSL_VIEWS
    curves = curves_of("ibot", "patches")

    @dataclass(frozen=True, kw_only=True)
    class Config(PrototypeOptions):
        share: Annotated[tuple[float, float], SHARE] = (0.1, 0.5)
        """Range of the share of an image's patches that are hidden; the share is drawn anew for each view."""
        patches: Literal["masked", "all"] = "masked"
        """Which patches are predicted: the hidden ones, or all (iBOT++ of TIPSv2). `all` also ties the visible patches
        to the teacher's, for features of single patches; the head then costs more."""

    config: Config

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        if config.share[0] > config.share[1]:
            raise ConfigError(
                "--objective.ibot.share takes two shares of the patches, the lower one first",
                got=config.share,
            )
        self.mask_token = nn.Parameter(0.02 * torch.randn(dims.width))
        self._drawn: dict[str, tuple[object, Tensor, Tensor, Tensor]] = {}

    @classmethod
    def needs_for(cls, config: Any) -> tuple[Need, ...]:
        students = tuple(Need(view.name, "tokens", masked=True) for view in SSL_VIEWS)
        return (*students, *(cls._target(config, view) for view in SSL_VIEWS))

    @staticmethod
    def _target(config: Any, view: View) -> Need:
        """Return the need of the whole view's tokens."""
        return Need(view.name, "tokens", by="student" if config.average == "head" else "teacher")

    def embed(self, features: Mapping[Need, Tensor]) -> dict[str, Tensor]:
        """Return `masked_…` and `whole_…` of each view, patch tokens (N, T, width).

        `loss` applies the heads, because it knows the step, and so which patches are hidden. The heads see these alone.
        """
        embeddings = {}
        for view in SSL_VIEWS:
            embeddings[f"masked_{view.name}"] = features[Need(view.name, "tokens", masked=True)]
            embeddings[f"whole_{view.name}"] = features[self._target(self.config, view)]
        return embeddings

    def loss(self, embeddings: Mapping[str, Tensor], at: At) -> dict[str, Tensor]:
        """Return `loss` and, detached, `ibot_loss`, `ibot_entropy`, `ibot_kl` and `ibot_used` for a batch.

        `embeddings` come from `embed`. The values are as in `dino`, for patches instead of crops. A patch counts
        1 / (patches of its image that are predicted), so that each view of each image counts alike.
        """
        students, targets, weights = [], [], []
        for view in SSL_VIEWS:
            masked, whole = embeddings[f"masked_{view.name}"], embeddings[f"whole_{view.name}"]
            index, weight = self._predicted(view, len(masked), masked.shape[1], at)
            index = index.to(masked.device)
            students.append(self.projector(masked.flatten(0, 1)[index]))
            targets.append(self.averaged("projector", whole.detach().flatten(0, 1)[index]))
            weights.append(weight.to(students[-1]) / len(SSL_VIEWS))
        names = ({"masked": torch.cat(students)}, {"whole": torch.cat(targets)})
        return self.compared(*names, torch.cat(weights), at)

    def masked(self, view: View, rows: int, patches: int, at: At) -> tuple[Tensor, Tensor]:
        """Return which patches of a view are hidden, (rows, patches) bool, and the token in their place, (width,)."""
        return self._draw(view, rows, patches, at)[0], self.mask_token

    def _predicted(self, view: View, rows: int, patches: int, at: At) -> tuple[Tensor, Tensor]:
        """Return which patches of this process's rows are predicted: indices into rows · patches, and weights."""
        if self.config.patches == "all":
            every = torch.arange(rows * patches)
            return every, torch.full((rows * patches,), 1 / (rows * patches), dtype=torch.float64)
        return self._draw(view, world() * rows, patches, at)[1:]

    def _draw(self, view: View, rows: int, patches: int, at: At) -> tuple[Tensor, Tensor, Tensor]:
        """Return the whole batch's masks, and the indices and weights of the hidden patches in this process's share.

        The step's masks are kept, because parts of a batch ask for them again.
        """
        key = (rows, patches, at)
        if self._drawn.get(view.name, (None,))[0] != key:
            seed = hashlib.sha256(f"{at.seed} {at.step} {view.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(seed[:8]) >> 1)
            masks = block_masks(rows, patches, self.config.share, generator)
            own = masks.chunk(world())[rank()]
            counts = own.sum(1, keepdim=True).double()
            weights = (own / (counts * len(own)))[own]
            self._drawn[view.name] = key, masks, own.flatten().nonzero()[:, 0], weights
        return self._drawn[view.name][1:]


def block_masks(rows: int, patches: int, share: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return masks of rectangular blocks, (rows, patches) bool on the CPU (BEiT; Bao et al. 2022, algorithm 1).

    The share of hidden patches of each row is uniform in `share`, rounded to whole patches, at least one. Blocks are
    drawn until the share is reached, and no block goes beyond it. After `TRIES` blocks, single patches make up what is
    missing. So the number is exact, and all rows are drawn at once.
    """
    height = max(side for side in range(1, math.isqrt(patches) + 1) if patches % side == 0)
    width = patches // height

    def uniform(low: Tensor | float, high: Tensor | float, *shape: int) -> Tensor:
        return low + torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low)

    goal = (uniform(*share, rows) * patches).round().clamp(1, patches).long()
    least = max(1, min(height, width) // 3) ** 2
    down, across = torch.arange(height)[:, None], torch.arange(width)
    hidden = torch.zeros(rows, height, width, dtype=torch.bool)
    for _ in range(TRIES):
        left = goal - hidden.sum((1, 2))
        area = uniform(left.clamp(max=least).double(), left.double(), rows)
        aspect = uniform(math.log(ASPECT), -math.log(ASPECT), rows).exp()
        tall = (area * aspect).sqrt().round().clamp(1, height)[:, None, None]
        wide = (area / aspect).sqrt().round().clamp(1, width)[:, None, None]
        top = (uniform(0, 1, rows, 1, 1) * (height - tall + 1)).floor()
        start = (uniform(0, 1, rows, 1, 1) * (width - wide + 1)).floor()
        block = (down >= top) & (down < top + tall) & (across >= start) & (across < start + wide)
        fits = (block & ~hidden).sum((1, 2)) <= left
        hidden |= block & fits[:, None, None]
    hidden = hidden.flatten(1)
    left = goal - hidden.sum(1)
    order = uniform(0, 1, rows, patches).masked_fill(hidden, math.inf).argsort(1).argsort(1)
    return hidden | (order < left[:, None])
