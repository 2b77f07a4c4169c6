"""k-nearest-neighbour classification by cosine similarity of image features: nothing is learned or tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.errors import ConfigError
from openslip.evaluation import Result, settings
from openslip.evaluation.classification import classification
from openslip.evaluation.features import BATCH, labelled_features
from openslip.evaluation.opened import OnLabelled

if TYPE_CHECKING:
    from openslip.encoder import Encoder

SIMILARITIES = 2**24
"""Similarities held at a time."""


@dataclass(frozen=True)
class Knn(OnLabelled):
    """top1, top5 and mean_per_class of a vote among the k nearest training images, on the test split.

    A class without a vote is never among the best five.

    A vote is weighted by exp(cosine / temperature) as in Wu et al. 2018 (section 3.4) and DINO, with DINO's k = 20 and
    temperature 0.07. With temperature 0, each neighbour has one vote.
    """

    dataset: str
    k: int = 20
    temperature: float = 0.07
    batch_size: int = BATCH
    columns: Mapping[str, str] = field(default_factory=dict)

    protocol = "knn"
    measured_on = ("train", "test")

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        return {"data": self.opened().location, "settings": settings(self, "k", "temperature")}

    def check(self) -> None:
        """Raise DataError without a train or a test split, ConfigError for settings out of range."""
        if self.k < 1 or not self.temperature >= 0:
            raise ConfigError(
                "k-NN takes k neighbours, at least 1, and a temperature of 0 or above",
                got=f"k={self.k}, temperature={self.temperature}",
            )
        self.keep().require_training()

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises DataError if the data have no train or no test split."""
        data = self.opened()
        train = labelled_features(encoder, data, "train", "features", self.batch_size)
        test = labelled_features(encoder, data, "test", "features", self.batch_size)
        votes = vote(
            train.values,
            train.labels,
            test.values,
            len(train.class_names),
            k=self.k,
            temperature=self.temperature,
            device=encoder.device,
        )
        about: dict[str, Any] = test.about(train) | {"settings": settings(self, "k", "temperature")}
        return classification(
            self.name,
            votes,
            test.labels,
            test.skipped,
            samples=test.samples,
            first=self.metric(data),
            **about,
        )


@torch.no_grad()
def vote(
    values: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the (Q, classes) float32 votes of each query's k nearest of N labelled features.

    values: (N, D); labels: (N,) in [0, classes); queries: (Q, D). k above N takes all N. A vote counts
    exp((cosine - cosine of the query's nearest) / temperature), which keeps it in range, or 1 if temperature is 0.
    """
    keys = F.normalize(torch.from_numpy(values).to(device), dim=1)
    key_labels = torch.from_numpy(labels).to(device)
    k = min(k, len(keys))
    rows: list[Tensor] = []
    for chunk in torch.from_numpy(queries).split(max(1, SIMILARITIES // len(keys))):
        nearest, index = (F.normalize(chunk.to(device), dim=1) @ keys.T).topk(k, dim=1)
        weight = (
            torch.exp((nearest - nearest[:, :1]) / temperature)
            if temperature > 0
            else torch.ones_like(nearest)
        )
        votes = torch.zeros(len(chunk), classes, device=weight.device)
        rows.append(votes.scatter_add_(1, key_labels[index], weight).cpu())
    return torch.cat(rows).numpy()
