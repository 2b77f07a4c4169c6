"""slip consolidate MODEL [--out FILE]"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse


@dataclass(frozen=True)
class Options:
    """Whose weights, and where they go."""

    model: Annotated[Path, tyro.conf.Positional]
    """What `openslip.load` takes: a run folder, one of its checkpoint folders, or a released SLIP .pt file."""
    out: Path = Path("model.safetensors")
    """The file to write."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""


def main(argv: list[str]) -> None:
    """Read all parts, write one file."""
    options = parse(
        Options,
        argv,
        prog="slip consolidate",
        description="Write a model's weights to one safetensors file: whole tensors under PyTorch's names for them. "
        "Its header holds the model's configuration, so that `openslip.load` and `slip evaluate` take the file alone.",
    )
    idle.which(given(Options, argv), options.model)

    from openslip.errors import CheckpointError, printable
    from openslip.files import whole_or_not
    from openslip.interop import load
    from openslip.training.saving import metadata
    from openslip.training.saving.tensors import write_tensors

    if os.path.isfile(options.out.parent / "state.json"):
        raise CheckpointError(
            "The weights would be written into a checkpoint",
            got=str(options.out),
            fix="Name another file with --out",
        )
    encoder = load(options.model, which=options.which)
    weights = encoder.model.state_dict()
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not(options.out) as file:  # not by its bytes, which would be in memory a second time
            write_tensors(Path(file.name), weights, None, metadata.describe(encoder.config))
    except OSError as error:
        raise CheckpointError(
            "The weights could not be written", got=str(options.out), cause=error.strerror or str(error)
        ) from None
    count = sum(tensor.numel() for tensor in weights.values())
    print(printable(f"wrote {count:,} numbers to {options.out}"))
