"""slip data metadata TABLE OUT.parquet"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openslip.cli.arguments import parse
from openslip.errors import ConfigError, printable

if TYPE_CHECKING:
    from openslip.data.sources.yfcc import Row
    from openslip.progress import Progress

COUNTED = 1000
"""Rows between two looks at the progress."""
EXAMPLES = """\
slip data metadata yfcc100m_dataset.bz2 yfcc15m.parquet --only slip_index.npy
    Make the metadata from YFCC100M's own table.
"""


@dataclass(frozen=True)
class Options:
    """What to read, and where to write."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A pickle of (index, title, description), which is converted unchanged; or the table `yfcc100m_dataset` (tabs
    between the columns; plain, .gz or .bz2), whose texts are cleaned."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.parquet")]
    """The file to write."""
    only: tuple[Path, ...] = ()
    """Files that list image indices, as tables or .npy arrays. Only images in all of these files are taken."""


def main(argv: list[str]) -> None:
    """Write YFCC metadata as Parquet."""
    options = parse(
        Options,
        argv,
        prog="slip data metadata",
        examples=EXAMPLES,
        description="""Make the metadata of YFCC15M (image index, title and description) as a Parquet file. It opens
faster than the pickle of SLIP's authors, and holds nothing that could run. Then train on it: --data.train OUT.parquet
--data.image-root FOLDER, where FOLDER holds images/NN/NNN.zip.""",
    )

    from openslip.data.cleaning import make_metadata, raw_rows
    from openslip.data.sources.yfcc import convert_metadata
    from openslip.progress import Progress, Working

    if options.out.suffix.lower() != ".parquet":
        raise ConfigError("Metadata is written as Parquet", got=str(options.out), fix="Name it OUT.parquet")
    if re.search(r"\.(pkl|pickle)\.(gz|bz2|xz|zst)$", options.table.name.lower()):
        raise ConfigError(
            "A compressed pickle cannot be read", got=str(options.table), fix="Unpack the pickle first"
        )
    if options.table.suffix.lower() in (".pkl", ".pickle"):
        if options.only:
            raise ConfigError("--only chooses among the rows of YFCC100M's table, not of a pickle")
        with Working(f"converting {options.table}"):
            count = convert_metadata(options.table, options.out)
        print(printable(f"wrote {options.out}: {count:,} images"))
        return
    with Progress("cleaning", None) as bar:
        written, dropped = make_metadata(_counted(raw_rows(options.table, options.only), bar), options.out)
    print(printable(f"wrote {options.out}: {written:,} images; {dropped:,} without a text left out"))


def _counted(rows: Iterator[Row], bar: Progress) -> Iterator[Row]:
    """Yield rows, and show how many there have been."""
    done = 0
    for row in rows:
        yield row
        done += 1
        if not done % COUNTED:
            bar.advance(COUNTED)
    bar.advance(done % COUNTED)
