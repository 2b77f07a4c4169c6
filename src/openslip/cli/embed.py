"""slip embed MODEL SOURCE --out FOLDER"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli import idle
from openslip.cli.arguments import given, parse, print_notes
from openslip.cli.output import one_document
from openslip.cli.source import ColumnOptions
from openslip.config import SOURCES
from openslip.errors import ConfigError, printable

if TYPE_CHECKING:
    from openslip.processes import Processes

DESCRIPTION = """Embed all pictures of a source, once, for `slip search`, `slip duplicates` and `slip serve`. The folder
holds vectors.npy, a memory-map in half precision, and records.parquet with keys, paths, captions and your own columns;
other programs can open both files. After an interruption the same command goes on where it stopped. When it runs again,
it embeds what is new or has changed. Under `torchrun` the ranks share the pictures, and need one folder in common."""
EXAMPLES = """\
slip embed runs/mine photos/ --out vectors
    Embed a folder of pictures; when run again, embed only new ones.
slip embed open_clip:ViT-B-32/openai 'shards/*.tar' --out vectors --captions
    Embed pictures and captions of tar shards with a public model.
"""


@dataclass(frozen=True)
class Options(ColumnOptions):
    """Which model, which pictures, and where the embeddings go."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """What `openslip.load` takes: a run folder, a file of weights, or a public model such as open_clip:NAME/TAG."""
    source: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SOURCE", help=f"What `slip train` reads: {SOURCES}. Several: 'A + B'."),
    ]
    out: Path
    """Folder of the index. An existing index keeps its embeddings of the same pictures."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    captions: bool = False
    """Also embed all captions, into captions.npy."""
    map: bool = False
    """Lay the pictures out on a plane, by UMAP (extra `map`) or else PCA. The records get columns x, y and
    neighbors."""
    replace: bool = False
    """Replace an index that was made with another model, or from other pictures."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the arithmetic; auto: bf16 where the hardware has it, else fp32. Vectors are kept in fp16."""
    batch: int = 256
    """Pictures that go through the model at a time."""
    workers: int = -1
    """Threads that read and decode pictures; -1: one for each core, up to 8."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    json: bool = False
    """Print one JSON document to standard output, and everything else to standard error."""


def main(argv: list[str]) -> None:
    """Embed, and print what has become of the records."""
    options = parse(Options, argv, prog="slip embed", description=DESCRIPTION, examples=EXAMPLES)
    idle.which(given(Options, argv), Path(options.model))

    from openslip.processes import joined
    from openslip.training.precision import choose_device

    try:
        device = choose_device(options.device)
    except ConfigError as error:
        raise ConfigError(error.what, got=f"--device {options.device}", fix="Use --device auto") from None
    with one_document(options.json) as give, joined(device) as ranks:
        run(options, ranks, give)


def run(options: Options, ranks: Processes, give: Callable[[Any], None]) -> None:
    """Embed this process's share; rank 0 prints the summary. give: receives the numbers if the user asked for JSON."""
    from openslip.data.contents import described
    from openslip.data.record import reasons
    from openslip.search.embed import embed

    with ranks.first_goes_ahead():
        source = options.open_source(options.source, captions_required=False)
        if ranks.first:
            print_notes(source)
    done = embed(
        options.model,
        source,
        options.out,
        which=options.which,
        captions=options.captions,
        mapped=options.map,
        replace=options.replace,
        precision=options.precision,
        batch=options.batch,
        workers=options.workers,
        columns=options.columns,
        spec=options.source,
        ranks=ranks,
        shown=True,
    )
    if not ranks.first:
        return
    lines = [f"{options.out}: {done.rows:,} embeddings, {done.new:,} of them new"]
    lines += [
        f"earlier embeddings that are gone, as their pictures are not in the source any more: {done.gone:,}"
    ] * bool(done.gone)
    lines += [*described(source), *done.notes]
    if done.skipped:
        lines.append(f"{len(done.skipped):,} left out, listed in {options.out / 'skipped.jsonl'}:")
        lines += [f"  {reason}" for reason in reasons(done.skipped)]
    lines.append(f'Search them: slip search {options.out} "a red bicycle"')
    print(printable("\n".join(lines)))
    give(
        {
            "folder": done.folder, "rows": done.rows, "new": done.new, "reused": done.reused, "gone": done.gone,
            "skipped": [{"key": one.key, "reason": one.reason} for one in done.skipped], "notes": done.notes,
        }
    )  # fmt: skip
