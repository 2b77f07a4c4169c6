"""End by a signal with one line and an exit status, wherever the command is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ANSWERED = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, what schedulers and `kill` send, a terminal that was closed."""


class Ended(BaseException):
    """A signal that ends the process, raised in the main thread to close what is open; not an error, hence no
    Exception."""


class Signals:
    """Which signals have arrived."""

    def __init__(self) -> None:
        self.number = 0
        """The first signal that has arrived, 0 for none. A library may ignore the signal's exception, or raise another
        exception instead."""
        self._ending = False

    def end(self) -> int:
        """Return the first signal, Ctrl-C if there was none; ignore all signals from now on."""
        self._ending = True
        return self.number or signal.SIGINT

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self._ending:
            return
        self.number = self.number or number
        raise KeyboardInterrupt if number == signal.SIGINT else Ended


@contextmanager
def answered_signals(*, last: bool) -> Iterator[Signals]:
    """Let signals that would end the process raise KeyboardInterrupt or Ended inside.

    A signal that the process was started to ignore (`nohup`) stays ignored, and an existing handler stays in place.
    `last`: the process ends afterwards, and signals then end it at once, without a message.
    """
    signals, before = Signals(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ANSWERED if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, _leave if last else handler)


def _leave(number: int, _: FrameType | None) -> None:
    """End the process at once."""
    os._exit(128 + number)
