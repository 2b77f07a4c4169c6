"""The results of a grid: variants as rows, means over seeds with their spread, costs, and differences."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from openslip.ablation.compute import Cost
from openslip.ablation.grid import Grid, Variant
from openslip.ablation.running import Standing, standing
from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result, measure, plain
from openslip.evaluation.compare import Difference
from openslip.evaluation.compare import table as table_of_differences
from openslip.evaluation.comparison import by_chance, compare_models
from openslip.evaluation.distinct import distinct
from openslip.evaluation.measured import Measured, Model, open_measured, what_of
from openslip.evaluation.results import aligned, is_csv
from openslip.evaluation.scores import Score, score
from openslip.files import check_replaceable, open_regular, write_bytes, write_json
from openslip.report.description import operations
from openslip.report.runs import Run, load_run
from openslip.training.budget import duration

What = tuple[str, ...]
"""A measurement. Results of one name on the same data are the same measurement (see `measured.what_of`)."""


@dataclass(frozen=True)
class Line:
    """A variant in the table.

    seeds: the finished seeds. missing: the other seeds, with how far each is. samples: that a run was trained on.
    operations: counted FLOPs of a run. seconds: that the steps of a run took, the mean over the seeds. Unknown values
    are None. scores: means over the finished seeds. differences: to the first variant.
    """

    variant: str
    seeds: tuple[int, ...]
    missing: Mapping[int, str]
    samples: int | None = None
    operations: float | None = None
    seconds: float | None = None
    scores: Mapping[What, Score] = field(default_factory=dict)
    differences: Mapping[What, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One line for each variant. names: of the measurements, in the order they were made. notes: for people."""

    lines: Sequence[Line]
    names: Mapping[What, tuple[str, str]]
    notes: Sequence[str]
    meaning: str = ""


def standings(grid: Grid) -> dict[str, Standing]:
    """Return how far each run is, by name."""
    return {run.name: standing(run, grid.out) for run in grid.runs}


def collect(
    grid: Grid,
    costs: Mapping[str, Cost],
    *,
    everything: bool = False,
    now: Mapping[str, Standing] | None = None,
) -> Table:
    """Return the results of a grid's finished runs. Nothing is measured.

    everything: all metrics, rather than the first of each task. now: how far the runs are, if that is known.
    """
    now, notes = now or standings(grid), list[str]()
    models: dict[str, Model] = {}
    lines, samples = [], dict[What, Result]()
    for variant in grid.variants:
        runs, measured, missing = _finished(grid, variant, now)
        if measured:
            models[variant.name] = Model(variant.name, tuple(measured))
        scores, firsts = _scores(measured, everything)
        samples |= {what: result for what, result in firsts.items() if what not in samples}
        of = costs.get(variant.name, Cost())
        seconds = [run.seconds for run in runs]
        positions = {int(run.last["position"]) for run in runs if "position" in run.last}
        seen = positions.pop() if len(positions) == 1 else None
        each = (
            of.each if of.each is not None else next((run.operations for run in runs if run.operations), None)
        )
        lines.append(
            Line(
                variant.name,
                tuple(seed for seed in grid.seeds if seed not in missing),
                missing,
                seen,
                None if seen is None or each is None else seen * each,
                mean(s for s in seconds if s) if seconds and all(seconds) else None,
                scores,
            )
        )
    compared, meaning = _compared(lines, models, everything, notes)
    for line in lines:
        if line.missing:
            told = "; ".join(f"seed {seed}: {state}" for seed, state in line.missing.items())
            notes.append(f"{line.variant}: {len(line.seeds)} of {len(grid.seeds)} seeds ({told}).")
    if others := _others(grid):
        notes.append(f"Runs in {grid.out} and not in the grid: {', '.join(others)}.")
    metrics = {what: result.metric for what, result in samples.items()}
    names = {what: (name, metrics[what]) for what, name in zip(samples, distinct(list(samples.values())))}
    return Table(compared, names, notes, meaning)


def _finished(
    grid: Grid, variant: Variant, now: Mapping[str, Standing]
) -> tuple[list[Run], list[Measured], dict[int, str]]:
    """Return a variant's finished runs, its measured runs, and how far the other seeds are."""
    runs, measured, missing = [], [], {}
    for seed in grid.seeds:
        run = grid.run(variant, seed)
        if now[run.name].state not in ("finished", "unmeasured"):
            missing[seed] = now[run.name].describe()
            continue
        runs.append(load_run(grid.out / run.name))
        if (found := open_measured(grid.out / run.name)).results:
            measured.append(found)
    return runs, measured, missing


