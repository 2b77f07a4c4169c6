"""slip data check SOURCE"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openslip.cli.arguments import parse, print_notes
from openslip.cli.output import one_document
from openslip.cli.source import RECIPE, SourceOptions

if TYPE_CHECKING:
    from openslip.data.record import Source
    from openslip.processes import Processes
    from openslip.tools.check import Summary
EXAMPLES = """\
slip data check 'shards/train-*.tar'
    Read everything, and say what is wrong.
slip data check pairs.csv --against test.csv --list found.jsonl
    Also look for what training and test data have in common.
"""


@dataclass(frozen=True)
class Options(SourceOptions):
    """How much to read, and where the page goes."""

    out: Path = Path("check.html")
    """The page to write."""
    list: Path | None = None
    """Also write the records that are damaged, blank, copies or without a caption to this file: a JSON line each, with
    what is wrong. `slip data convert --without` takes the file."""
    against: str = ""
    """A second set, read like SOURCE. Reports the records of SOURCE with an equal caption, or an equal or near picture,
    in that set. Training and test data should have nothing in common. `--list` lists these records, too."""
    limit: int = 0
    """Check only this many records, spread over all; 0: all."""
    captions_optional: bool = False
    """Accept records without a caption: for self-supervision alone."""
    processes: int = -1
    """-1: one for each core."""
    json: bool = False
    """Print one JSON document to standard output, and everything else to standard error."""


def main(argv: list[str]) -> int:
    """Read everything, print the verdict, write the page; return 1 when the source cannot be trained on."""
    options = parse(
        Options,
        argv,
        prog="slip data check",
        examples=EXAMPLES,
        description="""Read every record, and find images that are damaged, odd, copies or near copies, and captions
that are missing, over-long, repeated, or say nothing. Prints what to do, and writes one HTML page with pictures and
plots. The status is 0 if the source can be trained on, else 1. Under `torchrun` the ranks share the work.""",
    )

    with one_document(options.json) as give:
        return run(options, give)


def run(options: Options, give: Callable[[Any], None]) -> int:
    """Check, and print what was found; return the exit status. give: receives the numbers if the user asked for
    JSON."""
    from openslip import recipes
    from openslip.errors import printable
    from openslip.processes import joined
    from openslip.progress import Working
    from openslip.report.data_page import write_data_page
    from openslip.tools.check import as_text, check, judge
    from openslip.tools.check.against import compare, with_findings
    from openslip.tools.check.commands import Commands
    from openslip.tools.check.listing import write_list

    with joined() as ranks:
        with ranks.first_goes_ahead():
            source = options.open(notes=ranks.first, leave_broken=True)
        summary = check(
            source,
            limit=options.limit,
            needs_captions=not options.captions_optional,
            processes=options.processes,
            ranks=ranks,
            shown=True,
        )
        other, there = _other(options, ranks) if options.against else (None, None)
    if summary is None:  # another rank has the result
        return 0
    recipe = recipes.get(RECIPE)
    columns = options.columns | {"leave_broken": options.leave_broken}
    commands = Commands(options.source, columns, options.against, options.captions_optional)
    with Working("looking for copies"):
        verdict = judge(
            summary, batch=recipe.training.batch, leave_broken=options.leave_broken, commands=commands
        )
    against = None
    if there is not None:
        with Working("comparing both sets"):
            against = compare(summary, there)
        verdict = with_findings(verdict, against, commands)
    print(printable(as_text(summary, verdict, min(110, shutil.get_terminal_size().columns))))
    with Working(f"writing {options.out}"):
        write_data_page(
            options.out, summary, verdict, source, view=recipe.views.size, against=against, other=other
        )
    print(printable(f"wrote {options.out}"))
    if options.list:
        count = write_list(options.list, summary, against)
        print(printable(f"wrote {options.list}: {count:,} records"))
    give(
        {
            "source": options.source, "good": verdict.good, "verdict": verdict.sentence,
            "records": summary.total, "checked": summary.checked, "usable": summary.usable,
            "damaged": summary.damaged, "unreadable": summary.unreadable, "without_caption": summary.silent,
            "findings": [
                {
                    "level": one.level, "what": one.what, "count": one.count, "of": one.of, "advice": one.advice,
                    "commands": one.commands,
                }
                for one in verdict.findings
            ],
            "page": options.out, "list": options.list,
        }
    )  # fmt: skip
    return 0 if verdict.good else 1


def _other(options: Options, ranks: Processes) -> tuple[Source, Summary | None]:
    """Return the second set, and on rank 0 what is found in it. The set is read whole."""
    from openslip.data.sources import open_source
    from openslip.tools.check import check

    with ranks.first_goes_ahead():
        other = open_source(
            options.against,
            **options.columns,  # type: ignore[bad-argument-type]
            captions_required=False,
            must_fit=False,
            leave_broken=True,
        )
        if ranks.first:
            print_notes(other)
    return other, check(
        other, needs_captions=False, processes=options.processes, ranks=ranks, shown=True, title="comparing"
    )
