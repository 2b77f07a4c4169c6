"""slip duplicates FOLDER"""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openslip.cli.arguments import given, parse, refuse_idle
from openslip.errors import UsageError, printable

if TYPE_CHECKING:
    from openslip.search.duplicates import Duplicates

DESCRIPTION = """Find copies among pictures that `slip embed` has embedded: the same bytes, and near copies, whose
embeddings are nearly the same. Nothing is deleted. Near copies are a guess of the model: look at them first
(--sheet), because two products can look alike. A copy with a caption of its own is marked as such, because the
caption is worth keeping."""
EXAMPLES = """\
slip duplicates vectors --sheet near.png
    List copies, and draw near copies to look at.
slip duplicates vectors --threshold 0.99 --list dup.jsonl
    Write a list for `slip data convert --without`.
"""


@dataclass(frozen=True)
class Options:
    """Where to look, what counts as a near copy, and how to show the copies."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """What `slip embed` wrote."""
    threshold: float = 0.97
    """The least cosine similarity of near copies. It depends on the model: see docs/search.md."""
    format: Literal["auto", "table", "json"] = "auto"
    """auto: a table on a terminal, a JSON line for each copy in a pipe."""
    top: int = 20
    """How many groups the table shows, the largest first."""
    list: Path | None = None
    """Also write a JSON line for each copy to this file, for `slip data convert --without`."""
    sheet: Path | None = None
    """Also draw near copies beside their originals, the least similar first, as a PNG file."""


def main(argv: list[str]) -> None:
    """Find copies, and print them."""
    options = parse(Options, argv, prog="slip duplicates", description=DESCRIPTION, examples=EXAMPLES)
    if options.top < 1:
        raise UsageError("The table shows 1 group or more", got=f"--top {options.top}")
    form = options.format
    if form == "auto":
        form = "table" if sys.stdout.isatty() else "json"
    if form != "table":
        refuse_idle(
            given(Options, argv), "top", because="A pipe, and --format json, get the lines of all copies"
        )

    from openslip.search.duplicates import check_threshold, find_duplicates, write_list
    from openslip.search.index import Index

    check_threshold(options.threshold)
    index = Index.open(options.folder)
    count = len(index)
    print(
        f"{count:,} pictures: comparing takes {count**2 * index.dim / 2e9:,.1f} billion multiplications at most",
        file=sys.stderr,
    )
    found = find_duplicates(index, options.threshold, shown=True)
    notes = []
    if options.list:
        notes.append(f"wrote {options.list}, {write_list(options.list, found):,} copies")
    if options.sheet:
        notes.append(draw(options.sheet, found))
    if form == "json":
        for entry in found.entries():
            print(json.dumps(entry, ensure_ascii=False))
    else:
        print(printable(as_text(found, options.top)))
    for note in [*notes, *advice(found, options.list)]:
        print(printable(note), file=sys.stderr)


def draw(path: Path, found: Duplicates) -> str:
    """Write the sheet of near copies; return a line about it."""
    from openslip.search.contact import duplicates_sheet
    from openslip.tools.sheet import write_sheet

    sheet, shown, lost = duplicates_sheet(found)
    write_sheet(path, sheet)
    said = f"wrote {path}, {shown:,} group{'s' * (shown != 1)} with near copies, the least similar first"
    return said + f"; pictures that are gone or have changed: {lost:,}" * bool(lost)


def as_text(found: Duplicates, most: int) -> str:
    """Return the largest groups, a line a picture: what it is, similarity to the first, path or key, and caption."""
    import numpy as np

    lines = []
    for rows in found.groups[:most]:
        table = found.index.records(rows, ["key", "path", "caption"]).to_pylist()
        lines.append(f"{len(rows):,} pictures")
        for row, record in zip(np.asarray(rows).tolist(), table):
            similar = f"{found.similarity[row]:.3f}" if found.lookalikes[row] != row else "     "
            what = found.whats[row] or "the first"
            where = f"{record['path'] or record['key']}  {textwrap.shorten(record['caption'] or '', 60)}"
            lines.append(f"  {what:<28}  {similar}  {where}".rstrip())
    groups = len(found.groups)
    if groups > most:
        lines.append(f"and {groups - most:,} more group{'s' * (groups - most != 1)}")
    counts = found.counts()
    total = sum(counts.values())
    copies = "1 copy" if total == 1 else f"{total:,} copies"
    lines.append(
        f"{copies} in {groups:,} group{'s' * (groups != 1)}, of {len(found.index):,} pictures"
        + ":" * bool(total)
    )
    lines += [f"  {count:>8,}  {what}" for what, count in counts.items() if count]
    return "\n".join(lines)


def advice(found: Duplicates, listed: Path | None) -> list[str]:
    """Return what to do next."""
    counts = found.counts()
    if not any(counts.values()):
        return []
    spec = found.index.about["source"]["spec"]
    source = shlex.quote(spec) if spec else "SOURCE"
    without = f"slip data convert {source} FOLDER --without {shlex.quote(str(listed or 'dup.jsonl'))}"
    lines = ["Nothing has been deleted."]
    lines.append(
        f"To leave exact copies out{'' if listed else ', write them with --list dup.jsonl'}: {without}"
    )
    if counts["near copy"]:
        lines.append(
            "Near copies are the model's guess. Look at them first (--sheet near.png, the least similar on top), take "
            "the lines of different pictures out of the list, and only then add --near to `slip data convert`"
        )
    if counts["same picture, other captions"] + counts["near copy, other captions"]:
        lines.append(
            "Copies with captions of their own stay in any case: different captions may be different things"
        )
    return lines
