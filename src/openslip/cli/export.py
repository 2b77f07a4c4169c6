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
folder takes its place, that library loads the model, and its embeddings are compared with slip's."""


OF_FORMATS = ("fp16", "layout")
"""Options that only some formats have; other formats refuse them."""
EXAMPLES = """\
slip export runs/mine --to huggingface --out mine-hf
    Write a folder for transformers.
slip export runs/mine --to onnx --out mine-onnx --fp16
    Write graphs for programs without torch, in half precision.
"""


@dataclass(frozen=True)
class Options:
    """Which model, in which format, and where it goes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """What `openslip.load` takes: a run folder, a checkpoint folder, a file of weights, a released SLIP .pt file, or a
    public model such as open_clip:NAME/TAG; or a finetuned classifier, RUN/finetune/NAME."""
    to: Literal["open_clip", "timm", "huggingface", "openslip", "reference", "onnx", "torch_export"]
    """open_clip: a folder for `local-dir:` or a repository of the hub. timm: the image tower alone, a folder.
    huggingface: a folder for transformers. openslip: a folder with one file for `openslip.load`. reference: a .pt file
    of the SLIP paper's code. onnx: a folder for programs without torch. torch_export: a folder for programs with torch
    but without slip."""
    out: Path
    """The folder or file to write, which must not exist yet."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    license: str = ""
    """The licence that the card of a folder names, by its identifier on the hub: mit, apache-2.0, cc-by-4.0, …"""
    notes: Path | None = None
    """A file with Markdown text for the beginning of the card: what the model is for, who made it."""
    fp16: bool = False
    """onnx: weights and arithmetic in half precision, which halves the files."""
    layout: Literal["plain", "immich", "rclip"] = "plain"
    """onnx: files and names as a program expects them. immich: the model cache of Immich. rclip: rclip's data
    folder."""


def main(argv: list[str]) -> None:
    """Export, and print how close the library comes and how it loads the model."""
    options = parse(Options, argv, prog="slip export", description=DESCRIPTION, examples=EXAMPLES)
    chosen = given(Options, argv)
    idle.which(chosen, Path(options.model))
    if options.to == "reference":
        refuse_idle(chosen, "license", "notes", because="Only folders have a card")

    from openslip.errors import printable
    from openslip.exports import export
    from openslip.progress import Working

    with Working(f"exporting {options.model} to {options.to}"):
        done = export(
            options.model,
            options.to,
            options.out,
            which=options.which,
            license=options.license,
            notes=options.notes,
            **{name: getattr(options, name) for name in OF_FORMATS if name in chosen},
        )
    for note in done.notes:
        print(printable(f"slip: {note}."), file=sys.stderr, flush=True)
    print(printable(f"wrote {done.place}: {done.trial.described()}"))
    print(f"\n{done.usage}")
