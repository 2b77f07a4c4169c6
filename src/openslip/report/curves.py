"""The curves that a report shows, from the runs' metrics."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from openslip.evaluation import measure
from openslip.objectives import Curve
from openslip.report.charts import Chart, Line
from openslip.report.rows import Colours, Rows
from openslip.report.runs import Run, finite
from openslip.report.table import describe, headline, number

_ENDING = re.compile(r"._(loss|acc)$")


def percent(value: float) -> str:
    """Return a share as an axis shows it."""
    return f"{100 * value:g}%" if abs(value) >= 0.1 or value == 0 else f"{100 * value:.2g}%"


def training_charts(rows: Rows, colours: Colours) -> list[Chart]:
    """Return the charts of losses and in-batch accuracies, by row label, as far as the runs have them.

    The objective of a curve tells its title and what chance would reach. Values of unknown objectives are drawn, too,
    if their names end in `_loss` or `_acc`.
    """
    runs = [run for row in rows.values() for run in row.runs]
    logged = dict.fromkeys(key for run in runs for line in run.metrics for key in line)
    known = {curve.key: curve for run in runs for curve in run.loss.curves}
    others = [_unknown(key) for key in logged if key not in known and _ENDING.search(key)]
    curves = [*known.values(), *others]
    if not any(curve.key in logged for curve in curves):
        curves = [Curve("loss", "Loss", "lower is better", "low")]
    titles = Counter(curve.title for curve in curves)
    charts = []
    for curve in curves:
        of = f" ({curve.key.rpartition('_')[0]})" if titles[curve.title] > 1 else ""
        lines = _lines(rows, colours, lambda run, key=curve.key: _logged(run, key))
        if lines:
            share = curve.key.endswith("_acc")
            text = percent if share else "{:g}".format
            levels = _chance(curve, runs)
            charts.append(Chart(curve.title + of, curve.note, lines, text=text, zero=share, levels=levels))
    return charts


def evaluation_charts(rows: Rows, colours: Colours, most: int = 6) -> list[Chart]:
    """Return the charts of measurements during training that some run made at least twice."""
    keys = dict.fromkeys(
        key
        for row in rows.values()
        for run in row.runs
        for line in run.evaluations
        for key in line["evaluation"]
    )
    charts = []
    for key in headline(keys):
        lines = _lines(
            rows,
            colours,
            lambda run, key=key: [
                (e["position"], _number(e["evaluation"][key]), 1.0)
                for e in run.evaluations
                if key in e["evaluation"]
            ],
        )
        if lines and max(len(line.x) for line in lines) > 1:
            protocol, dataset, metric = describe(key)
            rank = measure(key).unit != "share"
            text: Callable[[float], str] = (lambda v, key=key: number(key, v)) if rank else percent
            title = f"{protocol}, {dataset}" if dataset else protocol
            charts.append(Chart(title, metric, lines, text=text, noisy=False, zero=not rank))
    return charts[:most]


def training_note(rows: Rows) -> str:
    """Return how to read the charts of training."""
    several = any(len(row.runs) > 1 for row in rows.values())
    alone = any(len(row.runs) == 1 for row in rows.values())
    return (
        "Over samples seen. "
        + "Faint: as logged; strong: smoothed over a twentieth of the run. " * alone
        + "Several seeds have a line each, smoothed over a twentieth of the run." * several
    )


def _logged(run: Run, key: str) -> list[tuple[float, float | None, float]]:
    """Return position, value and number of steps of each line of the log.

    A line is the mean over the finite steps since the line before; the last line of a run often stands for few steps.
    The value is None if no step was finite. Lines that have values, but not this value, are left out: their steps did
    not compute this part of the objective.
    """
    points, before = [], (0.0, 0.0)
    for line in run.metrics:
        step, lost = (
            math.fsum(float(line[name]) for name in names if finite(line.get(name)))
            for names in (("step",), ("nonfinite", "overflow"))
        )
        steps = max(1.0, (step - before[0]) - (lost - before[1]))
        before = step, lost
        value = _number(line.get(key))
        if value is not None or not finite(line.get("loss")):
            points.append((float(line["position"]), value, steps))
    return points


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and finite(value) else None


def _lines(
    rows: Rows,
    colours: Colours,
    points: Callable[[Run], Sequence[tuple[float, float | None, float]]],
) -> list[Line]:
    """Return a line for each run that has a value, with a gap wherever a value is missing."""
    lines = []
    for label, row in rows.items():
        for run in row.runs:
            found = points(run)
            if any(value is not None for _, value, _ in found):
                x, y, weights = zip(*found)
                lines.append(
                    Line(
                        label,
                        colours[label],
                        x,
                        [math.nan if value is None else value for value in y],
                        weights,
                    )
                )
    return lines


def _unknown(key: str) -> Curve:
    """Return the curve of a value that no known objective reports, such as `mine_loss`."""
    name, _, kind = key.rpartition("_")
    if kind == "acc":
        return Curve(key, f"{name}: accuracy", "higher is better", "high")
    return Curve(key, f"{name}: loss", "lower is better", "low")


def _chance(curve: Curve, runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Return what guessing would reach, if it is the same for all runs that have the curve."""
    if curve.chance is None:
        return []
    found = set()
    for run in runs:
        if any(other.key == curve.key for other in run.loss.curves):
            batch = run.config.training.batch
            if batch < 2:
                return []
            found.add(curve.chance(batch, round(run.config.objective.ssl_share * batch)))
    return [("chance", found.pop())] if len(found) == 1 else []
