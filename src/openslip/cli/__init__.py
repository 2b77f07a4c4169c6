"""The `slip` command: one thin module a subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from openslip.cli.help import examples_text, filled
from openslip.cli.output import OutputClosed, safe_streams
from openslip.cli.signals import answered_signals
from openslip.errors import ConfigError, ProcessError, SlipError, TrainingError

COMMANDS = {
    "quickstart": "train CLIP, SimCLR and SLIP on the embedded scenes and compare them in a report (5 minutes)",
    "train": "train a recipe on your own pictures and captions",
    "data": "check a set of pictures and captions, convert it to tar shards, show what the model sees of it",
    "evaluate": "measure a run or checkpoint: zero-shot, linear, k-NN, retrieval, pairs, segmentation, finetuning",
    "datasets": "list the public data sets that `slip evaluate` knows by name, or show the card of one",
    "compare": "compare models that have been measured: differences with intervals and verdicts, also over seeds",
    "ablate": "train variants of a recipe with several seeds: resumable, one table, equal compute",
    "embed": "embed all pictures of a source, to search them",
    "search": "find pictures by a text, a picture, or a mixture of both",
    "classify": "say which class each picture shows: zero-shot, or by a classifier that `slip evaluate` trained",
    "duplicates": "find copies and near copies among pictures, without deleting any",
    "serve": "a page to search embedded pictures and look at them, and a JSON API",
    "consolidate": "write a model's weights to one safetensors file, however many processes trained it",
    "export": "write a model as open_clip, transformers, timm, onnxruntime or the paper's code reads it",
    "push": "export a model and upload it to the Hugging Face hub, with a model card",
    "pull": "fetch a model of the hub into a folder that loads without a network",
    "mix": "write the weights between two models: what one knew and what the other has learned (WiSE-FT)",
    "report": "turn run folders into one HTML page",
    "recipes": "list the recipes, or show one as TOML",
    "scenes": "render the embedded scenes to WebDataset shards",
    "doctor": "say what is installed and what is missing, and test that everything works",
}
EXAMPLES = """\
slip quickstart
    See it work, without pictures of your own.
slip train small-data --data.train pairs.csv --data.val 10% --out runs/mine
    Train on a table of paths and captions.
slip evaluate runs/mine zeroshot:photos/
    Measure the model on pictures in a folder for each class.
slip embed runs/mine photos/ --out vectors
    Embed pictures,
slip search vectors "a red bicycle"
    and find some of them.
"""
STATUSES = {
    0: "done, also where `slip search` finds nothing",
    1: "an error, with a message: a value, file or model that cannot be used; for `slip evaluate`: a task has failed; "
    "for `slip data check`: these data cannot be trained on; for `slip compare --fail-if worse`: a model is worse; for "
    "`slip ablate`: a run has failed; for `slip doctor`: something does not work",
    2: "a wrong command line: something missing, an unknown command or option, one given twice or without effect, a "
    "value of another type",
    129: "ended by SIGHUP, as when a terminal is closed",
    130: "ended by Ctrl-C (SIGINT)",
    141: "ended because nobody reads the output any more, as behind `| head`",
    143: "ended by SIGTERM",
}
"""Exit status → what has happened. A signal that ended the command gives 128 plus its number, even if a run saved its
state first. docs/command-line.md has the same table; an error's own status is `SlipError.status`."""
CLOSED = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit status. Our own errors print as one paragraph, without a traceback."""
    with safe_streams(), answered_signals(last=argv is None) as signals:
        try:
            return _finished(sys.argv[1:] if argv is None else argv)
        except OutputClosed:
            return CLOSED
        except SystemExit:
            raise
        except SlipError as error:
            if signals.number:  # most likely the signal caused the error
                return _ended(signals.end())
            _let_the_first_speak(error)
            if error.status < 128 or _is_first():  # all of torchrun's processes stop together
                _complain(str(error))
            return error.status
        except BaseException as error:
            # While they are imported, libraries raise others in place of KeyboardInterrupt.
            if isinstance(error, KeyboardInterrupt) or signals.number:
                return _ended(signals.end())
            raise


def _finished(words: list[str]) -> int:
    """Run a command line; return the exit status when all that was printed has been written."""
    try:
        status = _run(words)
    except SystemExit:  # help, or words that the parser does not know
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _run(words: list[str]) -> int:
    match words:
        case ["help", *rest]:
            return _run([*rest, "--help"])
        case [] | ["-h" | "--help" | "--help-all", *_]:
            print(usage())
            return 0
        case ["--version" | "-V" | "version", *_]:
            import openslip

            print(f"openslip {openslip.__version__}")
            return 0
        case ["--print-completion", *rest]:
            return importlib.import_module("openslip.cli.completion").main(rest)
        case [command, *rest] if command in COMMANDS:
            return importlib.import_module(f"openslip.cli.{command}").main(rest) or 0
        case [word, *_]:
            from openslip.cli import hints

            raise hints.unknown_command(word, COMMANDS, hints.COMMANDS)
    return 0


def _ended(number: int) -> int:
    # Python remembers that Ctrl-C ended code in exec(), such as that of a dataclass, and would end by the signal.
    exec("")
    if _is_first():
        _complain("Interrupted." if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}.")
    return 128 + number


def _complain(text: str) -> None:
    with suppress(OutputClosed):
        print(f"slip: {text}", file=sys.stderr)


def _let_the_first_speak(error: SlipError) -> None:
    """Wait if rank 0 of torchrun's processes meets or causes the same error, so that rank 0 has time to end all."""
    if type(error) in (ConfigError, ProcessError, TrainingError) and not _is_first():
        time.sleep(3)


def _is_first() -> bool:
    """Return whether this is the first of the processes that torchrun has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def usage() -> str:
    """Return the text of `slip --help`."""
    statuses = ", ".join(f"{status} {what.split(':')[0].split(',')[0]}" for status, what in STATUSES.items())
    return (
        "usage: slip COMMAND [OPTION ...]\n\n"
        "Train image-text models with self-supervision on your own pictures.\n\n"
        f"{listed(COMMANDS)}\n\n"
        f"{examples_text(EXAMPLES)}\n\n"
        "`slip COMMAND --help` describes a command, and `slip COMMAND --help-all` all of its options.\n"
        "`slip --print-completion --help` explains how to complete commands with Tab.\n\n"
        f"{filled('Exit status: ' + statuses + '.')}"
    )


def listed(commands: Mapping[str, str]) -> str:
    """Return names of commands and what they do, in lines that fit a terminal."""
    width = max(map(len, commands)) + 2
    return "\n".join(
        f"  {name:<{width}}{filled(text, indent=width + 2).lstrip()}" for name, text in commands.items()
    )