def _scores(measured: Sequence[Measured], everything: bool) -> tuple[dict[What, Score], dict[What, Result]]:
    """Return the means over the seeds by measurement, and one result of each measurement."""
    found: dict[What, list[Result]] = {}
    for run in measured:
        tasks = set[What]()
        for result in run.results:
            what = _what(result)
            task = what[:1] + what[2:]  # without the metric: a task's first metric represents the task
            if everything or task not in tasks:
                found.setdefault(what, []).append(result)
            tasks.add(task)
    return {what: score(results) for what, results in found.items()}, {w: r[0] for w, r in found.items()}


def _what(result: Result) -> What:
    """Return what was measured, whatever the checkpoint: variants may be trained for different numbers of steps."""
    return what_of(replace(result, checkpoint=""))


def _compared(
    lines: Sequence[Line], models: Mapping[str, Model], everything: bool, notes: list[str]
) -> tuple[list[Line], str]:
    """Return the lines with their differences to the first variant, and what the intervals mean."""
    first, found, meanings = models.get(lines[0].variant), [lines[0]], dict[str, None]()
    for line in lines[1:]:
        other = models.get(line.variant)
        if first is None or other is None:
            found.append(line)
            continue
        try:
            comparison = compare_models(first, other, everything=everything)
        except EvaluationError as error:  # nothing in common
            notes.append(str(error))
            found.append(line)
            continue
        notes += [note for note in comparison.notes if note not in notes and not note.startswith("Left out")]
        meanings[comparison.meaning] = None
        found.append(replace(line, differences={_what(one.after): one for one in comparison.differences}))
    return found, " ".join(meanings)


def _others(grid: Grid) -> list[str]:
    """Return the runs in the folder that the grid does not have."""
    known = {run.name for run in grid.runs}
    try:
        return sorted(
            path.name
            for path in grid.out.iterdir()
            if path.name not in known and (path / "config.toml").is_file()
        )
    except OSError:
        return []


# As text


def as_text(table: Table, width: int = 110) -> str:
    """Return the table for people, followed by the differences to the first variant.

    Columns that do not fit into `width` characters go to further blocks of rows.
    """
    first = ["", "variant", *(line.variant for line in table.lines)]
    cost = [
        ["", "seeds", *(str(len(line.seeds)) for line in table.lines)],
        ["", "samples", *("–" if line.samples is None else f"{line.samples:,}" for line in table.lines)],
        ["", "FLOPs", *(operations(line.operations) for line in table.lines)],
        ["", "seconds", *("–" if line.seconds is None else f"{line.seconds:,.0f}" for line in table.lines)],
    ]
    blocks = [[first, *cost]]
    for what, (name, metric) in table.names.items():
        column = [
            name,
            measure(metric).title,
            *(_cell(line.scores.get(what), metric) for line in table.lines),
        ]
        if len(blocks[-1]) > 1 and sum(map(_width, [*blocks[-1], column])) + 2 * len(blocks[-1]) > width:
            blocks.append([first])
        blocks[-1].append(column)
    parts = ["\n\n".join(map(_aligned, blocks))]
    if table.names:
        spread = any(of.spread is not None for line in table.lines for of in line.scores.values())
        parts.append("Shares in percent" + ": means over the seeds ± their standard deviation" * spread + ".")
    differences = _differences(table)
    parts += [differences] * bool(differences)
    return "\n\n".join(parts) + "\n"


def _differences(table: Table) -> str:
    """Return the differences to the first variant, one table for each other variant."""
    parts, count = [], 0
    for line in table.lines[1:]:
        if line.differences:
            titles = table.lines[0].variant, line.variant
            parts.append(table_of_differences(list(line.differences.values()), titles).rstrip())
            count += len(line.differences)
    if not parts:
        return ""
    return "\n\n".join([*parts, " ".join(filter(None, [table.meaning, by_chance(count)]))])


def _cell(found: Score | None, metric: str) -> str:
    if found is None:
        return "–"
    of = measure(metric)
    return of.text(found.value) + of.spread(found.spread)


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _aligned(columns: Sequence[Sequence[str]]) -> str:
    lines = aligned(list(zip(*columns)), left=[0], headings=2)
    return "\n".join(lines if lines[0] else lines[1:])


# As rows


