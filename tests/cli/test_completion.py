"""What a shell completes after `slip`, asked of the shells themselves where they are here."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from openslip import cli
from openslip.cli import data, main
from openslip.cli.completion import SHELLS, bash, commands, fish, zsh
from openslip.recipes import RECIPES

COMMANDS = commands()
BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("completion") / "slip.bash"
    path.write_text(bash(COMMANDS), encoding="utf-8")
    return str(path)


def completed(script: str, line: str) -> list[str]:
    """Return what bash offers for the last word of a line, which may be empty: bash splits words at `=`, too."""
    words = line.replace("=", " = ").split(" ")
    ask = (
        f"source {shlex.quote(script)}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f"COMP_CWORD={len(words) - 1}; _slip; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    assert BASH
    done = subprocess.run([BASH, "--norc", "-u", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("slip ", {*cli.COMMANDS, "help", "--help", "--version"}),
        ("slip tr", {"train"}),
        ("slip data ", {*data.COMMANDS}),
        ("slip data conv", {"convert"}),
        ("slip train sma", {name for name in RECIPES if name.startswith("sma")}),
        ("slip recipes show lit", {"lit"}),
        ("slip embed m p --prec", {"--precision"}),
        ("slip embed m p --precision ", {"auto", "fp32", "bf16", "fp16"}),
        ("slip embed m p --precision=b", {"bf16"}),
        ("slip embed m p --precision=", {"auto", "fp32", "bf16", "fp16"}),
        ("slip embed m p --out ", set()),  # then bash offers files
        ("slip evaluate suite x --se", {"--sets"}),
        ("slip evaluate x knn:y --agai", {"--against"}),
        ("slip train small-data --training.dev", {"--training.device"}),
        ("slip train small-data --training.device c", {"cpu", "cuda"}),
        ("slip nothing ", {*cli.COMMANDS, "help", "--help", "--version"}),
    ],
)
def test_bash(script, line, expected) -> None:
    assert {*completed(script, line)} == expected


@pytest.mark.skipif(BASH is None, reason="no bash here")
def test_bash_knows_every_option_of_every_command(script) -> None:
    for command in COMMANDS:
        offered = {*completed(script, f"slip {command.name} --")}
        assert offered == {
            *(spelling for option in command.options for spelling in option.spellings), "--help", "--help-all"
        }, command.name  # fmt: skip


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_its_script() -> None:
    subprocess.run(["zsh", "-f", "-n"], input=zsh(COMMANDS), text=True, check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes(tmp_path) -> None:
    (tmp_path / "slip.fish").write_text(fish(COMMANDS), encoding="utf-8")
    ask = f"source {tmp_path / 'slip.fish'}; complete -C 'slip embed m p --prec'"
    done = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "--precision"


def test_fish_has_a_line_for_every_option() -> None:
    """Each line is words of a shell, and names an option as it is spelled."""
    lines = [shlex.split(line) for line in fish(COMMANDS).splitlines() if line[:1] != "#"]
    assert all(words[:2] == ["complete", "-c"] for words in lines)
    spelled = {words[words.index("-l") + 1] for words in lines if "-l" in words}
    for command in COMMANDS:
        for option in command.options:
            assert {spelling[2:] for spelling in option.spellings} <= spelled


def test_printing_it_is_quick() -> None:
    code = (
        "import sys; from openslip.cli import main; status = main(['--print-completion', 'bash']);"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'rich', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == bash(COMMANDS)


def test_how_and_what_is_wrong(capsys) -> None:
    assert main(["--print-completion", "--help"]) == 0
    how = capsys.readouterr().out
    assert all(shell in how for shell in SHELLS)
    assert main(["--print-completion"]) == 2
    assert main(["--print-completion", "fisch"]) == 2
    assert "Did you mean 'fish'" in capsys.readouterr().err
