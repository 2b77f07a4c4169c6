"""Processes and ranks: every span once, in order, and an end that is clear whatever ends it."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from openslip.data import workers
from openslip.data.fanout import fan_out, spans
from openslip.data.record import Record, Source
from openslip.data.workers import default_processes
from openslip.errors import ConfigError, DataError


@dataclass(eq=False)
class Numbers(Source):
    """Records whose keys are their numbers."""

    count: int = 40
    block: int = 1
    name: str = "numbers"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        return Record(b"", (), str(index), self.name)


def keys(source: Source, span: range, tick) -> list[str]:
    for _ in span:
        tick(1)
    return [source[index].key for index in span]


def slow_at_first(source: Source, span: range, tick) -> int:
    time.sleep(0.2 if span.start == 0 else 0)
    return span.start


def trouble(how: str, source: Source, span: range, tick) -> int:
    if 12 in span:
        match how:
            case "ours":
                raise DataError("The source is gone", got="here")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
    return span.start


def cut(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_record_once_in_order(processes: int) -> None:
    results = list(fan_out(keys, Numbers(), cut(40, 7), processes=processes, shown=False))
    assert [len(result) for result in results] == [7, 7, 7, 7, 7, 5]
    assert list(itertools.chain(*results)) == [str(index) for index in range(40)]


def test_order_does_not_hang_on_speed() -> None:
    results = fan_out(slow_at_first, Numbers(), cut(40, 4), processes=2, shown=False)
    assert list(results) == list(range(0, 40, 4))


def test_nothing_to_do() -> None:
    assert list(fan_out(keys, Numbers(), [], shown=False)) == []


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("ours", DataError, ["The source is gone"]),
        ("bug", ZeroDivisionError, ["a bug"]),
        ("kill", DataError, ["records 12 to 15", "memory ran out", "--processes"]),
        ("crash", DataError, ["records 12 to 15", "SIGSEGV"]),
        ("exit", DataError, ["exit code 3", "__main__"]),
    ],
)
def test_trouble_in_a_process(how: str, error: type[Exception], words: list[str]) -> None:
    work = functools.partial(trouble, how)
    with pytest.raises(error) as caught:
        list(fan_out(work, Numbers(), cut(40, 4), processes=2, shown=False))
    assert all(word in str(caught.value) for word in words)
    if how == "bug":
        assert "in trouble" in caught.value.__notes__[0]  # where it happened


def test_an_iteration_left_early_leaves_no_process() -> None:
    import multiprocessing

    results = fan_out(keys, Numbers(), cut(40, 4), processes=2, shown=False)
    assert next(iter(results)) == ["0", "1", "2", "3"]
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_control_c_ends_everything_at_once() -> None:
    script = textwrap.dedent("""
        import signal, sys
        sys.path[:0] = sys.argv[1:]
        import test_fanout
        from openslip.data.fanout import fan_out

        def main():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
            try:
                for start in fan_out(test_fanout.for_ever, test_fanout.Numbers(), test_fanout.cut(40, 4), processes=2):
                    print("result", flush=True)
            except KeyboardInterrupt:
                sys.exit(130)

        if __name__ == "__main__":
            main()
    """)
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", script, here, os.path.dirname(here)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "result\n"
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=20)
    assert (started.returncode, errors) == (130, "reading 40 records\n")
    for _ in range(100):  # the fork server ends a moment later
        try:
            os.killpg(started.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process is left")


def for_ever(source: Source, span: range, tick) -> int:
    time.sleep(600 if span.start else 0)
    return span.start


@pytest.mark.parametrize("processes", [0, -2])
def test_bad_processes(processes: int) -> None:
    with pytest.raises(ConfigError):
        list(fan_out(keys, Numbers(), cut(40, 4), processes=processes))


def test_spans_are_whole_blocks() -> None:
    for count, block in ((1000, 1), (1000, 64), (1000, 100), (256, 300), (3, 64)):
        source = Numbers(count, block)
        cut_up = spans(source)
        assert [index for span in cut_up for index in span] == list(range(count))
        assert all(span.start % block == 0 for span in cut_up)
        assert all(len(span) >= 256 for span in cut_up[:-1])
    assert spans(Numbers(1000), 10) == [range(10)]


def test_processes_are_shared_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert default_processes() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert default_processes() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "30")
    assert default_processes() == 1


DEAF = """
import os, signal, sys
from multiprocessing import forkserver, resource_tracker
from openslip.data.workers import start_context

if __name__ == "__main__":
    context = start_context(["openslip.data.loader"])
    server = forkserver._forkserver._forkserver_pid
    tracker = resource_tracker._resource_tracker._pid
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(server, number)  # while it imports
        os.kill(tracker, number)
    worker = context.Process(target=signal.pause, daemon=True)
    worker.start()
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGHUP)
    worker.join(0.5)
    print(worker.is_alive(), os.waitpid(server, os.WNOHANG)[0] + os.waitpid(tracker, os.WNOHANG)[0], server)
    worker.kill()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")
def test_ctrl_c_reaches_neither_the_server_of_processes_nor_its_processes(tmp_path) -> None:
    """A terminal sends it to all of them, also while they import what they will need; and none outlives its starter."""
    (tmp_path / "script.py").write_text(DEAF)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stderr == ""
    alive, ended, server = done.stdout.split()
    assert (alive, ended) == ("True", "0")
    deadline = time.monotonic() + 30  # a busy machine lets a killed process run on for a moment
    while not _ended(server):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _ended(pid: str) -> bool:
    """Return whether a process is gone, or killed and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_worker_says_nothing_of_a_parent_that_left(capsys) -> None:
    for error in (ConnectionResetError(), BrokenPipeError(), EOFError()):
        workers._quiet_about_a_parent_that_left(type(error), error, None)
    assert not capsys.readouterr().err
    workers._quiet_about_a_parent_that_left(ValueError, ValueError("damaged"), None)
    assert "ValueError: damaged" in capsys.readouterr().err
