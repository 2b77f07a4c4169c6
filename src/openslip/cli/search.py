"""slip search FOLDER QUERY …"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openslip.cli.arguments import given, parse, refuse_idle
from openslip.cli.output import as_json
from openslip.errors import UsageError, printable

if TYPE_CHECKING:
    from openslip.search.hits import Hit, Hits

DESCRIPTION = """Search pictures that `slip embed` has embedded, by a text, a picture, or a mixture of both. Signs
between spaces make a mixture, and numbers with a colon are weights: slip search vectors/ 2:dress + ./a.jpg - "long
sleeves". A word is a picture if it begins with ./, ../, / or ~/, or ends like the name of a picture file. A text that
begins with a minus comes last, after --. All pictures are compared, so the result is exact. A terminal shows a table; a
pipe gets paths, one a line. If nothing is found, the status is still 0."""

OURS = ("row", "score", "key", "path", "caption", "captions")
EXAMPLES = """\
slip search vectors "a red bicycle"
    Find pictures by a text.
slip search vectors 2:dress + ./a.jpg - "long sleeves"
    Find pictures by a mixture of texts and a picture.
slip search vectors shoes --where 'price < 50' --sheet found.png
    Search only pictures that meet a condition, and draw the hits.
"""


@dataclass(frozen=True)
class Options:
    """Where to search, for what, and how to show it."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """What `slip embed` wrote."""
    query: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="QUERY")] = ()
    """A text, the path of a picture, or a mixture."""
    where: str = ""
    """A condition on the columns, in DuckDB's SQL: 'price < 50 and colour = \\'red\\''."""
    top: int = 10
    """How many pictures at most."""
    threshold: float | None = None
    """The least cosine similarity, -1 to 1."""
    index: Literal["exact", "hnsw"] = "exact"
    """hnsw: a graph finds most of the nearest pictures, faster among millions; it is built once and kept."""
    model: str = ""
    """The model that embedded the pictures, if it has moved since."""
    which: Literal["latest", "best"] = "latest"
    """Which checkpoint of --model."""
    format: Literal["auto", "table", "paths", "json", "csv"] = "auto"
    """auto: a table on a terminal, paths in a pipe. The path of a picture without a file of its own is its key."""
    columns: tuple[str, ...] = ()
    """Your own columns that the table shows; by default those that fit. json and csv have all columns."""
    print0: bool = False
    """End each path with a NUL instead of a line break, for `xargs -0`."""
    sheet: Path | None = None
    """Also draw the pictures on a contact sheet, a PNG file."""


def main(argv: list[str]) -> None:
    """Search, and print what was found."""
    argv, behind = _split(argv)
    options = parse(Options, argv, prog="slip search", description=DESCRIPTION, examples=EXAMPLES)
    words = [*options.query, *behind]
    if not words:
        raise UsageError(
            "There is nothing to search for", fix=f'Write: slip search {options.folder} "a red bicycle"'
        )
    named = given(Options, argv)
    if not options.model:
        refuse_idle(named, "which", because="Without --model, the index names the checkpoint")
    if options.print0 and options.format not in ("auto", "paths"):
        raise UsageError(
            "--print0 is about paths", got=f"--format {options.format}", fix="Leave one of the two out"
        )
    if options.format not in ("auto", "table"):
        refuse_idle(named, "columns", because=f"--format {options.format} has all columns, or none")
    form = options.format
    if form == "auto":
        form = "paths" if options.print0 or not (sys.stdout.isatty() or options.columns) else "table"

    from openslip.progress import Working
    from openslip.search.index import Index
    from openslip.search.query import described
    from openslip.search.query import parse as parse_query

    terms = parse_query(words)
    index = Index.open(options.folder, model=options.model or None, which=options.which)
    check_columns(options.columns, index.columns)
    if options.index == "hnsw" and (graph := index.open_graph(shown=True)).built:
        print(graph.recall, file=sys.stderr)
    with Working("searching"):
        hits = index.search(
            terms, where=options.where, top=options.top, threshold=options.threshold, method=options.index
        )
    query = described(terms)
    notes = [f"searched for {query}"] * (len(terms) > 1) + [*hits.notes]
    if options.sheet:
        notes.append(draw(options.sheet, hits, query))
    if not len(hits):
        least = "" if options.threshold is None else f" with a similarity of {options.threshold:g} or more"
        notes.append(f"No picture was found among {hits.among:,}{least}")
    for note in notes:
        print(printable(note), file=sys.stderr)
    match form:
        case "table" if len(hits):
            print_table(hits, options.columns)
        case "paths":
            print("".join(path + "\0\n"[not options.print0] for path in hits.paths), end="")
        case "json":
            found = [hit.as_json() for hit in hits]
            whole = {"query": query, "among": hits.among, "notes": list(hits.notes), "found": found}
            print(as_json(whole))
        case "csv":
            print(as_csv(hits), end="")


