"""How worker processes are started, how many, and how they end: for the loader, for finetuning, and for `fan_out`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable
from multiprocessing import connection
from types import TracebackType
from typing import Any


def default_processes() -> int:
    """Return the number of cores that this process may use, shared among the ranks on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def reading_threads() -> int:
    """Return how many threads read and decode pictures beside a model."""
    return min(8, default_processes())


def start_context(modules: Iterable[str]) -> Any:
    """Return how processes are started: from a server that has `modules` loaded, never by forking this process.

    The server is started here. Neither it nor a process that it starts ever hears of Ctrl-C or of a terminal that is
    closed, which reach the whole process group: the process that started them decides what it means, and ends them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    _start_server()
    return context


def _start_server() -> None:
    """Start the server, if none runs, deaf from its first instruction on: it imports for seconds before it could make
    itself so, and its processes inherit what it does not hear."""
    from multiprocessing import forkserver, resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    try:
        resource_tracker.ensure_running()  # deaf to Ctrl-C by itself, which it lets through for others when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _end_server_at_exit(os.getpid())


@functools.cache
def _end_server_at_exit(owner: int) -> None:
    """Let the workers and their server end with this process, first of all.

    By itself the server would notice only when it has imported everything. Without its server `multiprocessing` takes
    each worker for dead: it would neither end nor await the worker, and remove the folder that the worker cleans up.
    Processes that a program starts in another way are left to `multiprocessing`.
    """
    from multiprocessing import forkserver

    def end() -> None:
        server = getattr(forkserver, "_forkserver", None)
        pid = getattr(server, "_forkserver_pid", None)
        if not pid or os.getpid() != owner:
            return
        children = [child for child in multiprocessing.active_children() if child.daemon]
        workers = [child for child in children if child._popen.method == "forkserver"]  # type: ignore[attr-defined]
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(timeout=1)  # one that waits for a disk may take longer
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)

    atexit.register(end)


def settle() -> None:
    """Make this process, a worker, heed nothing but the process that started it, and end when that one is gone."""
    # Ctrl-C reaches the whole process group; the process that started this one decides what it means, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _quiet_about_a_parent_that_left
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _quiet_about_a_parent_that_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error's traceback, but not where the other end of a connection is gone.

    `multiprocessing.resource_sharer` hands tensors over in a thread, and prints what it meets by this hook. A run that
    is told to stop while it takes a batch leaves the worker in the middle of that.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
