"""slip report RUN [RUN ...]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse, print_notes, refuse_idle
from openslip.cli.source import ColumnOptions

EXAMPLES = """\
slip report runs/mine runs/other --out report.html
    Describe two runs on one page.
slip report runs/mine --pictures 'shards/val-*.tar'
    Also show what the model finds in captioned pictures.
"""


@dataclass(frozen=True)
class Options(ColumnOptions):
    """Which runs, and where the page goes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders that `slip train` wrote."""
    out: Path = Path("report.html")
    """The page to write."""
    title: str = "Training report"
    examples: int = 8
    """How many pictures to show of each kind of right and wrong answers, read from the measured data; 0: none."""
    pictures: str = ""
    """Captioned pictures, for a gallery of what the last run finds in them: anything that `slip train` reads."""


def main(argv: list[str]) -> None:
    """Write the page."""
    options = parse(
        Options,
        argv,
        prog="slip report",
        examples=EXAMPLES,
        description="Turn run folders into one self-contained HTML page.",
    )

    if not options.pictures:
        because = "It is about the pictures of a gallery"
        refuse_idle(
            given(Options, argv), *idle.PICTURES, because=because, fix="Name pictures with --pictures"
        )

    from openslip.errors import UsageError, printable
    from openslip.progress import Working
    from openslip.report import check_place, load_run, write_report

    if not options.runs:
        raise UsageError("No run folder was named", fix="`slip report runs/small-data`")
    if options.examples < 0:
        raise UsageError("There cannot be fewer than 0 examples", got=f"--examples {options.examples}")
    check_place(options.out)
    encoder = pictures = None
    with Working(
        f"reading {len(options.runs):,} run{'s' * (len(options.runs) != 1)} and writing {options.out}"
    ):
        if options.pictures:
            from openslip.interop import load

            encoder, pictures = load(options.runs[-1]), options.open_source(options.pictures)
            print_notes(pictures)
        runs = [load_run(path) for path in options.runs]
        write_report(
            options.out,
            runs,
            title=options.title,
            encoder=encoder,
            pictures=pictures,
            examples=options.examples,
        )
    print(printable(f"wrote {options.out}"))
