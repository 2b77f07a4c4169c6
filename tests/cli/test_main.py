import subprocess
import sys

import pytest

from slip import toml
from slip.cli import COMMANDS, main
from slip.recipes import RECIPES, get


def test_help_names_every_command(capsys) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from slip.cli import main; main(['--help']); main(['recipes']);"
        "heavy = {'torch', 'numpy', 'timm', 'PIL', 'tyro', 'matplotlib', 'pyarrow', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_and_version() -> None:
    done = subprocess.run([sys.executable, "-m", "slip", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("openslip 0.")


def test_unknown_command(capsys) -> None:
    assert main(["trian"]) == 1
    assert "There is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


def test_recipes(capsys) -> None:
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)
    assert main(["recipes", "show", "small-data"]) == 0
    assert toml.loads(capsys.readouterr().out) == get("small-data")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "small-dat"], "Did you mean 'small-data'"),
        (["show"], "takes one recipe's name"),
        (["shwo"], "Did you mean 'show'"),
    ],
)
def test_recipes_wrong(argv, message, capsys) -> None:
    assert main(["recipes", *argv]) == 1
    assert message in capsys.readouterr().err
