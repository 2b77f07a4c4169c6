"""Linear probe: multinomial logistic regression on frozen image features, fitted to the optimum by L-BFGS.

Features are standardised by the training images' mean and standard deviation, so one grid of penalties suits every
tower. A fifth of the training split chooses the penalty, and the probe is then fitted on the whole training split. The
test split is used once. If a public set has a validation split beside its test split, the validation split chooses the
penalty, and the probe is fitted on train and val (Radford et al. 2021, appendix A.3).

The SLIP paper trains the layer by SGD on augmented crops. A fit to the optimum on cached features needs no learning
rate, takes seconds, and gives the same number each time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from openslip.data.labelled import LabelledSet
from openslip.errors import ConfigError, EvaluationError, note
from openslip.evaluation import Result, fingerprint, multilabel, results, settings
from openslip.evaluation.classification import classification, softmax
from openslip.evaluation.features import BATCH, LabelledFeatures, labelled_features, share
from openslip.evaluation.opened import OnLabelled

if TYPE_CHECKING:
    from openslip.encoder import Encoder
    from openslip.evaluation.kept_probe import Origin

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Grid of `l2`, strong to weak. Each fit starts at the solution before, and the stronger penalty wins a tie."""
VALIDATION = 0.2
"""Share of the training images that chooses the penalty, if no validation split does."""
PATIENCE = 2
"""The search ends after this many penalties in a row that are worse than the best: weak penalties are slow."""
DOUBLE_UP_TO = 10**8
"""Entries of the feature matrix up to which the fit runs in double precision."""
ROWS = 2**16
"""Rows whose logits are held at a time."""


