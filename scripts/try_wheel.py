"""Build the wheel as a release does, compare it with the source tree, and use it and its extras in a new environment.

    python scripts/try_wheel.py     # or: make wheel-test

The new environment holds the wheel alone. A .pth file leads it to the libraries of the environment that runs this
script, as torch alone has 5 GB. The openslip of that environment is not found so: an editable install is a .pth file
itself, and Python does not read those of a folder that a .pth file names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASK = "knn:scenes:test:24"
EXTRAS = ("datasets", "hdf5", "lora", "map", "onnx", "search", "serve", "tensorboard", "transformers", "xlsx")
"""Those of `dev`, which the environment that runs this script has."""
PROGRAM = f"""
import contextlib, io, json, pathlib, sys
import openpyxl
import openslip
from openslip.cli import main
from openslip.scenes import Scenes
from PIL import Image
assert pathlib.Path(openslip.__file__).is_relative_to(sys.prefix), openslip.__file__

told = io.StringIO()
with contextlib.redirect_stdout(told):
    assert main(["doctor", "--quick", "--json"]) == 0
extras = json.loads(told.getvalue())["extras"]
missing = {{name: extras[name]["missing"] for name in {EXTRAS} if extras[name]["missing"]}}
assert not missing, missing

sheet = openpyxl.Workbook()
sheet.active.append(["image", "caption"])
pathlib.Path("photos").mkdir()
for number, record in enumerate(Scenes("train", 160)):
    Image.fromarray(record.image).save(f"photos/{{number}}.png")
    sheet.active.append([f"photos/{{number}}.png", record.captions[0]])
sheet.save("pairs.xlsx")
train = ["train", "scenes-tiny", "--data.train", "scenes:train:32", "--data.workers", "0"]
short = ["--training.budget", "2 steps", "--training.batch", "16"]
for words in (
    [*train, *short, "--evaluation.tasks", "{TASK}", "--tracking.tensorboard", "--out", "run"],
    ["data", "check", "pairs.xlsx", "--processes", "1"],
    ["train", "finetune", "--init", "run", "--data.train", "pairs.xlsx", *short, "--data.workers", "0",
     "--model.text.lora", "2", "--out", "adapted"],
    ["export", "run", "--to", "onnx", "--out", "onnx"],
    ["embed", "run", "pairs.xlsx", "--out", "vectors", "--map"],
    ["search", "vectors", "a red car", "--where", "caption like '%a%'"],
    ["evaluate", "run", "zeroshot:scenes:test:24"],
    ["report", "run", "--out", "report.html"],
    ["ablate", "show", "scenes"],
    ["datasets", "show", "food101"],
):
    assert main(words) == 0, words
"""
"""Uses the package data (templates of the report, grids, cards), and what the extras bring."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="openslip-wheel-") as name:
        folder = Path(name)
        source, wheel = build(folder)
        for package, missing in ((source, left_out_of_source(source)), (wheel, left_out(wheel))):
            if missing:
                sys.exit(f"{package.name} lacks files of git: {', '.join(missing)}")
        loose = relative(wheel)
        if loose:
            sys.exit(f"the README in {wheel.name} has links that need the repository: {', '.join(loose)}")
        use(wheel, folder)
    print(f"{wheel.name}: built, complete, and it works")


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from that, as a release does; return their paths."""
    _call(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (source,), (wheel,) = folder.glob("openslip-*.tar.gz"), folder.glob("openslip-*.whl")
    return source, wheel


def left_out_of_source(source: Path) -> list[str]:
    """Return the files of git that the source distribution does not have."""
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return sorted(set(_call("git", "ls-files", cwd=ROOT).splitlines()) - names)


def left_out(wheel: Path) -> list[str]:
    """Return the files of git's src/openslip that the wheel does not have."""
    listed = _call("git", "ls-files", "openslip", cwd=ROOT / "src")
    with zipfile.ZipFile(wheel) as archive:
        return sorted(set(listed.splitlines()) - set(archive.namelist()))


def relative(wheel: Path) -> list[str]:
    """Return the links of the wheel's README that need the files beside README.md."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return re.findall(r"\]\((?!https?://|#)([^)]*)\)", archive.read(name).decode())


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
