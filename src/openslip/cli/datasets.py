"""slip datasets [show NAME] [--datasets FOLDER] [--json]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from openslip.cli.arguments import parse
from openslip.cli.output import as_json
from openslip.errors import UsageError, did_you_mean, printable
from openslip.evaluation import datasets
from openslip.evaluation.datasets import places, table

DESCRIPTION = """List the public data sets that have a card: what is measured on each, and where it is found on disk.
`slip datasets show food101` prints a card with its prompts, and where to get the set.

`slip evaluate MODEL zeroshot:food101` measures on such a set. The command searches for the set in the folders of
--datasets and of the environment variable OPENSLIP_DATASETS."""
EXAMPLES = """\
slip datasets --datasets /data
    List the sets, and which of them are below /data.
slip datasets show food101
    Print one card: prompts, metric, and where to get the set.
"""


@dataclass(frozen=True)
class Options:
    """What to list."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[show NAME]")] = ()
    """Nothing to list all cards, or show and a name to print one card."""
    datasets: tuple[Path, ...] = ()
    """Folders to search for data sets."""
    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> None:
    """List cards or show one."""
    options = parse(Options, argv, prog="slip datasets", description=DESCRIPTION, examples=EXAMPLES)
    places.add_roots(options.datasets)
    cards = _cards(options.words)
    if options.json:
        facts = [table.facts(card) for card in cards]
        print(as_json(facts[0] if options.words[:1] == ("show",) else facts))
    elif options.words[:1] == ("show",):
        print(printable(table.describe(cards[0])))
    else:
        print(printable(table.listed(cards)))


def _cards(words: Sequence[str]) -> list[datasets.Card]:
    match words:
        case [] | ["list"]:
            return [*datasets.cards().values()]
        case ["show", name]:
            return [datasets.get(name)]
        case ["show", *_]:
            raise UsageError("`slip datasets show` takes one name", fix="`slip datasets` lists them")
        case [word, *_] if datasets.find(word):
            raise UsageError(
                f"`slip datasets` does not know {word!r}", fix=f"`slip datasets show {word}` prints it"
            )
        case [word, *_]:
            raise UsageError(
                f"`slip datasets` does not know {word!r}", fix=did_you_mean(word, ["show", "list"])
            )
    raise AssertionError
