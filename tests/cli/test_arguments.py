"""What is told about the words of a command line before they are parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from slip.cli import main
from slip.cli.arguments import parse
from slip.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Two words and an option."""

    source: Annotated[str, tyro.conf.Positional] = ""
    folder: Annotated[Path, tyro.conf.Positional] = Path("out")
    against: str = ""


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "s/0.tar",
        "s/1.tar",
        "s/2.tar",
        "t [1]/0.tar",
        "t [1]/x.csv",
        "u/a-1.csv",
        "u/a-2.csv",
        "u/b.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["s/0.tar", "s/1.tar", "s/2.tar"], "s/*.tar"),
        (["--against", "s/0.tar", "s/1.tar", "s/2.tar"], "s/*.tar"),
        (["s/0.tar", "s/1.tar", "s/2.tar", "shards"], "s/*.tar"),
        (["s/0.tar", "t [1]/0.tar"], "*/0.tar"),
        (["u/a-1.csv", "u/a-2.csv"], "u/a-*.csv"),
        (["s/0.tar", "s/2.tar"], "s/{0,2}.tar"),
        (["u/a-1.csv", "u/a-2.csv", "u/b.csv"], "u/*.csv"),
    ],
)
def test_an_expanded_pattern_is_named(argv, pattern):
    with pytest.raises(ConfigError, match="shell has put") as error:
        parse(Options, argv, prog="x")
    assert error.value.fix == f"Put it in quotes: {pattern!r}"


@pytest.mark.parametrize(
    "argv",
    [
        ["s/0.tar"],
        ["s/0.tar", "--against", "s/1.tar"],
        ["s/0.tar", "t [1]/x.csv"],
        ["s/*.tar", "out"],
        ["runs/a", "runs/b"],
        ["--against", "s/0.tar", "s/1.tar"],
        ["s", "u"],
        ["a.tar", "b.tar"],  # are not there
    ],
)
def test_other_words_are_let_through(argv):
    parse(Options, argv, prog="x")


@pytest.mark.parametrize(
    "command", [["data", "check"], ["data", "convert"], ["train", "small-data", "--data.train"]]
)
def test_commands_say_so(command, capsys):
    assert main([*command, "s/0.tar", "s/1.tar"]) == 1
    assert "Put it in quotes" in capsys.readouterr().err
