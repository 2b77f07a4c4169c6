"""What a run reports while it trains: metrics.jsonl always, a progress line on a terminal, other trackers by option."""

from __future__ import annotations

import importlib
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from rich.console import Console

from openslip import toml
from openslip.config import Config, TrackingConfig
from openslip.errors import ConfigError
from openslip.files import read_whole, write_text
from openslip.progress import Bar, PlainLines
from openslip.training.saving.run import RunFolder

T = TypeVar("T")
_ID = re.compile("[0-9a-f]{12}")


class Tracker(Protocol):
    """Takes one line of numbers at a time."""

    def log(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl in the run folder."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def log(self, line: dict[str, Any]) -> None:
        self.run.append_metrics(line)

    def close(self) -> None:
        pass


class TensorBoard:
    """TensorBoard event files in the run folder."""

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run logged beyond the checkpoint that it resumes from.
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, line: dict[str, Any]) -> None:
        for name, value in numbers(line).items():
            self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the Weights & Biases project `tracking.wandb`; a resumed run goes on in the same one."""

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        wandb: Any = importlib.import_module("wandb")

        self.run = wandb.init(
            project=config.tracking.wandb, id=tracker_id(run), name=run.path.resolve().name, resume="allow",
            dir=str(run.path), config=toml.shareable(config),
        )  # fmt: skip
        # Our step is the axis. wandb's own step only grows, and would refuse lines that come again after a kill.
        self.run.define_metric("*", step_metric="step")

    def log(self, line: dict[str, Any]) -> None:
        self.run.log(numbers(line))

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the trackio project `tracking.trackio`; a resumed run goes on in the same one."""

    def __init__(self, run: RunFolder, config: Config, step: int) -> None:
        trackio: Any = importlib.import_module("trackio")

        # trackio knows runs by their names.
        name = f"{run.path.resolve().name}-{tracker_id(run)}"
        self.run = trackio.init(
            project=config.tracking.trackio, name=name, resume="allow", config=toml.shareable(config)
        )

    def log(self, line: dict[str, Any]) -> None:
        values = numbers(line)
        self.run.log(values, step=values.pop("step"))

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, tuple[str, Callable[[RunFolder, Config, int], Tracker]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "wandb": ("wandb", Wandb),
    "trackio": ("trackio", Trackio),
}
"""Option of the section `tracking`, and name of the extra → the module that it needs, and the class."""


class Forgiving:
    """A tracker that cannot stop a run: when it fails, it warns once and is not used again.

    Libraries that send numbers elsewhere retry before they fail, and steps should not wait for that line after line.
    metrics.jsonl has all lines that such a tracker misses.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], warn: Callable[[str], object]) -> None:
        self.name, self.warn = name, warn
        self.tracker = self._try(make)

    def log(self, line: dict[str, Any]) -> None:
        if self.tracker is not None:
            self._try(partial(self.tracker.log, line))

    def close(self) -> None:
        if self.tracker is not None:
            self._try(self.tracker.close)

    def _try(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:  # whatever a library and its network may raise
            self.tracker = None
            self.warn(f"{self.name} failed ({error}) and gets no more numbers; metrics.jsonl has them all")
            return None


def check_trackers(config: TrackingConfig) -> None:
    """Raise ConfigError if the library of a configured tracker is not installed."""
    for name, (module, _) in TRACKERS.items():
        if getattr(config, name):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(
                    f"The tracker {name} is not installed",
                    cause=str(error),
                    fix=f"`pip install {name}`, or leave --tracking.{name} out",
                ) from None


def open_trackers(run: RunFolder, config: Config, step: int, warn: Callable[[str], object]) -> list[Tracker]:
    """Return metrics.jsonl and the trackers that `config.tracking` asks for, for a run that continues from `step`."""
    chosen = {name: make for name, (_, make) in TRACKERS.items() if getattr(config.tracking, name)}
    return [
        JsonLines(run),
        *(Forgiving(name, partial(make, run, config, step), warn) for name, make in chosen.items()),
    ]


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl; numbers of an evaluation keep their own names."""
    flat = line | line.get("evaluation", {})
    return {name: value for name, value in flat.items() if isinstance(value, int | float)}


def tracker_id(run: RunFolder) -> str:
    """Return the name by which other places know this run, drawn once and kept in its folder."""
    path = run.path / "tracker_id"
    with suppress(OSError, ValueError):
        if _ID.fullmatch(kept := read_whole(path, 1000).decode()):
            return kept
    drawn = secrets.token_hex(6)  # anew if the file is damaged: trackers then show another run
    write_text(path, drawn)
    return drawn


class ProgressLine(Bar):
    """One live line: losses, speed, share of time spent waiting for data, time left, records skipped."""

    def __init__(self, console: Console, step: int, steps: int) -> None:
        super().__init__("training", steps, done=step, console=console)
        self.lines = PlainLines(console)

    def advance(self, step: int) -> None:
        self.update(done=step, title="training")

    def measuring(self) -> None:
        """Show that the steps pause for an evaluation."""
        self.update(title="measuring")

    def log(self, line: dict[str, Any]) -> None:
        if "evaluation" in line:
            return
        numbers = progress_text(line)
        self.update(numbers=numbers)
        self.lines.print(f"step {line['step']}/{self.total}  {numbers}")


def progress_text(line: dict[str, Any]) -> str:
    """Return a line of metrics as text for people."""
    losses = [f"{name} {line[name]:.3f}" for name in line if name.endswith("loss")]
    speed = [f"{line['samples_per_second']:.0f} samples/s", f"waiting {line['data_wait']:.0%}"]
    if "mfu" in line:
        speed.append(f"{line['mfu']:.0%} of peak")
    trouble = [f"{name} {line[name]}" for name in ("skipped", "nonfinite", "overflow") if line.get(name)]
    return "  ".join(losses + speed + trouble)