@dataclass(frozen=True)
class Linear(OnLabelled):
    """top1, top5 and mean_per_class on the test split, of a linear classifier on frozen features.

    The classifier is fitted on the train split, or on train and val if the set's card has both beside a test split. A
    set with several labels an image has mean_average_precision and roc_auc, from a classifier for each class.

    folder, origin: where the classifier is kept (see `openslip.evaluation.kept_probe`), and the model it belongs to;
    without a folder, the classifier is not kept.
    """

    dataset: str
    penalties: tuple[float, ...] = PENALTIES
    batch_size: int = BATCH
    seed: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    origin: Origin | None = None

    protocol = "linear"
    several = True
    measured_on = ("train", "test")

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others."""
        data = self.opened()
        return {"data": data.location, "settings": self._settings(data)}

    def lines(self) -> list[str]:
        """Return sentences about the data for the user."""
        data, lines = self.opened(), super().lines()
        if self._has_val(data):
            train, val = (len(data.splits[split]) for split in ("train", "val"))
            lines.append(
                f"{self.name} is fitted on train and val of {data.name}, {train + val:,} images; val chooses the "
                "penalty."
            )
        return lines

    def share(self, encoder: Encoder) -> None:
        """Have all processes compute the features that `evaluate` needs. Every process must call this method."""
        data = self.opened()
        share(encoder, data, [*self.measured_on, *["val"] * self._has_val(data)], self.batch_size)

    def check(self) -> None:
        """Raise DataError without a train or a test split, EvaluationError for a single class, ConfigError for settings
        out of range."""
        if not self.penalties or not all(l2 >= 0 for l2 in self.penalties) or self.seed < 0:
            raise ConfigError(
                "A linear probe takes penalties and a seed of 0 or above",
                got=f"penalties={self.penalties}, seed={self.seed}",
            )
        data = self.keep()
        data.require_training()
        self._require_classes(data.split("train").labels)

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Measure `encoder`. Raises DataError if the data have no train or no test split."""
        data = self.opened()
        train = labelled_features(encoder, data, "train", "features", self.batch_size)
        test = labelled_features(encoder, data, "test", "features", self.batch_size)
        self._require_classes(train.labels)
        if train.labels.ndim == 2:
            return self._several(encoder, train, test)
        chosen_on = None
        if self._has_val(data):
            val = labelled_features(encoder, data, "val", "features", self.batch_size)
            chosen_on = np.arange(len(train.labels) + len(val.labels)) >= len(train.labels)
            train = _together(train, val)
        probe = fit_probe(
            train.values,
            train.labels,
            len(train.class_names),
            penalties=self.penalties,
            seed=self.seed,
            device=encoder.device,
            chosen_on=chosen_on,
        )
        about = test.about(train) | {"settings": self._settings(data)}
        if place := self._keep_probe(encoder, probe, train):
            about["classifier"] = os.path.abspath(place)
        scores = probe.scores(test.values)
        found = classification(
            self.name,
            scores,
            test.labels,
            test.skipped,
            probabilities=softmax(scores),
            samples=test.samples,
            first=self.metric(data),
            **about,
        )
        if place:
            with suppress(EvaluationError):  # if the disk is full, the caller has the results
                results.save(found, place / results.FILE)
        return found

    def _several(self, encoder: Encoder, train: LabelledFeatures, test: LabelledFeatures) -> list[Result]:
        """Return the results of one classifier for each class, for pictures with several labels."""
        if self.folder is not None:
            note(
                f"The classifier of {self.name} is not kept: it gives an image several labels, and not one class."
            )
        options = {
            "penalties": self.penalties,
            "patience": PATIENCE,
            "seed": self.seed,
            "device": encoder.device,
        }
        scores = multilabel.probe_scores(train.values, train.labels, test.values, **options)
        about = test.about(train) | {"settings": self._settings(self.opened())}
        return multilabel.multilabel(self.name, scores, test.labels, test.skipped, test.samples, **about)

    def _keep_probe(self, encoder: Encoder, probe: Probe, train: LabelledFeatures) -> Path | None:
        """Keep the probe if a folder was given. Return the folder that keeps the probe, or None."""
        from openslip.evaluation import kept_probe

        if self.folder is None or self.origin is None:
            return None
        about = {
            "classes": train.class_names,
            "content": train.content,
            "images": len(train.labels),
            "penalties": self.penalties,
            "seed": self.seed,
        }
        return kept_probe.save(self.folder, self.name, encoder, self.origin, probe, about)

    def _has_val(self, data: LabelledSet) -> bool:
        """Whether the set is published with a validation split beside its test split, and these data have both.

        In a user's own data, a split called val may serve any purpose.
        """
        card, needed = self.card(data), {"train", "val", "test"}
        return not data.several and needed <= {*data.splits} and card is not None and needed <= {*card.splits}

    def _settings(self, data: LabelledSet) -> str:
        fitted = "fitted on train and val" if self._has_val(data) else ""
        return ", ".join(filter(None, (settings(self, "penalties", "seed"), fitted)))

    def _require_classes(self, labels: np.ndarray) -> None:
        if labels.ndim == 2:
            multilabel.require_labels(self.name, labels)
        elif len(np.unique(labels)) < 2:
            raise EvaluationError(f"{self.name} needs training images of two classes or more")


