"""slip data check|convert|show SOURCE, slip data metadata TABLE OUT.parquet"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from slip.cli.arguments import parse, say_note
from slip.config import FORMATS
from slip.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from slip.data.record import Skipped, Source

COMMANDS = {
    "check": "read everything; say what is damaged, odd or twice, and whether it can be trained on",
    "convert": "write it as WebDataset tar shards, shrunk if you like",
    "show": "draw a contact sheet: pictures, captions, and the views that the model will see",
    "metadata": "make the Parquet metadata of YFCC15M from a pickle or from YFCC100M's own table",
}
RECIPE = "small-data"
"""The recipe for pictures of one's own, whose views and batch are taken here."""


@dataclass(frozen=True)
class SourceOptions:
    """Which pictures and captions."""

    source: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SOURCE", help=f"What `slip train` reads: {FORMATS}. Several: 'A + B'."),
    ]
    _: KW_ONLY
    image_root: str = ""
    """Folder that image paths in a table or COCO file are relative to; empty: guessed."""
    image_column: str = ""
    """Column of a table that holds the image; empty: guessed from the header."""
    caption_column: str = ""
    """Column of a table that holds the caption; empty: guessed from the header."""

    def open(self) -> Source:
        """Open the source, and say what was guessed."""
        from slip.data.ranks import Ranks
        from slip.data.sources import open_source

        source = open_source(
            self.source,
            image_root=self.image_root,
            image_column=self.image_column,
            caption_column=self.caption_column,
            captions_required=False,
        )
        if Ranks.from_environment().first:
            say_note(source)
        return source


@dataclass(frozen=True)
class CheckOptions(SourceOptions):
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


@dataclass(frozen=True)
class ConvertOptions(SourceOptions):
    """What to write, and where."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the shards."""
    _: KW_ONLY
    shard_size: int = 1000
    """Records in one shard."""
    shard_mb: float = 0.0
    """Instead: about this many MB in one shard."""
    short_side: int = 0
    """Shrink pictures whose short side has more pixels to this many; 0 leaves all as they are."""
    encoding: Literal["jpg", "png"] = "jpg"
    """Format of pictures that are shrunk; those that are not keep their bytes."""
    quality: int = 92
    """JPEG quality of pictures that are shrunk."""
    no_verify: bool = False
    """Do not decode pictures that keep their bytes: faster, but damaged ones come along."""
    without: Path | None = None
    """Leave out the records in this file, which `slip data check --list` has written: those that are unusable, blank,
    or exact copies that have no other captions."""
    near: bool = False
    """Leave out the near copies in that file, too. Look at them first: things can look alike."""
    prefix: str = ""
    """What the shards' names begin with."""
    processes: int = -1
    """-1: one for each core."""


@dataclass(frozen=True)
class ShowOptions(SourceOptions):
    """What to draw, and where."""

    count: int = 8
    """Records on the sheet: the first ones that a run with this seed reads."""
    recipe: str = RECIPE
    """Recipe whose views are drawn."""
    seed: int = 0
    out: Path = Path("sheet.png")
    """The picture to write."""


@dataclass(frozen=True)
class MetadataOptions:
    """What to read, and where to write."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A pickle of (index, title, description), which is converted as it is, or the table `yfcc100m_dataset` (tabs
    between the columns; plain, .gz or .bz2), whose texts are cleaned."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.parquet")]
    """The file to write."""
    only: tuple[Path, ...] = ()
    """Files that list image indices, as tables or .npy arrays: only images in all of them are taken."""


def main(argv: list[str]) -> int:
    """Run one of the four and return the exit status."""
    match argv:
        case [] | ["-h" | "--help", *_]:
            print(usage())
        case ["check", *rest]:
            return check(rest)
        case ["convert", *rest]:
            convert(rest)
        case ["show", *rest]:
            show(rest)
        case ["metadata", *rest]:
            metadata(rest)
        case [word, *_]:
            raise ConfigError(f"`slip data` does not know {word!r}", fix=did_you_mean(word, COMMANDS))
    return 0


def usage() -> str:
    """Return the text of `slip data --help`."""
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return (
        "usage: slip data COMMAND ...\n\n"
        "Look at your pictures and captions before training on them.\n\n"
        f"{commands}\n\n"
        "`slip data COMMAND --help` describes a command's options."
    )


def check(argv: list[str]) -> int:
    """Read everything, print the verdict, write the page; return 1 when the source cannot be trained on."""
    options = parse(
        CheckOptions,
        argv,
        prog="slip data check",
        description="""Read every record: damaged images, odd ones, the same twice or nearly so; captions that are
