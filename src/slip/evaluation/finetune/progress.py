"""A live line of a finetuning, where there is a terminal to show it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

REFRESH = 10
"""Steps between two readings of the loss: each one waits for the device."""


@contextmanager
def progress(name: str, steps: int, done: int) -> Iterator[Callable[[Tensor, int], None]]:
    """Yield what to call after each step with its loss and epoch; without a terminal it does nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda loss, epoch: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("ETA"),
    )
    with Progress(*columns, TimeRemainingColumn(compact=True), console=console, refresh_per_second=2) as bar:
        task = bar.add_task(name, total=steps, completed=done)

        def report(loss: Tensor, epoch: int) -> None:
            nonlocal done
            done += 1
            if done % REFRESH == 0 or done == steps:
                bar.update(
                    task, completed=done, description=f"{name}  epoch {epoch + 1}  loss {float(loss):.3f}"
                )

        yield report
