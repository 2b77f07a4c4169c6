"""Reading a run folder, finished or not, into plain data."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from openslip import toml
from openslip.config import Config
from openslip.data.identity import Identity
from openslip.errors import CheckpointError, ConfigError, EvaluationError, shortened
from openslip.evaluation import Result, suite
from openslip.evaluation.measured import noted_data
from openslip.files import open_regular, read_json
from openslip.objectives import Curve, own
from openslip.report.losses import KnownLoss
from openslip.shell import command
from openslip.training.saving.run import is_number as finite
from openslip.training.saving.run import lines_of, parse_line


@dataclass(frozen=True)
class Run:
    """The contents of a run folder.

    metrics: training lines of metrics.jsonl, by position, each position once (a resumed run writes some again).
    evaluations: evaluation lines, likewise. results: the final measurements, empty while there are none.
    damaged: lines of metrics.jsonl that could not be read, as a killed process leaves them. data: the identity of the
    run's data, None if unknown. curves: the curves of the user's own objectives, which the folder notes.
    """

    name: str
    folder: Path
    config: Config
    metrics: tuple[dict[str, Any], ...] = ()
    evaluations: tuple[dict[str, Any], ...] = ()
    results: tuple[Result, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    damaged: int = 0
    data: Identity | None = None
    curves: tuple[Curve, ...] = ()

    @cached_property
    def loss(self) -> KnownLoss:
        """The loss of the run, as far as it is known."""
        loss = KnownLoss.of(self.config.objective)
        known = {curve.key for curve in loss.curves}
        return replace(
            loss, curves=(*loss.curves, *(curve for curve in self.curves if curve.key not in known))
        )

    @property
    def method(self) -> str:
        """The common name of the loss, or the loss as the configuration writes it."""
        return self.loss.title

    @property
    def last(self) -> dict[str, Any]:
        """The latest training line, or an empty one."""
        return self.metrics[-1] if self.metrics else {}

    @property
    def done(self) -> float | None:
        """Share of the planned steps that the latest line reports, or None before the first line."""
        if isinstance(progress := self.last.get("progress"), int | float):
            return progress
        epoch, planned = self.last.get("epoch"), self.config.training.epochs
        if not isinstance(epoch, int | float) or planned <= 0:
            return None
        # In lines of earlier versions, whole batches may make a little less than the planned epochs.
        return 1.0 if epoch / planned > 0.999 else epoch / planned

    @property
    def complete(self) -> bool:
        """Whether the last step has been made."""
        return self.done is not None and self.done >= 1

    @property
    def seconds(self) -> float | None:
        """Seconds that the steps took, with the waiting for data; None if unknown."""
        before, total = 0.0, 0.0
        for line in self.metrics:
            speed, position = line.get("samples_per_second"), float(line["position"])
            if not isinstance(speed, int | float) or not finite(speed) or speed <= 0:
                return None
            total += (position - before) / speed
            before = position
        return total or None

    @property
    def operations(self) -> float | None:
        """The median of one process's floating-point operations for a sample; None if the log does not say."""
        known = [
            1e12 * line["tflops"] / line["samples_per_second"]
            for line in self.metrics
            if finite(line.get("tflops"))
            and finite(line.get("samples_per_second"))
            and line["samples_per_second"] > 0
        ]
        return median(known) if known else None


def load_run(folder: str | Path) -> Run:
    """Read a run folder. Only config.toml must be there, so a run can be read while it is training.

    Raises CheckpointError if the folder is no run, or if one of its files is invalid.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / "config.toml"):
        raise _no_run(folder)
    try:
        config = toml.load(folder / "config.toml")
    except ConfigError as error:
        raise CheckpointError("The run's configuration cannot be used", cause=str(error)) from None
    lines, damaged = _read_lines(folder / "metrics.jsonl")
    return Run(
        name=folder.resolve().name,
        folder=folder,
        config=config,
        metrics=_latest(line for line in lines if "evaluation" not in line),
        evaluations=_latest(line for line in lines if isinstance(line.get("evaluation"), dict)),
        results=_read_results(folder / "results.json"),
        versions=_read_versions(folder / "versions.json"),
        damaged=damaged,
        data=noted_data(folder),
        curves=own.noted_curves(folder),
    )


def _no_run(folder: Path) -> CheckpointError:
    """Return the error for a folder that is no run, with the runs around it or in it that may be meant."""
    runs: list[str] = []
    if os.path.isdir(folder):
        cause = "It holds no config.toml"
        with suppress(OSError):
            runs = [str(folder / name) for name in sorted(os.listdir(folder))]
    else:
        cause = "It is a file" if os.path.exists(folder) else "There is no such folder"
    runs = [
        path for path in [*map(str, folder.parents), *runs] if os.path.isfile(Path(path) / "config.toml")
    ][:8]
    fix = f"`{command('slip', 'report', *runs)}`" if runs else "Give the folder that `slip train` wrote"
    return CheckpointError("This is not a run folder", got=str(folder), cause=cause, fix=fix)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of metrics.jsonl that have a position, and how many others there are.

    The last line may be half written, and a killed and resumed run may have such a line in the middle.
    """
    lines, damaged = [], 0
    try:
        with open_regular(path) as file:
            for text in lines_of(file):
                line = parse_line(text)
                if line is not None and finite(line.get("position")):
                    lines.append(line)
                elif text.strip():
                    damaged += 1
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CheckpointError("A file of the run cannot be read", got=str(path), cause=str(error)) from None
    return lines, damaged


def _latest(lines: Any) -> tuple[dict[str, Any], ...]:
    """Return the lines by position; if a resumed run wrote a line again, the later one."""
    return tuple(line for _, line in sorted({line["position"]: line for line in lines}.items()))


def _read_results(path: Path) -> tuple[Result, ...]:
    try:
        return tuple(suite.read(path))
    except EvaluationError as error:
        raise CheckpointError(error.what, got=error.got, cause=error.cause, fix=error.fix) from None


def _read_versions(path: Path) -> dict[str, str]:
    """Return the versions that a run was made with; an empty dictionary if they cannot be read."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return (
        {str(key): shortened(str(value), 60) for key, value in data.items()} if isinstance(data, dict) else {}
    )