def _together(train: LabelledFeatures, val: LabelledFeatures) -> LabelledFeatures:
    """Return the features of two training splits as one."""
    return replace(
        train,
        values=np.concatenate([train.values, val.values]),
        labels=np.concatenate([train.labels, val.labels]),
        skipped=train.skipped + val.skipped,
        content=fingerprint.of_all([train.content, val.content]),
    )


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier with its own standardisation.

    mean, scale: (D,); weight: (C, D); bias: (C,); l2: the chosen penalty.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    l2: float
    validation_top1: float

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Return the (N, C) logits of (N, D) features."""
        return (values - self.mean) / self.scale @ self.weight.T + self.bias


def fit_probe(
    values: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    chosen_on: np.ndarray | None = None,
) -> Probe:
    """Choose the penalty on some of the samples, then fit on all of them.

    values: (N, D); labels: (N,) in [0, classes). chosen_on: (N,) bool, the samples that choose the penalty; None: a
    stratified fifth.
    """
    mean, scale = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    mean, scale = mean.astype(values.dtype), np.where(scale > 1e-8, scale, 1).astype(values.dtype)
    double = values.size <= DOUBLE_UP_TO and torch.device(device).type != "mps"
    x = torch.from_numpy((values - mean) / scale).to(device, torch.float64 if double else torch.float32)
    y = torch.from_numpy(labels).to(device)
    held_out = torch.from_numpy(validation_mask(labels, seed) if chosen_on is None else chosen_on).to(device)
    best: tuple[float, float, tuple[Tensor, Tensor] | None] = (-1.0, penalties[0], None)
    if len(penalties) > 1 and bool(held_out.any()):
        best = _search(x, y, held_out, classes, penalties)
    top1, l2, start = best
    weight, bias = fit(x, y, classes, l2, start=start)
    return Probe(mean, scale, weight.float().cpu().numpy(), bias.float().cpu().numpy(), l2, top1)


def validation_mask(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return which of N samples choose the penalty: VALIDATION of each class, none of a class with one sample."""
    rng = np.random.Generator(np.random.Philox(seed))
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[: min(max(1, round(VALIDATION * len(members))), len(members) - 1)]] = True
    return mask


@torch.no_grad()
def fit(
    x: Tensor,
    y: Tensor,
    classes: int,
    l2: float,
    *,
    start: tuple[Tensor, Tensor] | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy + l2/2 · ‖weight‖² over weight (C, D) and bias (C,), by L-BFGS from `start`.

    x: (N, D), in the precision of the computation; y: (N,) int64. scikit-learn's LogisticRegression minimises the same
    with C = 1 / (l2 · N). The fit stops when no entry of the gradient exceeds `tolerance`, or after `max_iterations`.
    With weak penalties, that many iterations come close enough: only the flattest directions still move.
    """
    weight, bias = start or (x.new_zeros(classes, x.shape[1]), x.new_zeros(classes))
    theta = torch.cat([weight, bias[:, None]], dim=1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=max_iterations,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        w, b = theta[:, :-1], theta[:, -1]
        loss, gradient = 0.5 * l2 * w.square().sum(), torch.zeros_like(theta)
        gradient[:, :-1] = l2 * w
        for x_rows, y_rows in zip(x.split(ROWS), y.split(ROWS)):
            log_p = torch.log_softmax(torch.addmm(b, x_rows, w.T), dim=1)
            loss = loss - log_p.gather(1, y_rows[:, None]).sum() / len(x)
            # d(cross-entropy)/d(logits) = softmax - one-hot
            error = log_p.exp_()
            error[torch.arange(len(y_rows), device=y.device), y_rows] -= 1
            gradient[:, :-1].addmm_(error.T, x_rows, alpha=1 / len(x))
            gradient[:, -1] += error.sum(dim=0) / len(x)
        theta.grad = gradient
        return loss

    optimizer.step(objective)  # type: ignore[arg-type]
    return theta[:, :-1].detach().clone(), theta[:, -1].detach().clone()


def _search(
    x: Tensor, y: Tensor, held_out: Tensor, classes: int, penalties: tuple[float, ...]
) -> tuple[float, float, tuple[Tensor, Tensor] | None]:
    """Return the best validation accuracy, its penalty and its solution."""
    x_fit, y_fit, x_val, y_val = x[~held_out], y[~held_out], x[held_out], y[held_out]
    best: tuple[float, float, tuple[Tensor, Tensor] | None] = (-1.0, penalties[0], None)
    solution, worse = None, 0
    for l2 in sorted(penalties, reverse=True):
        solution = fit(x_fit, y_fit, classes, l2, start=solution, max_iterations=200, tolerance=1e-4)
        weight, bias = solution
        top1 = float(((x_val @ weight.T + bias).argmax(dim=1) == y_val).double().mean())
        if top1 > best[0]:
            best, worse = (top1, l2, solution), 0
        else:
            worse += 1
        if worse >= PATIENCE:
            break
    return best
