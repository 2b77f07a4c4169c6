"""A live line of a finetuning, where there is a terminal to show it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from slip.progress import Bar

REFRESH = 10
"""Steps between two readings of the loss: each one waits for the device."""


@contextmanager
def progress(name: str, steps: int, done: int) -> Iterator[Callable[[Tensor, int], None]]:
    """Yield what to call after each step with its loss and epoch; without a terminal it does nothing."""
    with Bar(name, steps, done=done) as bar:

        def report(loss: Tensor, epoch: int) -> None:
            nonlocal done
            done += 1
            if bar.live and (done % REFRESH == 0 or done == steps):
                bar.update(done=done, numbers=f"epoch {epoch + 1}  loss {float(loss):.3f}")

        yield report
