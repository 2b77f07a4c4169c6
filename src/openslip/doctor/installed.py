"""Which packages are installed, which extras lack some, and which program the command `slip` starts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OURS = "openslip"
PURPOSES = {
    "tensorboard": "a run's metrics as event files, `--tracking.tensorboard`",
    "wandb": "a run's metrics at Weights & Biases, `--tracking.wandb PROJECT`",
    "trackio": "a run's metrics in trackio, `--tracking.trackio PROJECT`",
    "datasets": "data sets of the Hugging Face hub, `--data.train hf:owner/name`",
    "xlsx": "tables in .xlsx files",
    "hdf5": "labelled pictures in HDF5 files",
    "transformers": "models of transformers, `--init hf:owner/name` and `slip export --to huggingface`",
    "lora": "adapters, `--model.image.lora 16`",
    "onnx": "`slip export --to onnx`",
    "search": "conditions and graphs, `slip search --where` and `--index hnsw`",
    "mteb": "the MIEB benchmark, `slip evaluate MODEL mieb:lite`",
    "map": "UMAP maps, `slip embed --map`",
    "serve": "`slip serve`",
}
"""Extra → what it is for. Extras for developers of the project are not listed."""
_REQUIREMENT = re.compile(r"""^([\w.-]+)(?:\[[^]]*\])?([^;]*)(?:;.*\bextra == ['"]([\w-]+)['"])?""")


@dataclass(frozen=True)
class Package:
    """A required package. version: the installed version, None if the package is missing."""

    name: str
    required: str
    version: str | None


@dataclass(frozen=True)
class Extra:
    """An extra of the distribution. missing: names of its packages that are not installed."""

    name: str
    purpose: str
    missing: tuple[str, ...]

    @property
    def install(self) -> str:
        return f"pip install '{OURS}[{self.name}]'"


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages() -> list[Package]:
    """Return the packages that openslip requires without any extra, in the order of its metadata.

    Raises importlib.metadata.PackageNotFoundError if openslip is a folder of files and not an installed distribution.
    """
    return [Package(name, wanted, version_of(name)) for name, wanted, extra in _required() if not extra]


def extras() -> list[Extra]:
    """Return the extras for users, in the order of the metadata. Raises as `packages` does."""
    found: dict[str, list[str]] = {}
    for name, _, extra in _required():
        if extra in PURPOSES:
            found.setdefault(extra, []).append(name)
    return [
        Extra(extra, PURPOSES[extra], tuple(name for name in names if version_of(name) is None))
        for extra, names in found.items()
    ]


def _required() -> list[tuple[str, str, str]]:
    """Return (name, versions, extra) of every requirement; extra is "" for what is always required."""
    found = (_REQUIREMENT.match(line) for line in metadata.requires(OURS) or ())
    return [(one[1], one[2].strip(), one[3] or "") for one in found if one]


def program() -> str | None:
    """Return the path of the program that the command `slip` starts, None if there is no such program."""
    return shutil.which("slip")


def shadows(path: str | None, scripts: Iterable[metadata.EntryPoint] | None = None) -> list[str]:
    """Return a sentence for everything else that is called `slip`; empty if only openslip has the name.

    path: the program that the command starts. scripts: commands of distributions; by default the installed ones.
    """
    lines = []
    if path is not None and not _is_ours(Path(path)):
        lines.append(f"The command `slip` starts another program, {path}")
    if scripts is None:
        scripts = metadata.entry_points(group="console_scripts", name="slip")
    others = {script.dist.name for script in scripts if script.dist and script.dist.name != OURS}
    lines += [f"The package {name} has a command called `slip` as well" for name in sorted(others)]
    if version_of("slip") is not None and "slip" not in others:
        lines.append("The package slip is installed, which is another project; this one is called openslip")
    return lines


def _is_ours(path: Path) -> bool:
    """Return whether pip made this program for openslip: a script, or a launcher that contains a script."""
    try:
        return OURS.encode() in path.read_bytes()[-1_000_000:]
    except OSError:
        return True  # nothing speaks against it
