"""Which curves a report shows, from the runs' metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from slip.evaluation import lower_is_better
from slip.report.charts import Chart, Line
from slip.report.runs import Run, finite
from slip.report.table import describe, headline, number


def percent(value: float) -> str:
    """Return a share as an axis shows it."""
    return f"{100 * value:g}%" if abs(value) >= 0.1 or value == 0 else f"{100 * value:.2g}%"


def training_charts(runs: Mapping[str, Run], colours: Mapping[str, str]) -> list[Chart]:
    """Return the charts of losses and in-batch accuracies, by run label, as far as the runs have them."""
    chances = _chances(list(runs.values()))
    plans: list[tuple[str, str, str, bool]] = [
        ("clip_loss", "Image–text loss", "lower is better", False),
        ("clip_acc", "Image–text accuracy", "right caption found among the batch's", True),
        ("simclr_loss", "Self-supervised loss", "lower is better", False),
        ("simclr_acc", "Self-supervised accuracy", "twin view found among the batch's", True),
    ]
    if not any("clip_loss" in line or "simclr_loss" in line for run in runs.values() for line in run.metrics):
        plans = [("loss", "Loss", "lower is better", False)]
    charts = []
    for key, title, note, share in plans:
        lines = _lines(runs, colours, lambda run, key=key: [(m["position"], m.get(key)) for m in run.metrics])
        if lines:
            levels = [("chance", chances[key])] if key in chances else []
            text = percent if share else "{:g}".format
            charts.append(Chart(title, note, lines, text=text, zero=share, levels=levels))
    return charts


def evaluation_charts(runs: Mapping[str, Run], colours: Mapping[str, str], most: int = 6) -> list[Chart]:
    """Return the charts of what was measured while training, for measurements made at least twice in some run."""
    keys = dict.fromkeys(
        key for run in runs.values() for line in run.evaluations for key in line["evaluation"]
    )
    charts = []
    for key in headline(keys):
        lines = _lines(
            runs,
            colours,
            lambda run, key=key: [(e["position"], e["evaluation"].get(key)) for e in run.evaluations],
        )
        if lines and max(len(line.x) for line in lines) > 1:
            protocol, dataset, metric = describe(key)
            rank = lower_is_better(key)
            text: Callable[[float], str] = (lambda v, key=key: number(key, v)) if rank else percent
            title = f"{protocol}, {dataset}" if dataset else protocol
            charts.append(Chart(title, metric, lines, text=text, noisy=False, zero=not rank))
    return charts[:most]


def _lines(
    runs: Mapping[str, Run],
    colours: Mapping[str, str],
    points: Callable[[Run], Sequence[tuple[float, object]]],
) -> list[Line]:
    lines = []
    for label, run in runs.items():
        known = [(float(x), float(y)) for x, y in points(run) if isinstance(y, int | float) and finite(y)]
        if known:
            x, y = zip(*known)
            lines.append(Line(label, colours[label], x, y))
    return lines


def _chances(runs: Sequence[Run]) -> dict[str, float]:
    """Return what guessing would reach, where all runs have the same batch: ln of the candidates, 1 / candidates."""
    batches = {run.config.training.batch for run in runs}
    if len(batches) != 1 or (batch := batches.pop()) < 2:
        return {}
    others = 2 * batch - 1
    return {
        "clip_loss": math.log(batch),
        "clip_acc": 1 / batch,
        "simclr_loss": math.log(others),
        "simclr_acc": 1 / others,
    }
