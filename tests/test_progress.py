"""The bar and the lines in its place."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from openslip import progress
from openslip.progress import Bar, PlainLines, Progress, Working


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_without_a_total() -> None:
    console = screen()
    with Progress("reading", None, console=console) as bar:
        bar.advance(1500)
    assert "reading" in said(console)
    assert "1,500 " in said(console)
    assert " of " not in said(console)


def test_a_live_bar() -> None:
    console = screen()
    with Bar("reading [this]", 4000, done=1000, console=console) as bar:
        assert bar.live
        bar.update(done=2000, numbers="7 [/s]", title="writing [this]")
        bar.update(numbers="8/s")
    assert (bar.done, bar.title) == (2000, "writing [this]")
    assert "writing [this]" in said(console)
    assert "2,000 of 4,000 8/s" in said(console)


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_where_nobody_looks(shown: bool) -> None:
    console = screen() if not shown else Console(file=io.StringIO())
    with Bar("reading", 4000, console=console, shown=shown) as bar:
        assert not bar.live
        bar.update(done=2000)
    assert said(console).strip() == ""


def test_a_line_at_the_start_now_and_then_and_at_the_end_without_a_terminal(capsys, monkeypatch) -> None:
    bar = Progress("checking", 4000)
    assert capsys.readouterr().err == "checking 4,000 records\n"
    bar.advance(1000)
    assert capsys.readouterr().err == ""  # not at once
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", -1.0)
    bar.advance(1000)
    hidden = Progress("checking", 4000, shown=False)
    hidden.advance(10)
    hidden.close()
    assert capsys.readouterr().err.startswith("checking: 2,000 of 4,000, ")
    bar.advance(2000)
    bar.close()
    assert capsys.readouterr().err.startswith("checking: all 4,000 in ")


@pytest.mark.parametrize(
    ("environment", "live"), [({}, True), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1"}, False)]
)
def test_no_live_line_where_it_cannot_be_drawn(monkeypatch, environment: dict[str, str], live: bool) -> None:
    """FORCE_COLOR asks for colours in a file, not for a cursor that moves in it."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console = screen()
    with Bar("reading", 4000, console=console) as bar:
        assert bar.live == live
        bar.update(done=2000)
    assert bool(said(console)) == live


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_bar_where_it_has_widgets(monkeypatch, widgets: bool) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: name if widgets else None)
    assert progress.redraws(Console(force_jupyter=True)) is widgets


def test_lines_in_a_log_are_few_and_none_on_a_terminal() -> None:
    log, live = Console(file=io.StringIO()), screen()
    for console in (log, live):
        lines = PlainLines(console)
        lines.print("one [here]")
        lines.print("two")
    assert said(log) == "one [here]\n"
    assert said(live) == ""


def test_work_that_cannot_be_counted_has_a_live_line() -> None:
    console = screen()
    with Working("reading [this]", console=console):
        pass
    assert "reading [this]" in said(console)


def test_a_bar_takes_the_place_of_work_that_cannot_be_counted() -> None:
    """Two live lines would write over each other."""
    console = screen()
    with Working("reading", console=console) as work:
        assert work._progress.live.is_started
        with Bar("fetching", 10, console=screen()) as bar:
            assert not work._progress.live.is_started
            assert bar.live


def test_long_work_is_told_in_lines_without_a_terminal(capsys, monkeypatch) -> None:
    with Working("reading"):
        pass
    assert capsys.readouterr().err == ""  # it was short
    monkeypatch.setattr(progress, "WORKING_SECONDS", 0.01)
    told, said = threading.Event(), list[str]()
    monkeypatch.setattr(progress, "print_text", lambda _, text: (said.append(text), told.set()))
    with Working("reading"):
        assert told.wait(30)
    assert said == ["reading: 0 s so far"]
    with Working("hidden", shown=False) as work:
        assert not work._ended.wait(0.05)
    assert len(said) == 1


def test_what_is_printed_under_a_bar_goes_where_standard_output_goes(monkeypatch) -> None:
    """As in `slip classify … > labels.csv`: the bar is on the terminal, the answers are in the file."""
    file, console = io.StringIO(), screen()
    monkeypatch.setattr("sys.stdout", file)
    with Bar("classifying", 10, console=console) as bar:
        assert bar.live
        print("a.jpg,cat")
    assert file.getvalue() == "a.jpg,cat\n"
    assert "a.jpg" not in said(console)