def rows(table: Table) -> list[dict[str, Any]]:
    """Return a row for each variant and measurement, ready for JSON and CSV. A variant without any has one row."""
    found = []
    for line in table.lines:
        about = {
            "variant": line.variant,
            "seeds": len(line.seeds),
            "missing_seeds": " ".join(map(str, line.missing)),
            "samples": line.samples,
            "operations": line.operations,
            "seconds": line.seconds,
        }
        empty = dict.fromkeys(("task", "metric", "value", "spread", "low", "high", "measured_seeds", "count"))
        empty |= dict.fromkeys(("against", "difference", "difference_low", "difference_high", "verdict"))
        for what, of in line.scores.items():
            name, metric = table.names[what]
            row = about | empty | {"task": name, "metric": metric, "value": of.value, "spread": of.spread}
            row |= {
                "low": plain(of.low),
                "high": plain(of.high),
                "measured_seeds": of.runs,
                "count": max(of.counts),
            }
            if one := line.differences.get(what):
                row |= {"against": table.lines[0].variant, "difference": one.value, "verdict": one.verdict}
                row |= {"difference_low": plain(one.low), "difference_high": plain(one.high)}
            found.append(row)
        if not line.scores:
            found.append(about | empty)
    return found


def write_rows(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows: as CSV if the name ends in `.csv`, else as a JSON list. Raises ConfigError if that fails."""
    try:
        if is_csv(path):
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, list(found[0]) if found else ["variant"])
            writer.writeheader()
            writer.writerows(found)
            write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
        else:
            write_json(path, list(found))
    except OSError as error:
        raise ConfigError(
            f"The table cannot be written to {path}",
            cause=error.strerror or str(error),
            fix="Choose a path in a folder that exists, on a disk with free space",
        ) from None


def check_place(path: Path) -> None:
    """Raise ConfigError unless a table can be written there without replacing another kind of file."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(
            "The table is written as JSON or CSV", got=str(path), fix="Call the file .json or .csv"
        )
    check_replaceable(path, "rows", "table.csv", _holds_rows, "--save")


def _holds_rows(path: Path) -> bool:
    """Return whether `write_rows` wrote this file, or the file is empty."""
    try:
        with open_regular(path) as file:
            begin = file.read(200).strip()
    except OSError:
        return False
    return (
        not begin
        or begin.startswith(b"variant,seeds,")
        or re.match(rb'\[\s*(\{\s*"variant"|\])', begin) is not None
    )


def plan_text(grid: Grid, costs: Mapping[str, Cost], now: Mapping[str, Standing]) -> str:
    """Return the plan: runs by number, samples, operations, the expected time, and how far each run is."""
    rate = _rate(grid, costs, now)
    lines = [["#", "run", "samples", "FLOPs a sample", "FLOPs", "time", "state"]]
    for number, run in enumerate(grid.runs):
        cost = costs[run.variant]
        expected = (
            "–" if rate is None or cost.operations is None else f"about {duration(cost.operations / rate)}"
        )
        about = "about " if cost.about else ""
        lines.append(
            [
                str(number),
                run.name,
                "–" if cost.samples is None else f"{about}{cost.samples:,}",
                operations(cost.each),
                operations(cost.operations),
                expected,
                now[run.name].describe(),
            ]
        )
    seeds = ", ".join(map(str, grid.seeds))
    runs, variants = len(grid.runs), len(grid.variants)
    text = [
        f"{runs} run{'s' * (runs != 1)}: {variants} variant{'s' * (variants != 1)}, seeds {seeds}, in {grid.out}",
        "",
        _aligned([["", *column] for column in zip(*lines)]),
        "",
    ]
    for variant in grid.variants:
        cost, training = costs[variant.name], variant.config.training
        length = training.budget or f"{training.epochs:g} epochs"
        if variant.equal_compute:
            text.append(f"{variant.name} gets the compute of {variant.equal_compute}: {length}.")
        if cost.unknown:
            text.append(f"{variant.name}: not all costs are known before it runs: {cost.unknown}.")
    return "\n".join(text).rstrip()


def _rate(grid: Grid, costs: Mapping[str, Cost], now: Mapping[str, Standing]) -> float | None:
    """Return the operations per second of the finished runs, None if no run is finished."""
    done, spent = 0.0, 0.0
    for run in grid.runs:
        cost = costs[run.variant].operations
        if now[run.name].state in ("finished", "unmeasured") and cost:
            seconds = load_run(Path(grid.out) / run.name).seconds
            done, spent = (done + cost, spent + seconds) if seconds else (done, spent)
    return done / spent if spent else None
