"""What `--help` prints: examples that can be run, the options that matter first, and every option on demand."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from contextlib import suppress

import pytest

from accepted import is_accepted
from openslip import cli
from openslip.cli import data, main
from openslip.cli.described import options
from openslip.cli.help import command_lines, help_text

WORDS = (
    [(name,) for name in cli.COMMANDS] + [("data", name) for name in data.COMMANDS] + [("evaluate", "suite")]
)
"""Every command."""


def module_of(words: tuple[str, ...]):
    return importlib.import_module(f"openslip.cli.{'suite' if words[-1] == 'suite' else '.'.join(words)}")


def shown(words: tuple[str, ...], capsys) -> str:
    """Return what a command prints about itself."""
    with suppress(SystemExit):
        main([*words])
    return capsys.readouterr().out


EXAMPLES = [
    pytest.param(words, line, id=line)
    for words, text in [((), cli.EXAMPLES), *((words, module_of(words).EXAMPLES) for words in WORDS)]
    for line in command_lines(text)
]


@pytest.mark.parametrize(("words", "line"), EXAMPLES)
def test_every_example_is_a_command_line_that_works(words, line, tmp_path, monkeypatch) -> None:
    """As far as the real parser, and what else a command checks before it opens anything."""
    monkeypatch.chdir(tmp_path)
    assert tuple(shlex.split(line)[1:][: len(words)]) == words
    assert is_accepted(line, monkeypatch)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_command_has_examples_and_they_are_shown(words, capsys) -> None:
    text = module_of(words).EXAMPLES
    assert 1 <= len(command_lines(text)) <= 4
    printed = shown((*words, "--help"), capsys)
    for line in command_lines(text):
        assert f"\n  {line}\n" in printed


def test_train_shows_what_matters_first(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    few, every = shown(("train", "--help"), capsys), shown(("train", "--help-all"), capsys)
    assert len(few.splitlines()) < 70
    assert len(re.findall("^  --", few, re.MULTILINE)) <= 15
    assert len(re.findall("^  --", every, re.MULTILINE)) > 120
    assert "--objective.simclr.temperature" in every
    assert "`slip train RECIPE --help-all` shows every option." in few


@pytest.mark.parametrize("words", [("train",), ("train", "small-data"), ("embed",), ("data", "check")])
def test_help_comes_at_once(words) -> None:
    code = (
        f"import sys; from openslip.cli import main\ntry: main({[*words, '--help']})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'rich', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: slip {words[0]}")


@pytest.mark.parametrize(
    "words", [words for words in WORDS if words not in (("data",), ("recipes",))], ids=" ".join
)
def test_every_option_says_what_it_is_for(words) -> None:
    """But for those that say so by their name and values."""
    plain = {
        "device",
        "seed",
        "title",
        "training.seed",
        "training.device",
        "training.epochs",
        "training.compile",
    }
    silent = {one.name for one in options(module_of(words).Options) if not one.text} - plain
    assert not {name for name in silent if "." not in name}


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(columns, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(("data", "convert", "--help"), capsys).splitlines()
    texts = [line for line in lines if line.startswith(" " * 26)]
    assert max(map(len, texts)) <= min(110, max(columns, 46))


def test_what_is_wrong_with_a_default_is_not_shown() -> None:
    """An option that may be left out has no default to name where nothing, or no, is what it is."""
    from openslip.cli.compare import Options

    text = help_text(options(Options), prog="x", description="", examples="")
    assert "(default: table)" in text
    assert "None" not in text
    assert "False" not in text
    assert "--out PATH" in text
    assert "usage: x MODEL ... [OPTION ...]" in text
