"""Reading a run folder, finished or not, into plain data; and what to call the runs that stand side by side."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slip import toml
from slip.config import Config
from slip.errors import CheckpointError, ConfigError
from slip.evaluation import Result

_METHODS = {
    frozenset({"clip", "simclr"}): "SLIP",
    frozenset({"clip"}): "CLIP",
    frozenset({"simclr"}): "SimCLR",
}


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    metrics: training lines of metrics.jsonl, by position, each position once (a resumed run writes some anew).
    evaluations: evaluation lines, likewise. results: the final measurements, empty while there are none.
    damaged: lines of metrics.jsonl that could not be read, as a killed process leaves them.
    """

    name: str
    folder: Path
    config: Config
    metrics: tuple[dict[str, Any], ...] = ()
    evaluations: tuple[dict[str, Any], ...] = ()
    results: tuple[Result, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    damaged: int = 0

    @property
    def terms(self) -> frozenset[str]:
        """Names of the objectives in the run's loss."""
        return frozenset(re.findall(r"[a-z_]\w*", self.config.objective.loss.lower()))

    @property
    def method(self) -> str:
        """SLIP, CLIP or SimCLR, or the loss as it is written in the configuration."""
        return _METHODS.get(self.terms, self.config.objective.loss)

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
        return min(1.0, epoch / planned) if isinstance(epoch, int | float) and planned > 0 else None


def load_run(folder: str | Path) -> Run:
    """Read a run folder; only its config.toml must be there, so that a running run can be looked at.

    Raises CheckpointError when the folder is no run or one of its files is not what it should be.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / "config.toml"):
        raise CheckpointError(
            "This is not a run folder",
            got=str(folder),
            cause="It holds no config.toml" if os.path.isdir(folder) else "There is no such folder",
            fix="Give the folder that `slip train` wrote.",
        )
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
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a distinct name for each run: its method where that tells them apart, else its folder, else numbered."""
    for names in ([run.method for run in runs], [run.name for run in runs]):
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({number})" for number, run in enumerate(runs, start=1)]


def finite(value: object) -> bool:
    """Say whether a value read from JSON is a usable number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_text(path: Path) -> str | None:
    """Return a file's text, or None when it does not exist."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError("A file of the run cannot be read", got=str(path), cause=str(error)) from None


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of metrics.jsonl that have a position, and how many others there are.

    The last line may be half written, and a killed and resumed run may have such a line in the middle.
    """
    lines, damaged = [], 0
    for text in (_read_text(path) or "").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and finite(line.get("position")):
            lines.append(line)
        elif text.strip():
            damaged += 1
    return lines, damaged


def _latest(lines: Any) -> tuple[dict[str, Any], ...]:
    """Return the lines by position; where a resumed run wrote one anew, the later one."""
    return tuple(line for _, line in sorted({line["position"]: line for line in lines}.items()))


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "A file of the run is not valid JSON",
            got=str(path),
            cause=str(error),
            fix="Measure again with `slip evaluate`, or remove the file.",
        ) from None


def _read_results(path: Path) -> tuple[Result, ...]:
    data = _read_json(path)
    results = []
    try:
        for item in data or ():
            numbers = (float(item[key]) for key in ("value", "low", "high"))
            value, low, high = numbers
            results.append(
                Result(str(item["task"]), str(item["metric"]), value, int(item["count"]), low, high)
            )
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            "The run's results are not a list of measurements",
            got=str(path),
            cause=f"{type(error).__name__}: {error}",
            fix="Measure again with `slip evaluate`, or remove the file.",
        ) from None
    return tuple(results)


def _read_versions(path: Path) -> dict[str, str]:
    data = _read_json(path)
    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}
