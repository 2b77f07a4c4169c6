"""What is told about the words of a command line before they are parsed."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from openslip import cli
from openslip.cli import data, main
from openslip.cli.arguments import by_spelling, given, parse, take_option
from openslip.config import Config
from openslip.errors import ConfigError, UsageError

TYRO = [(name,) for name in (*cli.COMMANDS, "suite") if name not in ("data", "recipes")]
TYRO += [("data", name) for name in data.COMMANDS]
"""The commands whose words tyro parses, as modules of `cli`."""


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


@dataclass(frozen=True)
class Inner:
    """A section."""

    root: str = ""
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Everything:
    """What options there can be."""

    inner: Inner = Inner()
    image_root: Annotated[str, tyro.conf.arg(aliases=["--inner.image-root"])] = ""
    number: float = 0.0
    tasks: tuple[str, ...] = ()
    flag: bool = False


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--number 1 --number 2", "--number 1 and --number 2"),
        ("--number=1 --number 1", "--number=1 and --number 1"),
        ("--number -1 --number -2", "--number -1 and --number -2"),
        ("--image-root a --image_root b", "--image-root a and --image_root b"),
        ("--image-root a --inner.image-root b", "--image-root a and --inner.image-root b"),
        ("--inner.image_root=a --image-root b", "--inner.image_root=a and --image-root b"),
        ("--tasks a b --flag --tasks c", "--tasks a b and --tasks c"),
        ("--inner.paths a --inner.paths b", "--inner.paths a and --inner.paths b"),
    ],
)
def test_an_option_given_twice_is_refused(argv, said):
    with pytest.raises(UsageError, match="is given twice") as error:
        parse(Everything, argv.split(), prog="x")
    assert error.value.got == said


def test_a_flag_means_the_same_twice():
    assert parse(Everything, ["--flag", "--number", "1", "--flag"], prog="x").flag


def test_values_are_no_options():
    options = parse(
        Everything, ["--image-root=--number", "--number", "3", "--inner.root=--number=4"], prog="x"
    )
    assert (options.image_root, options.number, options.inner.root) == ("--number", 3, "--number=4")


def test_which_options_were_given():
    argv = ["--inner.image_root", "a", "--tasks=a", "--inner.root", "--flag", "--other", "--", "--number"]
    assert given(Everything, argv) == {"image_root", "tasks", "inner.root", "flag"}
    assert given(Options, ["a", "--against", "b", "c"]) == {"against"}


@pytest.mark.parametrize("words", TYRO, ids=" ".join)
def test_options_are_called_as_the_parser_calls_them(words, capsys, monkeypatch):
    """The names are derived anew, since tyro has no public way to ask for them."""
    module = importlib.import_module(f"openslip.cli.{'.'.join(words)}")
    options = module.accepted(Config()) if words == ("train",) else module.Options
    monkeypatch.setenv("COLUMNS", "100")  # a single column of options
    with pytest.raises(SystemExit):
        tyro.cli(options, args=["--help"], prog="x", config=(tyro.conf.FlagCreatePairsOff,))
    lines = re.findall("^[│ ] {1,2}(?:-h, )?(--.*?)  ", capsys.readouterr().out, re.MULTILINE)
    shown = {name for line in lines for name in re.findall("--[a-z][a-z0-9._-]+", line)}
    assert shown == {*by_spelling(options), "--help"}


def test_taking_an_option_off():
    assert take_option(["a", "--config", "b", "c"], "--config") == ("b", ["a", "c"])
    assert take_option(["a", "--config=b"], "--config") == ("b", ["a"])
    for argv in (["--config"], ["--config", "--out", "x"], ["--config", "a", "--config=b"]):
        with pytest.raises(UsageError):
            take_option(argv, "--config")