missing, over-long, repeated, or say nothing. Prints what to do, writes one HTML page with pictures and plots, and
ends with status 0 if the source can be trained on, else 1. Under `torchrun` the work is shared out among the ranks.""",
    )

    from slip import recipes
    from slip.data.check import as_text, judge
    from slip.data.check import check as look_through
    from slip.data.check.listing import write_list
    from slip.data.ranks import Ranks
    from slip.report.data_page import write_data_page

    source = options.open()
    summary = look_through(
        source,
        limit=options.limit,
        needs_captions=not options.captions_optional,
        processes=options.processes,
        ranks=Ranks.from_environment(),
        shown=True,
    )
    if summary is None:  # another rank has the result
        return 0
    verdict = judge(summary, batch=recipes.get(RECIPE).training.batch)
    print(as_text(summary, verdict, min(110, shutil.get_terminal_size().columns)))
    write_data_page(options.out, summary, verdict, source)
    print(f"wrote {options.out}")
    if options.list:
        print(f"wrote {options.list}: {write_list(options.list, summary):,} records")
    return 0 if verdict.good else 1


def convert(argv: list[str]) -> None:
    """Write tar shards."""
    options = parse(
        ConvertOptions,
        argv,
        prog="slip data convert",
        description="""Write any source as WebDataset tar shards that `slip train` reads fast, locally and over the
network. Pictures that cannot be decoded are left out and listed. Interrupted, the same command goes on where it
stopped. Under `torchrun` the shards are shared out among the ranks, which need one folder in common.""",
    )

    from slip.data.check.listing import read_list
    from slip.data.convert import shard_size_for, write_shards
    from slip.data.encode import Encoding
    from slip.data.ranks import Ranks
    from slip.data.subset import Subset, without
    from slip.errors import DataError

    ranks, source = Ranks.from_environment(), options.open()
    if options.near and not options.without:
        raise ConfigError("--near speaks of the near copies in a list", fix="Give the list with --without")
    if options.without:
        source = without(source, read_list(options.without, near=options.near))
    encoding = Encoding(options.encoding, options.quality, options.short_side, not options.no_verify)
    size = shard_size_for(source, options.shard_mb, encoding) if options.shard_mb else options.shard_size
    done = write_shards(
        source,
        options.folder,
        size,
        prefix=options.prefix,
        encoding=encoding.format,
        quality=encoding.quality,
        short_side=encoding.short_side,
        verify=encoding.verify,
        processes=options.processes,
        ranks=ranks,
        shown=True,
    )
    if not ranks.first:
        return
    shards = f"{len(done.paths):,} shard{'s' * (len(done.paths) != 1)}"
    print(f"{options.folder}: {done.written:,} of {done.records:,} records in {shards}")
    if isinstance(source, Subset):
        print(f"{len(source.source) - len(source):,} left out as {options.without} says")
    if done.skipped:
        listed = options.folder / f"{options.prefix}skipped.jsonl"
        print(f"{len(done.skipped):,} left out, listed in {listed}:\n{reasons(done.skipped)}")
    if not done.written:
        raise DataError("Not one record could be written", got=options.source, cause=done.skipped[0].reason)


def reasons(skipped: list[Skipped]) -> str:
    """Return how often which reason came, the most frequent first, a line each."""
    counts = Counter(entry.reason.split(". ")[0].rstrip(".") for entry in skipped)
    lines = [f"  {count:,} × {reason}" for reason, count in counts.most_common(5)]
    return "\n".join(lines + [f"  and {len(counts) - 5} other reasons"] * (len(counts) > 5))


def show(argv: list[str]) -> None:
    """Draw a contact sheet."""
    options = parse(
        ShowOptions,
        argv,
        prog="slip data show",
        description="""Draw a contact sheet: pictures with their captions, and beside each the three views that the
model sees of it in the first epoch, cropped and augmented as the recipe says.""",
    )

    from slip import recipes
    from slip.augment import augment
    from slip.data.show import contact_sheet, write_sheet

    views = recipes.get(options.recipe).views
    sheet = contact_sheet(
        options.open(),
        views,
        augment=augment,
        count=options.count,
        seed=options.seed,
        recipe=options.recipe,
    )
    write_sheet(options.out, sheet)
    print(f"wrote {options.out}, {sheet.width} × {sheet.height} pixels")


def metadata(argv: list[str]) -> None:
    """Write YFCC metadata as Parquet."""
    options = parse(
        MetadataOptions,
        argv,
        prog="slip data metadata",
        description="""Make the metadata of YFCC15M, image index, title and description, as a Parquet file, which opens
faster than the pickle that SLIP's authors use, and holds nothing that could run. Then train on it:
--data.train OUT.parquet --data.image-root FOLDER, where FOLDER holds images/NN/NNN.zip.""",
    )

    from slip.data.cleaning import make_metadata, raw_rows
    from slip.data.sources.yfcc import convert_metadata

    if options.out.suffix.lower() != ".parquet":
        raise ConfigError("Metadata is written as Parquet", got=str(options.out), fix="Name it OUT.parquet")
    if options.table.suffix.lower() in (".pkl", ".pickle"):
        if options.only:
            raise ConfigError("--only chooses among the rows of YFCC100M's table, not of a pickle")
        print(f"wrote {options.out}: {convert_metadata(options.table, options.out):,} images")
        return
    written, dropped = make_metadata(raw_rows(options.table, options.only), options.out)
    print(f"wrote {options.out}: {written:,} images; {dropped:,} without a text left out")
