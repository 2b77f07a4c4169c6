"""How many worker processes there are, how they start and how they end: for the loader, finetuning and `fan_out`."""

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
    """Return a context that starts processes from a server with `modules` loaded, never by forking this process.

    The server is started here. The server and its processes ignore Ctrl-C and a closed terminal, which reach the whole
    process group: the process that started them decides what such a signal means, and ends them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    _start_server()
    return context


def _start_server() -> None:
    """Start the server, if none runs, with these signals blocked from its first instruction on. It imports for seconds
    before it could block them itself, and its processes inherit what is blocked."""
    from multiprocessing import forkserver, resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    try:
        resource_tracker.ensure_running()  # ignores Ctrl-C by itself, and unblocks it for others when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _end_server_at_exit(os.getpid())


@functools.cache
def _end_server_at_exit(owner: int) -> None:
    """Make the workers and their server end with this process, before anything else does.

    By itself, the server would notice only after it has imported everything. Without its server, `multiprocessing`
    takes each worker for dead: it would not end or await the worker, and would remove the folder that the worker uses.
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
    """Make this worker process obey only the process that started it, and end when that process is gone."""
    # Ctrl-C reaches the whole process group; the process that started this one decides what it means, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _quiet_about_a_parent_that_left
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _quiet_about_a_parent_that_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error's traceback, unless the other end of a connection is gone.

    `multiprocessing.resource_sharer` hands tensors over in a thread, and prints its errors by this hook. A run that
    is told to stop while it takes a batch leaves the worker in the middle of handing it over.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent() -> None:
    """End this process when the process that started it is gone, perhaps killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