def draw(path: Path, hits: Hits, query: str) -> str:
    """Write the contact sheet; return a line about it."""
    from openslip.search.contact import MOST, hits_sheet
    from openslip.tools.sheet import write_sheet

    sheet, lost = hits_sheet(hits, query)
    write_sheet(path, sheet)
    said = f"wrote {path}, {min(len(hits), MOST):,} pictures"
    return said + f"; of these, gone or changed: {lost:,}" * bool(lost)


def check_columns(wanted: tuple[str, ...], known: Any) -> None:
    """Raise UsageError for an unknown column."""
    from openslip.errors import did_you_mean

    for name in wanted:
        if name not in known:
            raise UsageError("The records have no such column", got=name, fix=did_you_mean(name, known))


def print_table(hits: Hits, columns: tuple[str, ...]) -> None:
    """Print scores, paths or keys, captions, and columns: those that are named, else those that fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size((100, 0)).columns
    paths = _shown_paths(hits)
    values: dict[str, list[str]] = {"score": [f"{hit.score:.3f}" for hit in hits], "picture": paths}
    values["caption"] = [hit.captions[0] if hit.captions else "" for hit in hits]
    room = width - 8 - min(40, max(map(len, paths))) - min(40, max(map(len, values["caption"])))
    for name in columns or hits[0].columns:
        texts = [_text(_value(hit, name)) for hit in hits]
        needed = min(30, max(map(len, [name, *texts]))) + 2
        if columns or needed <= room:
            values[name] = texts
            room -= needed
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in values:
        table.add_column(
            Text(printable(name)), justify="right" if name == "score" else "left", overflow="fold"
        )
    for row in zip(*values.values()):
        table.add_row(*(Text(printable(" ".join(text.split()))[:200]) for text in row))
    Console(width=width, highlight=False).print(table)


def _shown_paths(hits: Hits) -> list[str]:
    """Return paths without their common folder, and keys of pictures that have no path."""
    folders = [os.path.dirname(hit.path) for hit in hits if hit.path]
    common = os.path.commonpath(folders) if folders and all(map(os.path.isabs, folders)) else ""
    return [os.path.relpath(hit.path, common) if hit.path and common else hit.path or hit.key for hit in hits]


def _value(hit: Hit, name: str) -> Any:
    if name in hit.columns:
        return hit.columns[name]
    return {"key": hit.key, "path": hit.path, "captions": list(hit.captions)}.get(name, "")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        ", ".join(map(_text, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def as_csv(hits: Hits) -> str:
    """Return all columns as CSV; lists and objects are JSON."""
    from openslip.data.own_columns import told_apart
    from openslip.search.index import own_columns

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(told_apart([*OURS, *own_columns(hits.searched.columns)]))
    for hit in hits:
        found = hit.as_json()
        caption = found["captions"][0] if found["captions"] else ""
        ours = [found["row"], repr(found["score"]), found["key"], found["path"], caption, found["captions"]]
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
            for value in (*ours, *found["columns"].values())
        )
    return buffer.getvalue()


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before `--`, and the words after it, none of which is an option."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]
