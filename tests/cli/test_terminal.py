"""What long work looks like on a terminal, which is a pseudo-terminal here, and without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")  # not on Windows
SCRIPT = """
from openslip.cli.output import safe_streams
from openslip.progress import Progress, Working
with safe_streams():
    with Working("reading"):
        pass
    with Progress("checking", 4) as bar:
        bar.advance(2)
        print("a result")
        bar.advance(2)
"""
COLOUR, STEERING = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\x1b\[[0-9;?]*[A-Zhl]")
PLAIN = "checking 4 records\nchecking: all 4 in 0 s,"


def shown(environment: dict[str, str], *, terminal: bool) -> tuple[str, str]:
    """Return standard output, which is a pipe, and standard error, perhaps of a terminal."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    reader, writer = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=writer,
        env=plain | {"TERM": "xterm"} | environment,
    ) as process:
        os.close(writer)
        said = b""
        while True:
            try:
                part = os.read(reader, 1 << 16)
            except OSError:  # the terminal's other end has been closed
                part = b""
            if not part:
                break
            said += part
        assert process.stdout
        out = process.stdout.read().decode()
    os.close(reader)
    assert process.returncode == 0, said
    return out, said.decode().replace("\r\n", "\n")


def test_a_bar_with_colours_on_a_terminal() -> None:
    out, said = shown({}, terminal=True)
    assert out == "a result\n"  # in the pipe, not between the bar's lines
    assert "checking" in said
    assert "ETA" in said
    assert COLOUR.search(said)
    assert STEERING.search(said)
    assert PLAIN not in said


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_a_bar_without_colours_where_nobody_wants_them(environment) -> None:
    _, said = shown(environment, terminal=True)
    assert "ETA" in said
    assert not COLOUR.search(said)


@pytest.mark.parametrize(
    ("environment", "terminal"), [({}, False), ({"FORCE_COLOR": "1"}, False), ({"TERM": "dumb"}, True)]
)
def test_plain_lines_where_nothing_can_be_redrawn(environment, terminal) -> None:
    out, said = shown(environment, terminal=terminal)
    assert out == "a result\n"
    assert said.startswith(PLAIN)
    assert not STEERING.search(said)
    assert said.count("\n") == 2
