"""Build the wheel, compare what is in it with the source tree, and use it in a new environment; `make wheel-test`.

    python scripts/try_wheel.py

The new environment holds the wheel alone. A .pth file leads it to the libraries of the environment that runs this
script, as torch alone has 5 GB. The openslip of that environment is not found so: an editable install is a .pth file
itself, and Python does not read those of a folder that a .pth file names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASK = "knn:scenes:test:24"
PROGRAM = f"""
import pathlib, sys
import openslip
from openslip.cli import main
assert pathlib.Path(openslip.__file__).is_relative_to(sys.prefix), openslip.__file__
train = ["train", "scenes-tiny", "--data.train", "scenes:train:32", "--data.workers", "0"]
short = ["--training.budget", "2 steps", "--training.batch", "16"]
for words in (
    [*train, *short, "--evaluation.tasks", "{TASK}", "--out", "run"],
    ["evaluate", "run", "zeroshot:scenes:test:24"],
    ["report", "run", "--out", "report.html"],
    ["ablate", "show", "scenes"],
    ["datasets", "show", "food101"],
):
    assert main(words) == 0, words
"""
"""Uses the package data: templates of the report, grids, cards."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="openslip-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        missing = left_out(wheel)
        if missing:
            sys.exit(f"{wheel.name} lacks files of src/openslip: {', '.join(missing)}")
        use(wheel, folder)
    print(f"{wheel.name}: built, complete, and it works")


def build(folder: Path) -> Path:
    """Build the wheel as pip does, in an environment of its own, and return its path."""
    _call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("openslip-*.whl")
    return wheel


def left_out(wheel: Path) -> list[str]:
    """Return the files of git's src/openslip that the wheel does not have."""
    listed = subprocess.run(
        ["git", "ls-files", "openslip"], cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(wheel) as archive:
        return sorted(set(listed.stdout.splitlines()) - set(archive.namelist()))


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment; train, measure and report with it, far from the source tree."""
    environment = folder / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    _call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", wheel)
    own = _call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    Path(own.strip(), "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    work = folder / "work"
    work.mkdir()
    told = _call(environment / "bin" / "slip", "--version", cwd=work).split()[1]
    if f"openslip-{told}-" not in wheel.name:
        sys.exit(f"slip --version says {told}, the wheel is {wheel.name}")
    _call(environment / "bin" / "slip", "--help", cwd=work)
    _call(python, "-c", PROGRAM, cwd=work)


def _call(*words: str | Path, cwd: Path | None = None) -> str:
    """Return what a command prints; ends this program with its output where it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
