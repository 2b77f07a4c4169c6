"""Progress of long work: a live bar on a terminal, else a line of text now and then."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from openslip.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_LINE_SECONDS = 30.0
"""Seconds between lines of text without a terminal (a log file)."""
WORKING_SECONDS = 5.0
"""Without a terminal, work that cannot be counted is not reported before it has taken this long."""


def print_text(console: Console, text: str) -> None:
    """Print text literally: `[b]` and `:smile:` are parts of names, and control characters are spelled out."""
    console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


def redraws(console: Console) -> bool:
    """Return whether a line of `console` can be redrawn.

    A terminal that moves its cursor (not `TERM=dumb`) can redraw, and so can a notebook with ipywidgets. A file or pipe
    cannot, even if FORCE_COLOR asks for colours there.
    """
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_interactive and (not os.environ.get("FORCE_COLOR") or console.file.isatty())


class Bar:
    """A live line: a title, the count done of a total, numbers, time left. Shows nothing without a terminal.

    `total`: None if unknown. `console`: by default standard error. `transient`: the line disappears when the work is
    done. `shown`: whether the line is shown at all.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        done: int = 0,
        console: Console | None = None,
        transient: bool = False,
        shown: bool = True,
    ) -> None:
        from rich import console as consoles
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.title, self.total, self.done, self.numbers = printable(title), total, done, ""
        self.console = console or consoles.Console(stderr=True, quiet=not shown)
        self.live = shown and redraws(self.console)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}{task.fields[of]}"),
            TextColumn("{task.fields[numbers]}", markup=False), TextColumn("ETA"), TimeRemainingColumn(compact=True),
            console=self.console, refresh_per_second=4, transient=transient, disable=not self.live,
            redirect_stdout=_shares_screen(),
        )  # fmt: skip
        for work in _working:
            work.close()
        of = "" if total is None else f" of {total:,.0f}"
        self._task = self._progress.add_task(self.title, total=total, completed=done, numbers="", of=of)
        self._progress.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(
        self, *, done: int | None = None, numbers: str | None = None, title: str | None = None
    ) -> None:
        """Show new values of any of these."""
        self.done = self.done if done is None else done
        self.numbers = self.numbers if numbers is None else numbers
        self.title = self.title if title is None else title
        self._progress.update(self._task, completed=self.done, description=self.title, numbers=self.numbers)

    def close(self) -> None:
        self._progress.stop()


_working: list[Working] = []
"""Uncountable work that is shown now."""


class Working:
    """Show work that cannot be counted, such as reading weights, and how long it has taken so far.

    A terminal shows a live line, which disappears when the work is done. Without a terminal only long work is reported:
    after WORKING_SECONDS, and then every PLAIN_LINE_SECONDS. A bar that begins meanwhile replaces the live line.
    """

    def __init__(self, title: str, *, console: Console | None = None, shown: bool = True) -> None:
        from rich import console as consoles

        self.title, self._started = printable(title), time.monotonic()
        self.console = console or consoles.Console(stderr=True, quiet=not shown)
        self.shown, self._ended = shown, threading.Event()

    def __enter__(self) -> Self:
        if not self.shown:
            return self
        if redraws(self.console):
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
                console=self.console, refresh_per_second=4, transient=True, redirect_stdout=_shares_screen(),
            )  # fmt: skip
            self._progress.add_task(self.title, total=None)
            self._progress.start()
        else:
            threading.Thread(target=self._tell, daemon=True).start()
        _working.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self in _working:
            _working.remove(self)

    def close(self) -> None:
        """Stop showing the work."""
        if not self._ended.is_set() and hasattr(self, "_progress"):
            self._progress.stop()
        self._ended.set()

    def _tell(self) -> None:
        seconds = WORKING_SECONDS
        while not self._ended.wait(seconds):
            print_text(self.console, f"{self.title}: {time.monotonic() - self._started:,.0f} s so far")
            seconds = PLAIN_LINE_SECONDS


def _shares_screen() -> bool:
    """Return whether standard output goes to a terminal, so that the live line must be drawn around printed text. A
    file or a pipe gets printed text unchanged."""
    return sys.stdout.isatty()


class PlainLines:
    """Lines of text in a log, which replace a terminal's bar; at most one every PLAIN_LINE_SECONDS."""

    def __init__(self, console: Console) -> None:
        self.console, self._said = console, -math.inf

    def wait(self) -> None:
        """Print nothing until PLAIN_LINE_SECONDS from now."""
        self._said = time.monotonic()

    def print(self, text: str) -> None:
        if not redraws(self.console) and time.monotonic() - self._said > PLAIN_LINE_SECONDS:
            self.wait()
            print_text(self.console, text)


class Progress(Bar):
    """A bar of records with records per second; without a terminal, lines at the start, now and then, and at the end.

    `title`: what is done to the records, such as `checking`. `brief`: without a terminal, only the lines now and then,
    none at the start or the end.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        console: Console | None = None,
        transient: bool = False,
        shown: bool = True,
        brief: bool = False,
    ) -> None:
        super().__init__(title, total, console=console, transient=transient, shown=shown)
        self.started, self.lines, self.brief = time.monotonic(), PlainLines(self.console), brief
        if not self.live and not brief:
            print_text(self.console, f"{self.title} {'' if total is None else f'{total:,} '}records")
        self.lines.wait()

    def advance(self, count: int) -> None:
        """Count `count` more records as done."""
        done = self.done + count
        seconds = max(1e-9, time.monotonic() - self.started)
        speed = done / seconds
        self.update(done=done, numbers=f"{speed:,.0f}/s")
        if self.total is None:
            self.lines.print(f"{self.title}: {done:,}, {speed:,.0f}/s")
        elif done < self.total:
            left = (self.total - done) / max(1e-9, speed) / 60
            self.lines.print(
                f"{self.title}: {done:,} of {self.total:,}, {speed:,.0f}/s, {left:,.0f} min left"
            )
        elif not self.live and not self.brief:
            print_text(self.console, f"{self.title}: all {done:,} in {seconds:,.0f} s, {speed:,.0f}/s")
