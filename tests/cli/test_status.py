"""The exit status of a command, as docs/command-line.md has it. Signals and closed pipes are tested elsewhere."""

from __future__ import annotations

import pytest

from openslip.cli import main


def status(words: list[str]) -> int:
    """Return what a command ends with; the parser ends the process."""
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--help",
        "--version",
        "recipes",
        "data",
        "embed --help",
        "data check --help-all",
        "datasets show food101",
    ],
)
def test_done(words) -> None:
    assert status(words.split()) == 0


@pytest.mark.parametrize(
    "words",
    [
        "recipes show nothing",
        "datasets show nothing",
        "train nothing --data.train x.csv",
        "train small-data --data.train nowhere.csv",
        "train small-data --data.train scenes --training.batch 0",
        "data check nowhere.csv",
        "embed nowhere photos --out vectors",
        "search nowhere cat",
        "compare nowhere elsewhere",
        "report nowhere",
        "consolidate nowhere",
    ],
)
def test_an_error(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(words.split()) == 1
    said = capsys.readouterr().err
    assert said.startswith("slip: ")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        "nothing",
        "--nothing",
        "data nothing",
        "embed",  # two words and an option are missing
        "embed model photos --out vectors --nothing 3",
        "embed model photos --out vectors --batch many",
        "embed model photos --out vectors --device gpu",
        "embed model photos --out a --out b",
        "train",
        "train small-data",
        "train small-data --data.train x.csv --epochs 3",
        "train small-data --data.train x.csv --objective.loss clip --views.ssl.blur 0.5",  # without effect
        "evaluate run",
        "recipes show",
        "search vectors",
        "--print-completion",
        "--print-completion tcsh",
        "doctor --slow",
    ],
)
def test_a_wrong_command_line(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(words.split()) == 2
    printed = capsys.readouterr()
    assert printed.err
    assert "Traceback" not in printed.err
