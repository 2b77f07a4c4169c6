"""slip data check|convert|show SOURCE, slip data metadata TABLE OUT.parquet: one thin module each."""

from __future__ import annotations

import importlib

from openslip.cli import listed
from openslip.cli.help import examples_text

COMMANDS = {
    "check": "read everything; say what is damaged, odd or twice, and whether it can be trained on",
    "convert": "write it as WebDataset tar shards, shrunk if you like",
    "show": "draw a contact sheet: pictures, captions, and the views that the model will see",
    "metadata": "make the Parquet metadata of YFCC15M from a pickle or from YFCC100M's own table",
}


EXAMPLES = """\
slip data show 'shards/train-*.tar'
    Look at pictures, captions and views.
slip data check 'shards/train-*.tar'
    Find what is damaged, odd or twice.
slip data convert pairs.csv shards
    Write them as tar shards.
"""


def main(argv: list[str]) -> int:
    """Run one of the four and return the exit status."""
    match argv:
        case [] | ["-h" | "--help" | "--help-all" | "help"]:
            print(usage())
            return 0
        case ["help", *rest]:
            return main([*rest, "--help"])
        case [command, *rest] if command in COMMANDS:
            return importlib.import_module(f"openslip.cli.data.{command}").main(rest) or 0
    from openslip.cli import hints

    raise hints.unknown_command(argv[0], COMMANDS, hints.DATA, "slip data")


def usage() -> str:
    """Return the text of `slip data --help`."""
    return (
        "usage: slip data COMMAND ...\n\n"
        "Look at your pictures and captions before training on them.\n\n"
        f"{listed(COMMANDS)}\n\n"
        f"{examples_text(EXAMPLES)}\n\n"
        "`slip data COMMAND --help` describes a command's options."
    )
