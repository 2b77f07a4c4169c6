"""The notebooks have no outputs, and run from the first cell to the last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMALL = 'SCENES, TEST, BUDGET = 96, 24, "2 steps"'
"""What takes the place of the cell that is tagged `parameters`."""


def cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    assert sum(cell["metadata"].get("tags") == ["parameters"] for cell in cells(path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """In a process of its own, whose main module has no file, as that of a notebook has none."""
    small = [SMALL if "tags" in cell["metadata"] else "".join(cell["source"]) for cell in cells(path)]
    code = "import sys; sys.path.insert(0, '')\n" + "\n".join(small)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
