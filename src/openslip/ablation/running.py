"""Train the runs of a grid one after another, each by `slip train` in a separate process.

If a run fails, or its process dies, the others go on. A run that was interrupted continues from its newest checkpoint.
A run that another process trains, here or on another machine, is left out: the lock of the run folder shows it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Literal

from openslip import objectives, toml
from openslip.ablation.compute import Counts
from openslip.ablation.grid import Grid, GridRun
from openslip.config import Config
from openslip.data.identity import differences
from openslip.data.sources.mixture import labelled_ones
from openslip.data.workers import start_context
from openslip.errors import CheckpointError, ConfigError, SlipError
from openslip.evaluation.measured import noted_data
from openslip.evaluation.results import FILE, read
from openslip.evaluation.suite import each, parse_cadence, parse_task
from openslip.files import write_text
from openslip.processes import Processes
from openslip.tools.split import share_of
from openslip.training import asked, start
from openslip.training.saving import checkpoint, lock
from openslip.training.saving.run import RunFolder

CONFIGS = "configs"
"""Folder that holds the configuration of each run, as `slip train --config` takes it."""
PATIENCE = 60.0
"""Seconds that the processes of a run have to end after one of them has failed."""
_FEW = 8
"""Runs that an error names at most."""
STARTS_WITH = ["openslip.cli.train", "openslip.training.train"]
"""Modules that are imported once for all processes that train."""

State = Literal["new", "begun", "unmeasured", "finished", "held", "broken"]
Command = Callable[[list[str]], int | None]
"""Runs a command line of `slip`, and returns the exit status."""


@dataclass(frozen=True)
class Standing:
    """How far a run is. step, steps: of its newest checkpoint. missing: tasks of the grid that are not measured.
    why: the reason why a broken run's files cannot be used."""

    state: State
    step: int = 0
    steps: int = 0
    missing: tuple[str, ...] = ()
    why: str = ""

    def describe(self) -> str:
        """Return how far the run is, as text."""
        match self.state:
            case "begun":
                return f"step {self.step:,} of {self.steps:,}" if self.steps else "begun"
            case "unmeasured":
                return f"trained, to be measured: {', '.join(self.missing)}"
            case "held":
                return "another process trains it"
            case "broken":
                return f"its folder cannot be used: {self.why}"
        return self.state


@dataclass
class Outcome:
    """How the runs ended, by name."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)


def standing(run: GridRun, out: Path) -> Standing:
    """Return how far a run is. Nothing is written."""
    try:
        return _standing(run, RunFolder(out / run.name))
    except SlipError as error:  # it concerns this run alone
        return Standing("broken", why=str(error))


def _standing(run: GridRun, folder: RunFolder) -> Standing:
    """Return how far a run is. Raises SlipError if its configuration or results cannot be read."""
    if _held(folder.path):
        return Standing("held")
    if not (folder.exists() and folder.begun()):
        return Standing("new")
    trained = folder.config
    try:
        saved = [checkpoint.read_state(path) for path in checkpoint.list_checkpoints(folder.checkpoints)[-1:]]
    except CheckpointError:  # `slip train --resume` will report it
        return Standing("begun")
    if not saved:
        return Standing("begun")
    step, steps = saved[0]["step"], saved[0].get("steps") or 0
    measures = bool(run.config.evaluation.tasks or run.config.data.val)
    if step != steps or (measures and saved[0].get("measured_at") != step):
        return Standing("begun", step, steps)
    last = checkpoint.path_of(folder.checkpoints, step).name
    missing = _unmeasured(
        run.config, trained, {r.task for r in read(folder.path / FILE) if r.checkpoint == last}
    )
    return Standing("unmeasured" if missing else "finished", step, steps, missing)


def _unmeasured(config: Config, trained: Config, measured: Collection[str]) -> tuple[str, ...]:
    """Return the tasks that a finished run has not been measured on: tasks that were added to the grid since.

    trained: the configuration that the run was trained with. measured: the tasks that the run has results of.
    """
    texts = objectives.parse(config.objective).shared_space
    missing = []
    for task in config.evaluation.tasks:
        name, _ = parse_cadence(task)
        if task in trained.evaluation.tasks:
            continue
        for one in each(name):
            evaluator = parse_task(one)
            if evaluator.name not in measured and (texts or not getattr(evaluator, "needs_text", False)):
                missing.append(one)
    return tuple(missing)


def _held(folder: Path) -> bool:
    try:
        lock.check_free(folder, patience=0)
    except ConfigError:
        return True
    return False


def check_unchanged(runs: Sequence[GridRun], out: Path) -> None:
    """Raise ConfigError if run folders hold runs of another configuration, or of other data.

    Values that the weights do not depend on may differ, as on resume. The error names each run and what differs.
    """
    counts = Counts()
    changed = {run.name: what for run in runs if (what := _changed(run, out, counts))}
    if changed:
        lines = [f"  {name}: {what}" for name, what in changed.items()]
        lines = [*lines[:_FEW], *[f"  and {len(lines) - _FEW} more"] * (len(lines) > _FEW)]
        raise ConfigError(
            "The grid has changed since these runs were trained:\n" + "\n".join(lines),
            fix="Give a changed variant another name, choose another folder with --out, or remove these runs",
        )


def _changed(run: GridRun, out: Path, counts: Counts) -> str:
    """Return what differs between a run and the run that its folder holds, "" for nothing."""
    folder = RunFolder(out / run.name)
    if not (folder.exists() and folder.begun()) or standing(run, out).state == "broken":
        return ""
    try:
        config = asked.with_positives(run.config, classes=bool(labelled_ones(run.config.data.train)))
        config = start.adopted_as_in_run(config, folder.config)
        shares = [share_of(one.data.val) for one in (folder.config, config)]
        if shares[0] != shares[1]:
            return f"data.val = {config.data.val!r}, was {folder.config.data.val!r}"
        folder.check_config(config)
        if folder.config.data.train != config.data.train or folder.config.data.ssl != config.data.ssl:
            return _moved(config, folder, counts, held_out=bool(shares[0]))
    except ConfigError as error:
        return error.got if isinstance(error.got, str) else str(error)
    except SlipError as error:  # the data that the grid names now are missing
        return str(error)
    return ""


def _moved(config: Config, folder: RunFolder, counts: Counts, *, held_out: bool) -> str:
    """Return how the data that the grid names now differ from the data that a run was trained on."""
    known, data = noted_data(folder.path), folder.config.data
    if known is not None and not held_out:
        loss = objectives.parse(config.objective)
        if not differences(known, counts.data(config).identity(captioned=loss.captioned)):
            return ""  # the same data in another place
    told = f"data.train = {config.data.train!r}, was {data.train!r}"
    return told + f"; data.ssl = {config.data.ssl!r}, was {data.ssl!r}" * (data.ssl != config.data.ssl)


def run_all(
    grid: Grid,
    runs: Sequence[GridRun],
    *,
    command: Command,
    processes: Processes | None = None,
    inform: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Train and measure the runs that are not finished, in their order. Return how all of them ended.

    grid: with the lengths that `compute.planned` has worked out. command: runs `slip`, in a separate process.
    processes: torchrun's processes, which all call this function, and train each run together.

    Raises ConfigError, before anything is trained, if a folder holds a run of another configuration.
    """
    processes, out, outcome = processes or Processes(), grid.out, Outcome()
    with processes.first_goes_ahead():
        if processes.first:
            check_unchanged(runs, out)
    for number, run in enumerate(runs, 1):
        now = standing(run, out) if processes.first else Standing("new")
        told = now.state, now.why, _line_of(run, out, now) if processes.first else []
        state, why, line = json.loads(processes.bytes_from_first(json.dumps(told).encode()))
        if state in ("finished", "held"):
            (outcome.finished if state == "finished" else outcome.held).append(run.name)
            continue
        if state == "broken":
            outcome.failed[run.name] = why
            inform(f"{run.name} is left out: {why}")
            continue
        if processes.first:
            write_config(run, out)
            inform(f"── {number} of {len(runs)}: {out / run.name}")
        status = _supervised(command, line, processes)
        became = _became(run, out, status) if processes.first else ""
        became = processes.bytes_from_first(became.encode()).decode()
        if became == "held":
            outcome.held.append(run.name)
        elif became:
            outcome.failed[run.name] = became
            inform(f"{run.name} failed: {became}")
        else:
            outcome.finished.append(run.name)
    return outcome


