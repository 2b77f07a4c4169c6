"""Several labels a picture: a task's results from scores, and a linear probe with a yes or no for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openslip.errors import EvaluationError, note
from openslip.evaluation import Result
from openslip.evaluation.classification import Samples
from openslip.evaluation.metrics import resampled
from openslip.evaluation.outcomes import Outcomes
from openslip.evaluation.ranking import Ranking

VALIDATION = 0.2
"""Share of the training pictures that chooses the penalty."""


def multilabel(
    task: str,
    scores: np.ndarray,
    labels: np.ndarray,
    skipped: int,
    samples: Samples,
    **about: Any,
) -> list[Result]:
    """Return the results for pictures with several labels: mean_average_precision and roc_auc, means over classes.

    scores: (N, C), compared within a class, never between classes; labels: (N, C) of 1, 0 and -1 (not known). samples:
    the pictures. A class without a positive picture, or for roc_auc without a negative picture, has no such number. It
    is left out of the mean, with a note. The intervals come from a bootstrap over pictures, centred for average
    precision.

    Raises EvaluationError if no class has a picture.
    """
    if not (labels == 1).any():
        raise EvaluationError(
            f"{task} cannot be measured: no picture has any of the classes",
            fix="Check that its images can be read, and that the split has labels.",
        )
    found, names = [], samples.class_names
    known = samples.numbers(
        ",".join(sorted(names[i] for i in np.flatnonzero(row == 1).tolist())) for row in labels
    )
    for metric, statistic, lacking in (
        ("mean_average_precision", "mean_average_precision", ~(labels == 1).any(axis=0)),
        ("roc_auc", "mean_roc_auc", ~((labels == 1).any(axis=0) & (labels == 0).any(axis=0))),
    ):
        if lacking.all():
            continue
        if lacking.any():
            some = ", ".join(names[i] for i in np.flatnonzero(lacking)[:4].tolist())
            what = (
                "positive picture"
                if metric == "mean_average_precision"
                else "positive or without a negative one"
            )
            note(
                f"{task}: {int(lacking.sum())} of {len(lacking)} classes without a {what} are left out of {metric}: "
                f"{some}{', …' if lacking.sum() > 4 else ''}."
            )
        outcomes = Outcomes(scores.astype(np.float32), statistic, labels, samples=known)
        low, high = resampled(outcomes.value, len(labels), centred=outcomes.raised)
        interval = max(0.0, low), min(1.0, high)
        found.append(
            Result(
                task, metric, outcomes.value(), len(labels), *interval, skipped, **about, outcomes=outcomes
            )
        )
    return found


def require_labels(task: str, labels: np.ndarray) -> None:
    """Raise EvaluationError unless some class has both a positive and a negative training picture."""
    if not ((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any():
        raise EvaluationError(f"{task} needs a class that some training images have and others do not have")


def probe_scores(
    values: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    *,
    penalties: Sequence[float],
    patience: int = 2,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the (Q, C) logits of a logistic regression for each class, fitted to the optimum on all N samples.

    values: (N, D), which are standardised by their mean and deviation; labels: (N, C) of 1, 0 and -1, which does not
    count; queries: (Q, D). The penalty is the one with the best mean average precision on a fifth of the samples.
    Strong penalties are tried first, until `patience` penalties in a row are worse than the best.
    """
    mean, scale = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-8, scale, 1)
    kind = torch.float32 if torch.device(device).type == "mps" else torch.float64
    x, of_queries = (torch.from_numpy((one - mean) / scale).to(device, kind) for one in (values, queries))
    y = torch.from_numpy(labels).to(device, kind)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(values))
    held_out = np.isin(np.arange(len(values)), order[: round(VALIDATION * len(values))])
    kept, chosen = (torch.from_numpy(np.flatnonzero(rows)).to(device) for rows in (~held_out, held_out))
    best, best_l2, start, worse = -1.0, penalties[0], None, 0
    weight = None
    if len(penalties) > 1 and (labels[held_out] == 1).any():
        for l2 in sorted(penalties, reverse=True):
            weight = fit(x[kept], y[kept], l2, start=weight, max_iterations=200, tolerance=1e-4)
            scores = (x[chosen] @ weight[:, :-1].T + weight[:, -1]).cpu().numpy()
            reached = float(np.nanmean(Ranking(scores, labels[held_out]).average_precision()))
            if reached > best:
                best, best_l2, start, worse = reached, l2, weight, 0
            elif (worse := worse + 1) >= patience:
                break
    weight = fit(x, y, best_l2, start=start)
    return (of_queries @ weight[:, :-1].T + weight[:, -1]).float().cpu().numpy()


def fit(
    x: Tensor,
    y: Tensor,
    l2: float,
    *,
    start: Tensor | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-5,
) -> Tensor:
    """Minimise the mean over N samples of the sum of C binary cross-entropies, + l2/2 · ‖weight‖², by L-BFGS.

    x: (N, D); y: (N, C), -1 for labels that do not count. Returns weight and bias (C, D + 1). For each class,
    scikit-learn's LogisticRegression minimises the same with C = 1 / (l2 · N).
    """
    known, target = (y >= 0).to(x.dtype), y.clamp(min=0)
    theta = (x.new_zeros(y.shape[1], x.shape[1] + 1) if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=max_iterations,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        logits = x @ theta[:, :-1].T + theta[:, -1]
        loss = F.binary_cross_entropy_with_logits(logits, target, known, reduction="sum") / len(x)
        loss = loss + 0.5 * l2 * theta[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[arg-type]
    return theta.detach()
