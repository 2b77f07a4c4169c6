"""Requests to stop: between two steps, and while a process waits for a step's batch."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from openslip.errors import TrainingError

HELD_DOWN = 1.0
"""Seconds within which another Ctrl-C counts as the same: from a key held down, or from torchrun, which passes on a
Ctrl-C that its processes have also got from the terminal."""


class Stopped(BaseException):
    """Raised out of a wait when this process is asked to stop. It is no error, and so no Exception."""


class Interrupted(TrainingError):
    """The run was asked to stop by the signal `number` (0: only another process was asked); its state is saved."""

    def __init__(self, what: str, *, number: int = 0, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.status = 128 + (number or signal.SIGTERM)


class StopSignal:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.number = 0
        """The signal that asked."""
        self._waiting = False
        self._interrupted = -math.inf

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal; the handler of those that `stop_signals` names."""
        if number == signal.SIGINT:
            before, self._interrupted = self._interrupted, time.monotonic()
            if self._interrupted - before < HELD_DOWN:
                return
            if self.asked:
                raise KeyboardInterrupt
        self.asked = True
        self.number = number
        if self._waiting:
            self._waiting = False  # only once: the reaction must not be interrupted
            raise Stopped

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within the block, a request to stop raises Stopped at once in the main thread; an earlier one, on entering.

        Python looks at signals between its instructions and where it waits, so a library's computation first runs to
        its end.
        """
        self._waiting = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._waiting = False


@contextmanager
def stop_signals(stop: StopSignal) -> Iterator[None]:
    """Within the block, SIGTERM and the first Ctrl-C are noted instead of ending the process; a second Ctrl-C ends it.

    A closed terminal (SIGHUP) is noted likewise, unless the process ignores SIGHUP, as `nohup` makes it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