def _line_of(run: GridRun, out: Path, now: Standing) -> list[str]:
    """Return the command line that continues a run."""
    if now.state == "unmeasured":
        return ["evaluate", str(out / run.name), *now.missing]
    config = out / CONFIGS / f"{run.name}.toml"
    resume = ["--resume"] * RunFolder(out / run.name).exists()
    return ["train", "--config", str(config), "--out", str(out / run.name), *resume]


def write_config(run: GridRun, out: Path) -> None:
    """Write the configuration of a run, for `slip train` and for people. Raises ConfigError if it cannot be written."""
    path = out / CONFIGS / f"{run.name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, toml.dumps(run.config))
    except OSError as error:
        raise ConfigError(
            "The folder of the runs cannot be written",
            got=str(out),
            cause=str(error),
            fix="Choose another folder with --out",
        ) from None


def _became(run: GridRun, out: Path, status: int) -> str:
    """Return why a run whose process has ended is not finished: "" if it is, `held` if another process has it."""
    now = standing(run, out)
    if now.state == "finished":
        return ""
    if now.state in ("held", "broken"):
        return now.why or "held"
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        with suppress(ValueError):
            return f"its process was ended by {signal.Signals(number).name}, {now.describe()}"
    return f"exit status {status}, {now.describe()}; its message is printed above"


def _supervised(command: Command, line: list[str], processes: Processes) -> int:
    """Run a command line in a separate process until it ends, on all processes. Return its exit status.

    If this process is told to end, it tells the separate process to end, which saves the run first.
    """
    child = start_context(STARTS_WITH).Process(target=_child, args=(command, line))
    child.start()
    failed_since = 0.0
    try:
        while True:
            child.join(0.2 if processes.world == 1 else 1.0)
            running, failed = processes.any(child.exitcode is None, child.exitcode not in (None, 0))
            if not running:
                return child.exitcode or 0
            failed_since = failed_since or (time.monotonic() if failed else 0.0)
            if failed_since and time.monotonic() - failed_since > PATIENCE and child.exitcode is None:
                child.kill()  # it waits for a process that is gone
    except BaseException:
        if child.exitcode is None:
            with suppress(OSError, TypeError):
                os.kill(child.pid or 0, signal.SIGTERM)
            try:
                child.join()
            except BaseException:  # told a second time
                child.kill()
        raise


def _child(command: Command, line: list[str]) -> None:
    """Run a command line of `slip`. End by SIGTERM when the parent process is gone.

    Output goes to stderr, as stdout is for the table.
    """
    sys.stdout.flush()
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(command(line))


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
