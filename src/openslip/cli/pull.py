"""slip pull hf:owner/name [--out FOLDER]"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from openslip.cli.arguments import parse

DESCRIPTION = """Fetch a model from the Hugging Face hub: the files that slip needs, and the model card. No fetched file
is executed. With --out, the folder loads without a network; without it, the files are in the hub's cache."""
EXAMPLES = """\
slip pull hf:owner/name --out mine
    Fetch a model into a folder that loads without a network.
"""


@dataclass(frozen=True)
class Options:
    """Which model, and where it goes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf:OWNER/NAME")]
    """A repository of the hub, optionally with @ and a branch, tag or commit: hf:owner/name@v2."""
    out: Path | None = None
    """The folder to write, which must not exist yet."""


def main(argv: list[str]) -> None:
    """Fetch, and print what the model is and where its files are."""
    options = parse(Options, argv, prog="slip pull", description=DESCRIPTION, examples=EXAMPLES)

    from openslip.cli.output import listed_files
    from openslip.errors import printable
    from openslip.exports.pull import pull

    done = pull(options.model, options.out)
    for note in done.notes:
        print(printable(f"slip: {note}."), file=sys.stderr, flush=True)
    print(printable(f"{done.place}:\n{listed_files(done.files)}"))
    print(printable(done.what))
