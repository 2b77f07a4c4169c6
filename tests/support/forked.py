"""Processes for tests, forked from one server that has imported what they use.

A process that imports PyTorch, timm and all they import for itself spends 5 s of a core on it. Forked from the server,
it is as much a process of its own: it can be killed, is sent signals, and shares no state with the test or with others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

from openslip.training.watching import speed

PRELOADED = ["pytest", "peft", "openslip.cli.train", "openslip.training.train", "torch.distributed.run"]


def context() -> ForkServerContext:
    """Return how to start processes. Who starts the first decides what the server has; see `start_server`."""
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(PRELOADED)
    return forked


def start_server() -> None:
    """Start the server now, before a test does whose code needs less, or one that has changed the environment."""
    context()
    forkserver.ensure_running()


def uncounted(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have a number at once for a step's operations. To count them takes longer than the few steps of a test's run.

    Tests that are about the count ask for the fixture `counted`.
    """
    patch(speed, "_count_step", lambda *arguments, **options: 10**9)


class Command:
    """A function with a command line, `openslip.cli.main` say, in a process of its own.

    At the end of the `with` it is killed, and on Linux the processes that it has started. What it prints goes to the
    file `output`. `environment` is added to this process's.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Any],
        arguments: Sequence[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.output = output
        output.touch()
        target = (function, list(arguments), str(output), dict(environment or {}))
        self.process = context().Process(target=_run, args=target)
        self.process.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill it and those that it has started at once, as when a machine loses power."""
        children = self.children()
        self.process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.join()

    def children(self) -> list[int]:
        """Return the processes that it has started and that run; none but on Linux."""
        try:
            return list(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))
        except OSError:  # it has ended
            return []

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> tuple[int, str]:
        """Return the exit status and all it has printed. Fails after `timeout` seconds."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"runs after {timeout} s: {self.output.read_text()}"
        return self.process.exitcode, self.output.read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. Fails when the process ends before."""
        while not condition():
            assert self.poll() is None, self.output.read_text()
            time.sleep(0.01)


def _run(
    function: Callable[[list[str]], Any], arguments: list[str], output: str, environment: dict[str, str]
) -> None:
    uncounted()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):  # which the server's torch has read long ago
        torch.set_num_threads(int(threads))
    with open(output, "wb", buffering=0) as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    sys.exit(function(arguments))
