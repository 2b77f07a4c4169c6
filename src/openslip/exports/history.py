"""What the run folder of a model says of the model, for its card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openslip.errors import SlipError
from openslip.evaluation import Result
from openslip.files import expand, read_json
from openslip.interop import ours
from openslip.report.runs import Run, load_run
from openslip.training.saving import checkpoint
from openslip.training.saving.run import FIXED, INIT


@dataclass(frozen=True)
class History:
    """What a run folder says of the model: the run, the checkpoint, and what the model started and learned from."""

    run: Run
    name: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> list[Result]:
        """The results of this checkpoint, and the results whose checkpoint is not known."""
        return [result for result in self.run.results if result.checkpoint in ("", self.name)]

    @property
    def progress(self) -> float | None:
        """The share of the training that is done at this checkpoint, from 0 to 1; None if the log does not say."""
        step = self.state.get("step")
        lines = [line for line in self.run.metrics if step is None or line.get("step") == step]
        found = lines[-1].get("progress") if lines else None
        return found if isinstance(found, int | float) else None


def history(model: str | Path, which: str) -> History | None:
    """Return what the run folder of a model says; None if the model is of no run, or the run cannot be read."""
    folder, found = _run_of(Path(os.path.abspath(expand(model))), which)
    if folder is None:
        return None
    try:
        run = load_run(folder)
        state = checkpoint.read_state(found) if found and (found / "state.json").is_file() else {}
    except SlipError:  # of another version: what embeddings depend on was read nevertheless
        return None
    return History(run, found.name if found else "", state, _noted(folder / INIT), _noted(folder / FIXED))


def _run_of(given: Path, which: str) -> tuple[Path | None, Path | None]:
    """Return the run folder and the checkpoint folder that contain a model; None if there is none."""
    if (given / ours.SETTINGS).is_file():
        return given, ours.pick(given, which, lambda _: None)
    folder = given.parent if given.name == ours.WEIGHTS else given
    if (folder / ours.SETTINGS).is_file():
        return folder, None
    if folder.parent.name == "checkpoints" and (folder.parent.parent / ours.SETTINGS).is_file():
        return folder.parent.parent, folder
    return None, None


def _noted(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}
