"""What a command prints, wherever it goes: other encodings, closed pipes, full disks, no place at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from openslip import cli
from openslip.cli import data, main
from openslip.cli.output import SPELLED, OutputClosed, OutputError, Stream, safe_streams

HELP = [
    [*words, "--help"]
    for words in ([], *([name] for name in cli.COMMANDS), *(["data", name] for name in data.COMMANDS))
]
EVERY = [*HELP, ["--version"], ["recipes"], ["recipes", "show", "small-data"], ["data"]]


@pytest.fixture(params=["buffered", "unbuffered"])
def full(request) -> Iterator[io.TextIOWrapper]:
    """A file on a disk that has no room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    buffered = request.param == "buffered"
    with open("/dev/full", "wb", buffering=-1 if buffered else 0) as file:
        yield io.TextIOWrapper(file, encoding="utf-8", write_through=not buffered)


@pytest.fixture
def closed_pipe() -> Iterator[io.TextIOWrapper]:
    """The writing end of a pipe that nobody reads from."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_ends_quietly_when_its_reader_has_gone(words, closed_pipe, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert main(words) == 141
    assert capsys.readouterr().err == ""


def test_a_process_whose_reader_has_gone() -> None:
    """Python writes what is left when it ends, and would report that it cannot."""
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["recipes"], ["report", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "openslip", *words], stdout=writer, stderr=subprocess.PIPE
        )
        assert (done.returncode, done.stderr) == (141, b"")
    os.close(writer)


def test_an_error_is_its_own_status_when_nobody_reads_it(closed_pipe, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", closed_pipe)
    assert main(["recipes", "show", "nothing"]) == 1


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_full_disk_is_said(words, full, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("slip: The output of the command cannot be written. No space left on device")
    assert said.count("\n") == 1


def test_a_log_on_a_full_disk_costs_nothing_but_the_log(full, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stderr", full)
    with safe_streams():
        print("lost", file=sys.stderr, flush=True)
        print("kept")
    assert capsys.readouterr().out == "kept\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed) -> None:
    """The file that is opened next must not take their place, and get what is printed."""
    code = (
        "from openslip.cli import main; import os; s = main(['recipes']); os.fstat(1); os.fstat(2); exit(s)"
    )
    words = ["/bin/sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
def test_every_character_is_printed(encoding, monkeypatch, capsys) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with safe_streams():
        print(
            "ma\u00eftre \u65e5\u672c \U0001f600 3 \u2013 4 \u00d7 5 \u2026 \u2500\u2502\u256d\u2588 \u2192 \ud800"
        )
    said = raw.getvalue().decode(encoding)
    if encoding == "ascii":
        assert said == "ma\\xeftre \\u65e5\\u672c \\U0001f600 3 - 4 x 5 ... -|+# -> \\ud800\n"
    assert r"\ud800" in said


def test_signs_are_spelled_in_plain_ones() -> None:
    assert all(plain.isascii() and plain for plain in SPELLED.values())
    assert not any(sign.isascii() for sign in SPELLED)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_prints_in_ascii(words, monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with suppress(SystemExit):
        main(words)
    assert raw.getvalue().isascii()
    assert raw.getvalue()
    assert rb"\u" not in raw.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colours_where_they_are_wanted(environment, terminal, coloured, monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = Terminal() if terminal else io.StringIO()
    Stream(file, required=True).write("a \x1b[1;31mred\x1b[0m b")
    assert file.getvalue() == ("a \x1b[1;31mred\x1b[0m b" if coloured else "a red b")


def test_failures_are_not_those_that_code_expects_of_files(closed_pipe) -> None:
    """Code that tries to write a file, and forgives an OSError, must not forgive that nobody reads its output."""
    with pytest.raises(OutputClosed):
        Stream(closed_pipe, required=True).write("x" * 100_000)
    assert not issubclass(OutputClosed, Exception)
    assert not issubclass(OutputError, OSError)
    os.dup2(os.open(os.devnull, os.O_WRONLY), closed_pipe.fileno())
