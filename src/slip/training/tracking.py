"""What a run says while it trains: metrics.jsonl always, a progress line on a terminal, TensorBoard by option."""

from __future__ import annotations

import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slip.training.run import RunFolder

PLAIN_LINE_SECONDS = 30
"""Without a terminal (a log file), a line of text this often."""


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
    """TensorBoard event files in the run folder; needs the `tensorboard` extra."""

    def __init__(self, run: RunFolder, step: int) -> None:
        from slip.errors import ConfigError

        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "TensorBoard is not installed",
                fix="`pip install 'openslip[tensorboard]'`, or leave --training.tensorboard out",
            ) from None
        # purge_step hides what a killed run logged beyond the checkpoint that it resumes from.
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, line: dict[str, Any]) -> None:
        for name, value in (line | line.get("evaluation", {})).items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self.writer.close()


class ProgressLine:
    """One live line: losses, speed, share of time spent waiting for data, time left, records skipped."""

    def __init__(self, console: Console, step: int, steps: int) -> None:
        self.console, self.steps, self.shown = console, steps, 0.0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), TextColumn("ETA"), TimeRemainingColumn(compact=True),
            console=console, refresh_per_second=2, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("training", total=steps, completed=step, numbers="")
        self.bar.start()

    def advance(self, step: int) -> None:
        self.bar.update(self.task, completed=step, description="training")

    def measuring(self) -> None:
        """Say that the steps pause for an evaluation."""
        self.bar.update(self.task, description="measuring")

    def log(self, line: dict[str, Any]) -> None:
        if "evaluation" in line:
            return
        numbers = progress_text(line)
        self.bar.update(self.task, numbers=numbers)
        if not self.console.is_terminal and time.monotonic() - self.shown > PLAIN_LINE_SECONDS:
            self.shown = time.monotonic()
            self.console.print(
                f"step {line['step']}/{self.steps}  {numbers}", highlight=False, soft_wrap=True
            )

    def close(self) -> None:
        self.bar.stop()


def progress_text(line: dict[str, Any]) -> str:
    """Return a line of metrics as people read it."""
    losses = [f"{name} {line[name]:.3f}" for name in line if name.endswith("loss")]
    speed = [f"{line['samples_per_second']:.0f} samples/s", f"waiting {line['data_wait']:.0%}"]
    trouble = [f"{name} {line[name]}" for name in ("skipped", "nonfinite", "overflow") if line.get(name)]
    return "  ".join(losses + speed + trouble)


class Window:
    """Means over the steps since the last line; its state travels with the checkpoint."""

    def __init__(self, sums: dict[str, float] | None = None) -> None:
        self.sums: dict[str, float] = dict(sums or {})
        self.restart_clock()

    def restart_clock(self) -> None:
        self.samples, self.waited, self.started = 0, 0.0, time.perf_counter()

    def add(self, losses: dict[str, float], samples: int, waited: float) -> None:
        for name, value in (losses | {"steps": 1.0}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.samples += samples
        self.waited += waited

    def take(self) -> dict[str, float]:
        """Return the means and speeds, and start anew."""
        steps = self.sums.pop("steps", 1.0)
        seconds = max(1e-9, time.perf_counter() - self.started)
        line = {name: total / steps for name, total in self.sums.items()}
        line |= {
            "samples_per_second": round(self.samples / seconds, 2),
            "data_wait": round(self.waited / seconds, 4),
        }
        self.sums = {}
        self.restart_clock()
        return line
