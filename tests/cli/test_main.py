import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import openslip
from openslip import objectives, toml
from openslip.cli import COMMANDS, STATUSES, main
from openslip.recipes import RECIPES, get


def test_help_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from openslip.cli import main; main(['--help']); main(['recipes']);"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'tyro', 'matplotlib', 'pyarrow', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_and_version() -> None:
    done = subprocess.run([sys.executable, "-m", "openslip", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("openslip 0.")
    assert done.stdout.split()[1] == openslip.__version__ == metadata.version("openslip")


def test_two_names_of_one_command() -> None:
    """The index has another `slip`: whoever has both installed still has `openslip`."""
    scripts = {script.name: script.value for script in metadata.entry_points(group="console_scripts")}
    assert scripts["openslip"] == scripts["slip"] == "openslip.__main__:run"


def test_recipes(capsys) -> None:
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)
    assert main(["recipes", "show", "small-data"]) == 0
    shown, recipe = toml.loads(capsys.readouterr().out), get("small-data")
    complete = objectives.complete(recipe.objective)
    assert replace(shown, objective=objectives.complete(shown.objective)) == replace(
        recipe, objective=complete
    )
    left_out = {
        (name, key)
        for name, own in complete.options.items()
        for key in own.keys() - shown.objective.options[name].keys()
    }
    assert left_out == {("clip", "positives")}  # which follows from the data


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "small-dat"], "Did you mean 'small-data'"),
        (["show"], "takes one recipe's name"),
        (["show", "small-data", "--training.epochs", "3"], "slip train small-data --training.epochs"),
        (["small-data"], "`slip recipes show small-data` prints it"),
        (["shwo"], "Did you mean 'show'"),
    ],
)
def test_recipes_wrong(argv, message, capsys) -> None:
    assert main(["recipes", *argv]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["-h"], ["help"], ["recipes", "--help"], ["recipes", "show", "-h"], ["help", "recipes"]]
)
def test_help_is_where_it_is_looked_for(words, capsys) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("usage: slip ")


def test_help_of_a_command_by_its_name(capsys) -> None:
    for words, usage in (["report"], "slip report"), (["data", "check"], "slip data check"):
        with pytest.raises(SystemExit):
            main(["help", *words])
        assert capsys.readouterr().out.startswith(f"usage: {usage} ")
    assert main(["data", "help"]) == 0
    assert "\n  convert " in capsys.readouterr().out


@pytest.mark.parametrize("columns", [20, 40, 80, 300])
def test_help_fits_the_terminal(columns, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in [["--help"], ["data"]]:
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        texts = [line for line in lines if line.startswith("  ") and not line.startswith("  slip ")]
        assert max(map(len, texts)) <= max(columns, 46)


def test_statuses_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/command-line.md").read_text(encoding="utf-8")
    for status, meaning in STATUSES.items():
        assert f"| {status} | {meaning} |" in page
