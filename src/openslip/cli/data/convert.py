"""slip data convert SOURCE FOLDER"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openslip.cli.arguments import given, parse, refuse_idle
from openslip.cli.source import SourceOptions
from openslip.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from openslip.processes import Processes
EXAMPLES = """\
slip data convert pairs.csv shards --short-side 256
    Write tar shards, and shrink large pictures.
slip data convert pairs.csv shards --without found.jsonl
    Leave out the records that `slip data check --list found.jsonl` has listed.
"""


@dataclass(frozen=True)
class Options(SourceOptions):
    """What to write, and where."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the shards."""
    _: KW_ONLY
    shard_size: int = 1000
    """Records in one shard."""
    shard_mb: float = 0.0
    """Instead of --shard-size: about this many MB in one shard."""
    short_side: int = 0
    """Most pixels of a short side: pictures with more are shrunk to this. 0 leaves all pictures as they are."""
    encoding: Literal["jpg", "png"] = "jpg"
    """Format of pictures that are shrunk; all others keep their bytes."""
    quality: int = 92
    """JPEG quality of pictures that are shrunk."""
    no_verify: bool = False
    """Do not decode pictures that keep their bytes: faster, but keeps damaged pictures."""
    without: Path | None = None
    """Leave out records in this file, which `slip data check --list` has written: records that are unusable, blank,
    exact copies without other captions, or also in the set of `--against`."""
    near: bool = False
    """Also leave out the near copies in the file of --without. Look at them first: things can look alike."""
    prefix: str = ""
    """What the shards' names begin with."""
    processes: int = -1
    """-1: one for each core."""


def main(argv: list[str]) -> None:
    """Write tar shards."""
    options = parse(
        Options,
        argv,
        prog="slip data convert",
        examples=EXAMPLES,
        description="""Write any source as WebDataset tar shards that `slip train` reads fast, locally and over the
network. Pictures that cannot be decoded are left out and listed. After an interruption the same command goes on where
it stopped. Under `torchrun` the ranks share the shards, and need one folder in common.""",
    )
    _check(options, given(Options, argv))

    from openslip.processes import joined

    with joined() as ranks:
        run(options, ranks)


def _check(options: Options, given: set[str]) -> None:
    """Raise ConfigError for options that have no effect with the others."""
    if options.near and not options.without:
        raise ConfigError("--near is about the near copies in a list", fix="Name the list with --without")
    if (
        not options.short_side and "scenes" not in options.source
    ):  # scenes are no files whose bytes could be kept
        because, fix = "Pictures that are not shrunk keep their bytes", "Add --short-side, or leave it out"
        refuse_idle(given, "encoding", "quality", because=because, fix=fix)
    if options.encoding != "jpg":
        refuse_idle(given, "quality", because=f"It is for JPEGs, and --encoding is {options.encoding}")
    if options.shard_mb:
        refuse_idle(given, "shard_size", because="--shard-mb says how large a shard is")


def run(options: Options, ranks: Processes) -> None:
    """Write this process's share of the shards; rank 0 prints the summary."""
    from openslip.data.contents import described
    from openslip.data.record import reasons
    from openslip.data.subset import Subset
    from openslip.tools.check.listing import compare, read_list
    from openslip.tools.convert import write_shards

    with ranks.first_goes_ahead():
        source = options.open(notes=ranks.first)
    if options.without:
        listed = read_list(options.without, near=options.near)
        whole, source = source, Subset(source, listed)
        with ranks.together():
            if ranks.first:
                compare(whole, listed, processes=options.processes, shown=True)
    done = write_shards(
        source,
        options.folder,
        options.shard_size,
        shard_mb=options.shard_mb,
        prefix=options.prefix,
        encoding=options.encoding,
        quality=options.quality,
        short_side=options.short_side,
        verify=not options.no_verify,
        processes=options.processes,
        ranks=ranks,
        shown=True,
    )
    if not ranks.first:
        return
    shards = f"{len(done.paths):,} shard{'s' * (len(done.paths) != 1)}"
    print(printable(f"{options.folder}: {done.written:,} of {done.records:,} records in {shards}"))
    for words in described(source):
        print(printable(words))
    if isinstance(source, Subset):
        print(printable(f"{len(source.source) - len(source):,} left out as {options.without} says"))
    if done.skipped:
        listed = options.folder / f"{options.prefix}skipped.jsonl"
        print(printable(f"{len(done.skipped):,} left out, listed in {listed}:"))
        for reason in reasons(done.skipped):
            print(printable(f"  {reason}"))
    if not done.written:
        raise DataError("No record could be written", got=options.source, cause=done.skipped[0].reason)
