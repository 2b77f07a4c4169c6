"""Ctrl-C, SIGTERM and a closed terminal end a command in one line, with a status of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from openslip import cli
from openslip.cli import main
from openslip.cli.signals import ANSWERED
from openslip.errors import DataError, SlipError

NUMBERS = [getattr(signal, name) for name in ANSWERED if hasattr(signal, name)]


def command(monkeypatch, run) -> None:
    """Let `slip report` be a function."""
    monkeypatch.setattr(
        cli.importlib, "import_module", lambda name: SimpleNamespace(main=lambda words: run())
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_command_in_a_line(number, monkeypatch, capsys) -> None:
    closed = []

    def run() -> None:
        try:
            signal.raise_signal(number)
        finally:
            closed.append(True)

    command(monkeypatch, run)
    before = signal.getsignal(number)
    assert main(["report"]) == 128 + number
    said = capsys.readouterr().err
    assert said == (
        "slip: Interrupted.\n"
        if number == signal.SIGINT
        else f"slip: Ended by {signal.Signals(number).name}.\n"
    )
    assert closed
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("error", [ImportError("numpy could not be imported"), DataError("A process ended")])
def test_what_a_library_makes_of_ctrl_c_is_ctrl_c(error, monkeypatch, capsys) -> None:
    def run() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    command(monkeypatch, run)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "slip: Interrupted.\n"


def test_ctrl_c_twice(monkeypatch, capsys) -> None:
    def run() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)

    command(monkeypatch, run)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "slip: Interrupted.\n"


def test_what_is_ignored_stays_ignored(monkeypatch) -> None:
    """`nohup slip train …` goes on when the terminal is closed."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        command(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(["report"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_nothing_is_answered(monkeypatch) -> None:
    command(monkeypatch, lambda: 0)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main(["report"])))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_an_error_that_has_nothing_to_do_with_signals_is_not_hidden(monkeypatch) -> None:
    def run() -> None:
        raise ZeroDivisionError

    command(monkeypatch, run)
    with pytest.raises(ZeroDivisionError):
        main(["report"])


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_is_ended_with_its_worker_processes(number, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group."""
    words = [
        "data",
        "convert",
        "scenes:train:100000",
        str(tmp_path / "out"),
        "--processes",
        "2",
        "--shard-size",
        "64",
    ]
    started = subprocess.Popen(
        [sys.executable, "-m", "openslip", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        while not list(tmp_path.glob("out/*.tar")) and started.poll() is None:
            time.sleep(0.05)
        os.killpg(started.pid, number)
        out, errors = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 128 + number
    assert [line for line in errors.splitlines() if line.startswith("slip: ")] == errors.splitlines()[-1:]
    assert "Traceback" not in out + errors


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_torchruns_processes_the_first_says_that_they_stop(rank, monkeypatch, capsys) -> None:
    class Stopped(SlipError):
        status = 143

    def run() -> None:
        raise Stopped("Stopped after step 7 of 16")

    monkeypatch.setenv("RANK", rank)
    command(monkeypatch, run)
    assert main(["train"]) == 143
    assert capsys.readouterr().err == ("slip: Stopped after step 7 of 16.\n" if rank == "0" else "")
    command(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    assert main(["train"]) == 130
    assert capsys.readouterr().err == ("slip: Interrupted.\n" if rank == "0" else "")
