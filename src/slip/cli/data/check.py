"""slip data check SOURCE"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from slip.cli.arguments import parse
from slip.cli.data.source import RECIPE, SourceOptions


@dataclass(frozen=True)
class Options(SourceOptions):
    """How much to read, and where the page goes."""

    out: Path = Path("check.html")
    """The page to write."""
    list: Path | None = None
    """Also write the records that are damaged, blank, copies or without a caption to this file, a JSON line each, with
    what is wrong; `slip data convert --without` takes it."""
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

    from slip import recipes
    from slip.data.check import as_text, check, judge
    from slip.data.check.listing import write_list
    from slip.errors import printable
    from slip.processes import joined
    from slip.report.data_page import write_data_page

    with joined() as ranks:
        with ranks.first_goes_ahead():
            source = options.open(say=ranks.first)
        summary = check(
            source,
            limit=options.limit,
            needs_captions=not options.captions_optional,
            processes=options.processes,
            ranks=ranks,
            shown=True,
        )
    if summary is None:  # another rank has the result
        return 0
    recipe = recipes.get(RECIPE)
    verdict = judge(summary, batch=recipe.training.batch)
    print(printable(as_text(summary, verdict, min(110, shutil.get_terminal_size().columns))))
    write_data_page(options.out, summary, verdict, source, view=recipe.views.size)
    print(printable(f"wrote {options.out}"))
    if options.list:
        count = write_list(options.list, summary)
        print(printable(f"wrote {options.list}: {count:,} records"))
    return 0 if verdict.good else 1
