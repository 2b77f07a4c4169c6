"""One function over all records of a source: in processes, under a progress bar, and over the ranks of `torchrun`.

The work is cut into spans, runs of neighbouring records. A process has one span at a time, so that a process that
dies can be said to have died over these records, and so that there is nothing to take back when the user stops it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

from openslip.data.record import Source
from openslip.errors import ConfigError, DataError, SlipError
from openslip.progress import Progress

R = TypeVar("R")
Tick = Callable[[int], None]
"""To be called with the number of records done since the last call."""
SpanFunction = Callable[[Source, range, Tick], R]
"""What is done to a span; in processes it must be a module's own function, or a `functools.partial` of one."""

_TICK_SECONDS = 0.2
_SPAN = 256


def spans(source: Source, count: int | None = None) -> list[range]:
    """Cut the first `count` records (default: all) into spans of about 256, whole blocks of the source each."""
    count = len(source) if count is None else min(count, len(source))
    block = max(1, getattr(source, "block", 1))
    size = block * -(-_SPAN // block)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def fan_out(
    work: SpanFunction[R],
    source: Source,
    spans: Sequence[range],
    *,
    title: str = "reading",
    processes: int = -1,
    shown: bool = True,
) -> Iterator[R]:
    """Yield `work(source, span, tick)` for every span, in their order.

    processes: how many run at a time; 1 works in this process, -1 takes one for each core. The source is pickled once
    for each process. title: of the progress on stderr; shown: whether there is any.

    Raises what `work` raises, ConfigError for a number of processes that makes no sense, and DataError when a process
    is killed. Whatever ends the iteration, Ctrl-C included, kills the processes at once.
    """
    check_processes(processes)
    processes = min(default_processes() if processes < 0 else processes, len(spans))
    with Progress(title, sum(map(len, spans)), shown=shown) as bar:
        if processes <= 1:
            for span in spans:
                yield work(source, span, bar.advance)
        else:
            with contextlib.closing(_in_processes(work, source, spans, processes, bar.advance)) as results:
                yield from results


def check_processes(processes: int) -> None:
    """Raise ConfigError for a number of processes that makes no sense."""
    if processes < 1 and processes != -1:
        raise ConfigError("The number of processes must be at least 1, or -1 for one a core", got=processes)


def default_processes() -> int:
    """Return the number of cores that this process may use, shared among the ranks on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


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
    """Let the server end with this process. By itself it would notice only when it has imported everything."""
    from multiprocessing import forkserver

    def end() -> None:
        server = getattr(forkserver, "_forkserver", None)
        pid = getattr(server, "_forkserver_pid", None)
        if pid and os.getpid() == owner:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    atexit.register(end)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


class _Worker:
    """A process, the pipe to it, and the span that it has, by number."""

    def __init__(self, context: Any, pickled: bytes) -> None:
        self.span = -1
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, pickled), daemon=True)
        self.process.start()
        theirs.close()  # with the process itself the only holder, its death ends the pipe

    def give(self, number: int, span: range) -> None:
        self.span = number
        with contextlib.suppress(OSError):  # it is dead: the next look at the pipe says so
            self.pipe.send(span)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _in_processes(
    work: SpanFunction[R], source: Source, spans: Sequence[range], processes: int, advance: Tick
) -> Generator[R]:
    pickled = pickle.dumps((work, source))
    function = work.func if isinstance(work, functools.partial) else work
    context = start_context([function.__module__])
    workers: dict[Any, _Worker] = {}
    todo, results, next_out = iter(enumerate(spans)), {}, 0
    try:
        for number, span in [next(todo) for _ in range(processes)]:
            worker = _Worker(context, pickled)
            workers[worker.pipe] = worker
            worker.give(number, span)
        while next_out < len(spans):
            for pipe in connection.wait(list(workers)):
                worker = workers[pipe]
                kind, value = _receive(worker, spans)
                if kind == "tick":
                    advance(value)
                elif kind == "error":
                    raise value
                else:
                    results[worker.span] = value
                    following = next(todo, None)
                    if following is not None:
                        worker.give(*following)
            while next_out in results:
                yield results.pop(next_out)
                next_out += 1
    finally:
        for worker in workers.values():
            worker.end()


def _receive(worker: _Worker, spans: Sequence[range]) -> tuple[str, Any]:
    """Return the worker's next message. Raises DataError when it is dead."""
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        raise _death(worker.process.exitcode or 0, spans[worker.span]) from None


def _serve(pipe: Any, pickled: bytes) -> None:
    """Work on one span after the other until there is no more pipe; the main function of a worker."""
    # Ctrl-C reaches the whole process group; the process that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    done, said = 0, time.monotonic()

    def tick(count: int) -> None:
        nonlocal done, said
        done += count
        if time.monotonic() - said > _TICK_SECONDS:
            pipe.send(("tick", done))
            done, said = 0, time.monotonic()

    try:
        work, source = pickle.loads(pickled)  # from the process that started this one
        while True:
            try:
                span = pipe.recv()
            except EOFError:
                return
            result = work(source, span, tick)
            pipe.send(("tick", done))
            pipe.send(("result", result))
            done = 0
    except Exception as error:
        _send_error(pipe, error)


def _send_error(pipe: Any, error: Exception) -> None:
    if not isinstance(error, SlipError):
        error.add_note("In a worker process:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception that only its own module can make
        error = RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    pipe.send(("error", error))


def _death(code: int, span: range) -> DataError:
    """Return the error for a process that ended with this exit code (negative: the signal that killed it)."""
    if code == -signal.SIGKILL:
        cause, fix = "The system killed it, most likely because memory ran out", "Take fewer --processes"
    elif code < 0:
        cause = f"A library crashed ({signal.Signals(-code).name}), perhaps over one of these records"
        fix = "--processes 1 and a look at these records show which; leave it out of the source"
    else:
        cause = "It failed before it could work; what it printed is above"
        fix = "A script that does this must do so under `if __name__ == '__main__':`, or with processes=1"
    return DataError(
        f"A process ended unexpectedly over the records {span.start} to {span.stop - 1}",
        got=f"exit code {code}",
        cause=cause,
        fix=fix,
    )
