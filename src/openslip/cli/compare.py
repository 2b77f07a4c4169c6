"""slip compare A B [C ...]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openslip.cli.arguments import parse
from openslip.cli.output import as_json, say
from openslip.errors import UsageError, printable
from openslip.files import expand

if TYPE_CHECKING:
    from openslip.evaluation.comparison import Comparison

DESCRIPTION = """Compare models that `slip evaluate` or `slip train` has measured; nothing is measured. Each is a run
folder or a results.json; the others are compared with the first. A pattern in quotes ('runs/slip-*') stands for runs
that differ only in their seeds, and so do models with the same name in front (slip=runs/a slip=runs/b). Their means are
compared, and the intervals also cover other seeds."""
LONGEST = 24
"""Longest name in characters that the table shows; longer names become A and B."""
EXAMPLES = """\
slip compare runs/before runs/after
    Compare two models that have been measured.
slip compare 'runs/clip-*' 'runs/slip-*' --fail-if worse
    Compare the seeds of two configurations; status 1 if the second is worse.
"""


@dataclass(frozen=True)
class Options:
    """What to compare, and how."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run or checkpoint folders, files of results, or patterns in quotes; NAME=PATH names one."""
    all: bool = False
    """All metrics, rather than the first of each task."""
    by_seed: bool = False
    """Pair the runs of both sides by their seeds. Intervals become narrower if equal seeds go up and down together,
    else wider."""
    fail_if: Literal["never", "worse"] = "never"
    """worse: exit with status 1 if a model is worse than the first in a number that is shown."""
    format: Literal["table", "json"] = "table"
    """json: a list with everything about each difference."""
    json: bool = False
    """Short for --format json: one JSON document on standard output, and everything else on standard error."""
    out: Path | None = None
    """Also write the differences to this file: as CSV if its name ends in .csv, else as JSON."""


def main(argv: list[str]) -> int:
    """Read, compare and print; return the exit status."""
    options = parse(Options, argv, prog="slip compare", description=DESCRIPTION, examples=EXAMPLES)

    from openslip.evaluation.comparison import by_chance, compare_models
    from openslip.evaluation.ledger import check_out
    from openslip.evaluation.measured import open_models
    from openslip.evaluation.results import save
    from openslip.progress import Working

    out = None if options.out is None else expand(options.out)
    if out is not None:
        check_out(out)
    models, notes = open_models(options.models)
    if len(models) < 2:
        raise UsageError(
            "A comparison needs two models or more",
            got=" ".join(options.models),
            fix="For example `slip compare runs/before runs/after`, or `slip compare 'runs/clip-*' 'runs/slip-*'`",
        )
    first, *others = models
    with Working(f"comparing {len(models)} models"):
        found = [
            compare_models(first, other, everything=options.all, by_seed=options.by_seed) for other in others
        ]
    differences = [one for comparison in found for one in comparison.differences]
    rows = [row for comparison in found for row in comparison.rows()]
    if out is not None:
        save([one.after for one in differences], out, rows)
    for note in dict.fromkeys([*notes, *(note for comparison in found for note in comparison.notes)]):
        say(note)
    if options.json or options.format == "json":
        print(as_json([one.after.to_dict() | row for one, row in zip(differences, rows)]))
    else:
        print(printable("\n".join(map(as_text, found))))
        for meaning in dict.fromkeys(comparison.meaning for comparison in found):
            print(meaning)
        if chance := by_chance(len(differences)):
            print(chance)
    if out is not None:
        say(f"wrote {out}")
    worse = any(one.verdict == "worse" for one in differences)
    return 1 if worse and options.fail_if == "worse" else 0


def as_text(comparison: Comparison) -> str:
    """Return the names of both models, the table, and sentences on which model is ahead in what."""
    from openslip.evaluation.compare import sentences, table

    models = comparison.before, comparison.after
    short = all(len(model.name) <= LONGEST for model in models)
    titles = (models[0].name, models[1].name) if short else ("A", "B")
    lines = [f"{title}: {model.describe()}" for title, model in zip(titles, models)]
    return "\n".join(
        [*lines, "", table(comparison.differences, titles), *sentences(comparison.differences, *titles), ""]
    )
