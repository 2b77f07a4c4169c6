"""A live line of a finetuning on a terminal, else a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from openslip.evaluation.features import shows_progress
from openslip.progress import Bar, PlainLines

REFRESH = 10
"""Steps between two readings of the loss: each one waits for the device."""


@contextmanager
def progress(name: str, steps: int, done: int) -> Iterator[Callable[[Tensor, int], None]]:
    """Yield what to call after each step with its loss and epoch.

    Without a terminal it prints a line now and then where the session shows progress, else nothing.
    """
    with Bar(name, steps, done=done) as bar:
        lines = PlainLines(bar.console)
        lines.wait()

        def report(loss: Tensor, epoch: int) -> None:
            nonlocal done
            done += 1
            if bar.live and (done % REFRESH == 0 or done == steps):
                bar.update(done=done, numbers=f"epoch {epoch + 1}  loss {float(loss):.3f}")
            elif shows_progress():
                lines.say(f"{name}: step {done:,} of {steps:,}, epoch {epoch + 1}")

        yield report
