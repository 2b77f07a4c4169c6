"""Few-shot classification: linear probes on 1, 2, 4, 8 and 16 training pictures a class, each on several draws.

The probe is that of `openslip.evaluation.linear`, with another standardisation of features: the drawn pictures get mean
0, and deviation 1 over all dimensions together. Ten pictures say nothing about the deviation of a single dimension:
with it, cifar10 at one shot loses 13 of 35 points.

A draw is a function of the seed and of the pictures' bytes. So a draw has the same pictures for every model, whatever
their location and order. A draw has an order of each class and takes the first pictures, so the pictures of few shots
are among those of more shots.

No picture is left over to choose a penalty: with one shot, a held-out picture would be the whole class. So one penalty,
`PENALTY`, is fixed for all models, sets and numbers of shots. Accuracies hardly depend on it (`docs/protocols.md`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result, settings
from openslip.evaluation.features import BATCH, labelled_features
from openslip.evaluation.linear import Probe, fit
from openslip.evaluation.metrics import correct_topk, crossed_interval, deviation_interval
from openslip.evaluation.opened import OnLabelled
from openslip.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from openslip.encoder import Encoder

PENALTY = 0.1
SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class FewShot(OnLabelled):
    """top1 on the test split for each number of shots: the mean over the draws, and the spread over the draws.

    The most shots come first, because that number differs least between draws. A class with fewer pictures than shots
    gives all of its pictures. shots: pictures a class; draws: at least 2; penalty: `l2` of the probe.
    """

    dataset: str
    shots: tuple[int, ...] = SHOTS
    draws: int = 5
    penalty: float = PENALTY
    batch_size: int = BATCH
    seed: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)

    protocol = "fewshot"
    measured_on = ("train", "test")

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        return {"data": self.opened().location, "settings": settings(self, "draws", "penalty", "seed")}

    def check(self) -> None:
        """Raise DataError without a train or a test split, EvaluationError for a single class, ConfigError for settings
        out of range."""
        if not self.shots or min(self.shots) < 1 or self.draws < 2 or not self.penalty >= 0 or self.seed < 0:
            raise ConfigError(
                "Few-shot takes 1 shot or more, 2 draws or more, and a penalty and a seed of 0 or above",
                got=f"shots={self.shots}, draws={self.draws}, penalty={self.penalty}, seed={self.seed}",
            )
        data = self.keep()
        data.require_training()
        self._counts(data.split("train").labels)

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data = self.opened()
        train = data.split("train")
        lines, names, counts = super().lines(), np.unique(train.labels), self._counts(train.labels)
        for shots in sorted(self.shots):
            if counts.max() < shots:
                lines.append(
                    f"{self.name}: no class of {data.name} has {shots} training images, so {shots} shots are not "
                    "measured."
                )
            elif few := [train.class_names[label] for label in names[counts < shots]]:
                some = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
                lines.append(
                    f"{self.name}: {len(few)} of {len(counts)} classes have fewer than {shots} training images, and "
                    f"give all they have: {some}"
                )
        return lines

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises DataError if the data have no train or no test split, EvaluationError if no class
        has as many pictures as shots."""
        data = self.opened()
        train = labelled_features(encoder, data, "train", "features", self.batch_size)
        test = labelled_features(encoder, data, "test", "features", self.batch_size)
        counts = self._counts(train.labels)
        shots = [number for number in sorted({*self.shots}, reverse=True) if number <= counts.max()]
        if not shots:
            raise EvaluationError(
                f"{self.name}: no class has as many training images as shots",
                got=f"{counts.max()} images, {min(self.shots)} shots",
            )
        about: dict[str, Any] = test.about(train) | {"settings": settings(self, "draws", "penalty", "seed")}
        hits = {number: np.empty((self.draws, len(test.labels)), dtype=bool) for number in shots}
        for draw in range(self.draws):
            order = drawn(train.labels, train.samples.digests, self.seed, draw)
            for number in shots:
                rows = np.flatnonzero(order < number)
                values, labels = train.values[rows], train.labels[rows]
                probe = fit_few(values, labels, len(train.class_names), self.penalty, encoder.device)
                hits[number][draw] = correct_topk(probe.scores(test.values), test.labels, 1)
        samples = test.samples.numbers(test.class_names[label] for label in test.labels.tolist())
        accuracies, spreads = [], []
        for number, found in hits.items():
            one, each = found.mean(axis=0), found.mean(axis=1)
            value, interval = float(one.mean()), crossed_interval(found)
            outcomes = Outcomes(one, samples=samples)
            accuracies.append(
                Result(
                    self.name,
                    f"top1@{number}shot",
                    value,
                    len(one),
                    *interval,
                    test.skipped,
                    **about,
                    outcomes=outcomes,
                )
            )
            value, interval = float(each.std(ddof=1)), deviation_interval(each)
            metric = f"top1_spread@{number}shot"
            spreads.append(Result(self.name, metric, value, len(each), *interval, test.skipped, **about))
        return accuracies + spreads

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        """Return the number of training images of each class that has any. Raises EvaluationError for one class."""
        counts = np.unique(labels, return_counts=True)[1]
        if len(counts) < 2:
            raise EvaluationError(f"{self.name} needs training images of two classes or more")
        return counts


def fit_few(
    values: np.ndarray, labels: np.ndarray, classes: int, l2: float, device: torch.device | str = "cpu"
) -> Probe:
    """Return a probe fitted on few features (N, D) with labels (N,) in [0, classes), with the given penalty."""
    mean = values.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(np.square(values - mean).mean())), 1e-8)
    double = torch.device(device).type != "mps"
    x = torch.from_numpy((values - mean) / scale).to(device, torch.float64 if double else torch.float32)
    weight, bias = fit(x, torch.from_numpy(labels).to(device), classes, l2)
    scales = np.full(len(mean), scale, dtype=values.dtype)
    found = weight.float().cpu().numpy(), bias.float().cpu().numpy()
    return Probe(mean.astype(values.dtype), scales, *found, l2, math.nan)


def drawn(labels: np.ndarray, digests: Sequence[bytes], seed: int, draw: int) -> np.ndarray:
    """Return the position (N,) of each picture within its class, from 0, in the order of this draw.

    labels: (N,). digests: N digests that identify the pictures. The order depends only on digests, seed and draw.
    """
    key = f"seed {seed}, draw {draw}: ".encode()
    lots = [hashlib.blake2b(key + digest, digest_size=16).digest() for digest in digests]
    places = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lots.__getitem__)
        places[members] = np.arange(len(members))
    return places
