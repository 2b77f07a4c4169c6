"""One function over all records of a source: in processes, under a progress bar, and over the ranks of `torchrun`.

The work is cut into spans, runs of neighbouring records. A process has one span at a time. So an error can name the
records over which a process died, and there is nothing to take back when the user stops the work.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

from openslip.data.record import Source
from openslip.data.workers import default_processes, settle, start_context
from openslip.errors import ConfigError, DataError, SlipError
from openslip.progress import Progress

R = TypeVar("R")
Tick = Callable[[int], None]
"""To be called with the number of records done since the last call."""
SpanFunction = Callable[[Source, range, Tick], R]
"""The work on a span. For other processes it must be a module's own function, or a `functools.partial` of one."""

_TICK_SECONDS = 0.2
_SPAN = 256


def spans(source: Source, count: int | None = None) -> list[range]:
    """Cut the first `count` records (default: all) into spans of about 256, whole blocks of the source each."""
    count = len(source) if count is None else min(count, len(source))
    block = max(1, source.block)
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
    for each process. title: names the progress on stderr; shown: whether to print progress.

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


class _Worker:
    """A process, the pipe to it, and the span that it has, by number."""

    def __init__(self, context: Any, pickled: bytes) -> None:
        self.span = -1
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, pickled), daemon=True)
        self.process.start()
        theirs.close()  # only the process itself holds this end now, so its death ends the pipe

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
    settle()
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
        cause, fix = "The system killed it, most likely because memory ran out", "Pass fewer --processes"
    elif code < 0:
        cause = f"A library crashed ({signal.Signals(-code).name}), perhaps over one of these records"
        fix = "Find the record with --processes 1 and a look at these, and leave it out of the source"
    else:
        cause = "The process failed before it could work; its output is above"
        fix = "In a script, do this under `if __name__ == '__main__':`, or with processes=1"
    return DataError(
        f"A process ended unexpectedly over the records {span.start} to {span.stop - 1}",
        got=f"exit code {code}",
        cause=cause,
        fix=fix,
    )
