"""slip report RUN [RUN ...]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from slip.cli.arguments import parse


@dataclass(frozen=True)
class Options:
    """Which runs, and where the page goes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders that `slip train` wrote."""
    out: Path = Path("report.html")
    """The page to write."""
    title: str = "Training report"


def main(argv: list[str]) -> None:
    """Write the page."""
    options = parse(
        Options, argv, prog="slip report", description="Turn run folders into one self-contained HTML page."
    )

    from slip.errors import ConfigError
    from slip.report import load_run, write_report

    if not options.runs:
        raise ConfigError("No run folder was named", fix="`slip report runs/small-data`")
    write_report(options.out, [load_run(path) for path in options.runs], title=options.title)
    print(f"wrote {options.out}")
