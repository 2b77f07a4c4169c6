"""slip data check SOURCE"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openslip.cli.arguments import parse, print_notes
from openslip.cli.source import RECIPE, SourceOptions

if TYPE_CHECKING:
    from openslip.data.record import Source
    from openslip.processes import Processes
    from openslip.tools.check import Summary


@dataclass(frozen=True)
class Options(SourceOptions):
    """How much to read, and where the page goes."""

    out: Path = Path("check.html")
    """The page to write."""
    list: Path | None = None
    """Also write the records that are damaged, blank, copies or without a caption to this file, a JSON line each, with
    what is wrong; `slip data convert --without` takes it."""
    against: str = ""
    """A second set, read as SOURCE is: say which records of SOURCE have an equal caption, or an equal or near picture,
    there. Training and test data should have nothing in common. `--list` lists these records, too."""
    limit: int = 0
    """Check this many records, spread over all, in place of all."""
    captions_optional: bool = False
    """Records without a caption are fine: for self-supervision alone."""
    processes: int = -1
    """-1: one for each core."""


def main(argv: list[str]) -> int:
    """Read everything, print the verdict, write the page; return 1 when the source cannot be trained on."""
    options = parse(
        Options,
        argv,
        prog="slip data check",
        description="""Read every record: damaged images, odd ones, the same twice or nearly so; captions that are
missing, over-long, repeated, or say nothing. Prints what to do, writes one HTML page with pictures and plots, and
ends with status 0 if the source can be trained on, else 1. Under `torchrun` the work is shared out among the ranks.""",
    )

    from openslip import recipes
    from openslip.errors import printable
    from openslip.processes import joined
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
    verdict = judge(
        summary, batch=recipe.training.batch, leave_broken=options.leave_broken, commands=commands
    )
    against = None
    if there is not None:
        against = compare(summary, there)
        verdict = with_findings(verdict, against, commands)
    print(printable(as_text(summary, verdict, min(110, shutil.get_terminal_size().columns))))
    write_data_page(
        options.out, summary, verdict, source, view=recipe.views.size, against=against, other=other
    )
    print(printable(f"wrote {options.out}"))
    if options.list:
        count = write_list(options.list, summary, against)
        print(printable(f"wrote {options.list}: {count:,} records"))
    return 0 if verdict.good else 1


def _other(options: Options, ranks: Processes) -> tuple[Source, Summary | None]:
    """Return the second set, and what is found in it, on the first rank. It is read whole."""
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
