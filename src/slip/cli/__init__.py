"""The `slip` command: one thin module a subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import time

from slip.errors import ConfigError, ProcessError, SlipError, TrainingError, did_you_mean

COMMANDS = {
    "quickstart": "train CLIP, SimCLR and SLIP on the embedded scenes and compare them in a report (5 minutes)",
    "train": "train a recipe on your own pictures and captions",
    "data": "check a set of pictures and captions, convert it to tar shards, show what the model sees of it",
    "evaluate": "measure a run or checkpoint: zero-shot, linear, k-NN, retrieval, finetuning",
    "consolidate": "write a model's weights to one safetensors file, however many processes trained it",
    "report": "turn run folders into one HTML page",
    "recipes": "list the recipes, or show one as TOML",
    "scenes": "render the embedded scenes to WebDataset shards",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit status. Our own errors print as one paragraph, without a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"openslip {version('openslip')}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise ConfigError(f"There is no command {argv[0]!r}", fix=did_you_mean(argv[0], COMMANDS))
        status = importlib.import_module(f"slip.cli.{argv[0]}").main(argv[1:])
    except SlipError as error:
        _let_the_first_speak(error)
        print(f"slip: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("slip: Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return status or 0


def _let_the_first_speak(error: SlipError) -> None:
    """Before an error that the first of torchrun's processes meets alike, or causes, give it the time to end all."""
    if type(error) in (ConfigError, ProcessError, TrainingError) and os.environ.get("RANK", "0") != "0":
        time.sleep(3)


def usage() -> str:
    """Return the text of `slip --help`."""
    commands = "\n".join(f"  {name:<13}{text}" for name, text in COMMANDS.items())
    return (
        "usage: slip COMMAND [OPTION ...]\n\n"
        "Train image-text models with self-supervision on your own pictures.\n\n"
        f"{commands}\n\n"
        "`slip COMMAND --help` describes a command's options."
    )
