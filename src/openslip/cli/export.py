"""slip export MODEL --to FORMAT --out PLACE"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse, refuse_idle

DESCRIPTION = """Write a model as another library reads it, with its preprocessing and tokenizer. Before the file or
folder takes its place, that library loads the model, and gives embeddings that are compared with slip's."""


@dataclass(frozen=True)
class Options:
    """Which model, in which format, and where it goes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """What `openslip.load` takes: a run folder, a checkpoint folder, a file of weights, a released SLIP .pt file, or a
    public model such as open_clip:NAME/TAG."""
    to: Literal["open_clip", "timm", "huggingface", "openslip", "reference"]
    """open_clip: a folder for `local-dir:` or a repository of the hub. timm: the image tower alone, a folder.
    huggingface: a folder for transformers. openslip: a folder with one file for `openslip.load`. reference: a .pt file
    of the SLIP paper's code."""
    out: Path
    """The folder or file to write, which must not be there yet."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    license: str = ""
    """The licence that the card of a folder names, by its identifier on the hub: mit, apache-2.0, cc-by-4.0, …"""
    notes: Path | None = None
    """A file with text in Markdown that the card begins with: what the model is for, who made it."""


def main(argv: list[str]) -> None:
    """Export, say how close the library comes, and how it loads the model."""
    options = parse(Options, argv, prog="slip export", description=DESCRIPTION)
    idle.which(given(Options, argv), Path(options.model))
    if options.to == "reference":
        refuse_idle(given(Options, argv), "license", "notes", because="A card is written into folders alone")

    from openslip.errors import printable
    from openslip.export import export

    done = export(
        options.model,
        options.to,
        options.out,
        which=options.which,
        license=options.license,
        notes=options.notes,
    )
    for note in done.notes:
        print(printable(f"slip: {note}."), file=sys.stderr, flush=True)
    print(printable(f"wrote {done.place}: {done.trial.described()}"))
    print(f"\n{done.usage}")
