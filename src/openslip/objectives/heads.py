"""Heads that objectives put on the towers' features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openslip.collectives import world
from openslip.errors import TrainingError


class ProjectionHead(nn.Module):
    """Linear–BatchNorm–ReLU twice, then Linear (Chen et al. 2020; the widths are those of SLIP, section 4).

    Always computed in the precision of its weights, autocast or not: its batch statistics do not survive 8
    bits of mantissa. With several processes the norms become `GlobalBatchNorm`s.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.layer3 = nn.Linear(hidden, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map the features (N, width) of one view to embeddings (N, dim)."""
        check_rows(self, features)
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.layer1.weight.dtype)
            x = torch.relu(self.bn1(self.layer1(x)))
            x = torch.relu(self.bn2(self.layer2(x)))
            return self.layer3(x)


class MlpHead(nn.Module):
    """Linear–BatchNorm–ReLU, then Linear: BYOL's projector and predictor (Grill et al. 2020, section 3.3).

    Computed in the precision of its weights, as `ProjectionHead` is.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.layer2 = nn.Linear(hidden, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map the features (N, width) of one view to embeddings (N, dim)."""
        check_rows(self, features)
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.layer1.weight.dtype)
            return self.layer2(torch.relu(self.bn1(self.layer1(x))))


def check_rows(head: nn.Module, features: Tensor) -> None:
    """Raise TrainingError if a head that normalises over the batch would train on a single image."""
    if head.training and len(features) * world() < 2:
        raise TrainingError(
            "The self-supervised head normalises over the batch, so it cannot train on a single image",
            got=f"batch of {len(features)}",
            fix="Raise training.batch; from a few dozen images on, the statistics are meaningful.",
        )
