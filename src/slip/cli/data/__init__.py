"""slip data check|convert|show SOURCE, slip data metadata TABLE OUT.parquet: one thin module each."""

from __future__ import annotations

import importlib

from slip.errors import ConfigError, did_you_mean

COMMANDS = {
    "check": "read everything; say what is damaged, odd or twice, and whether it can be trained on",
    "convert": "write it as WebDataset tar shards, shrunk if you like",
    "show": "draw a contact sheet: pictures, captions, and the views that the model will see",
    "metadata": "make the Parquet metadata of YFCC15M from a pickle or from YFCC100M's own table",
}


def main(argv: list[str]) -> int:
    """Run one of the four and return the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in COMMANDS:
        raise ConfigError(f"`slip data` does not know {argv[0]!r}", fix=did_you_mean(argv[0], COMMANDS))
    return importlib.import_module(f"slip.cli.data.{argv[0]}").main(argv[1:]) or 0


def usage() -> str:
    """Return the text of `slip data --help`."""
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return (
        "usage: slip data COMMAND ...\n\n"
        "Look at your pictures and captions before training on them.\n\n"
        f"{commands}\n\n"
        "`slip data COMMAND --help` describes a command's options."
    )
