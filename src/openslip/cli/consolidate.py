"""slip consolidate MODEL [--out FILE]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse

EXAMPLES = """\
slip consolidate runs/mine --out mine.safetensors
    Write the weights of a run to one file.
"""


@dataclass(frozen=True)
class Options:
    """Whose weights, and where they go."""

    model: Annotated[Path, tyro.conf.Positional]
    """What `openslip.load` takes: a run folder, one of its checkpoint folders, a released SLIP .pt file, or a model of
    open_clip (`open_clip:NAME/TAG`), the hub (`hf:owner/name`) or timm (`timm:NAME`)."""
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
        examples=EXAMPLES,
        description="Write a model's weights to one safetensors file: whole tensors under their PyTorch names. The "
        "header holds the model's configuration, so `openslip.load` and `slip evaluate` need nothing but the file.",
    )
    idle.which(given(Options, argv), options.model)

    from openslip.errors import printable
    from openslip.interop import load
    from openslip.progress import Working
    from openslip.training.saving import metadata

    metadata.check_place(options.out)
    with Working(f"reading {options.model}"):
        encoder = load(options.model, which=options.which)
    weights = encoder.model.state_dict()
    with Working(f"writing {options.out}"):
        metadata.write_model(options.out, weights, encoder.config)
    count = sum(tensor.numel() for tensor in weights.values())
    print(printable(f"wrote {count:,} numbers to {options.out}"))
