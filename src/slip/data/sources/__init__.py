"""One file a format; all of them yield the same `Record`s. `open_source` tells the formats apart."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from slip.data.record import Source
from slip.errors import DataError

MAX_SHARDS = 1_000_000
"""The most paths that a brace range may stand for."""

_FORMATS = (
    "tar shards (.tar), a table (.csv, .tsv, .jsonl), COCO captions (.json), a folder of images, or `scenes`"
)


def open_source(
    spec: str, *, image_root: str = "", image_column: str = "", caption_column: str = ""
) -> Source:
    """Open captioned images by what `spec` looks like.

    - `shards/a-0000.tar`, `shards/a-*.tar`, `shards/a-{0000..0099}.tar`, `shards/{a,b}.tar`, or a folder that holds
      .tar files: WebDataset shards
    - `.csv`, `.tsv`, `.jsonl`: a table of image paths and captions, in the columns named or guessed
    - `.json`: COCO captions
    - any other folder: its images, without captions
    - `scenes[:split[:count]]`: the built-in renderer

    `image_root` is the folder that the paths in a table or COCO file are relative to, if not a guessed one.
    Raises DataError when there is nothing at `spec`, or nothing that can be read.
    """
    if spec == "scenes" or spec.startswith("scenes:"):
        from slip.data.scenes import open_scenes

        return open_scenes(spec)
    paths = _paths(spec)
    if all(path.suffix.lower() == ".tar" for path in paths):
        from slip.data.sources.webdataset import TarShards

        return TarShards(paths, name=spec)
    if len(paths) > 1:
        other = next(path for path in paths if path.suffix.lower() != ".tar")
        raise DataError(
            f"Several files can be one source only if all of them are .tar shards; {spec!r} stands for "
            f"{len(paths)} files, one of them {other}"
        )
    return _open_one(paths[0], image_root, image_column, caption_column)


def _open_one(path: Path, image_root: str, image_column: str, caption_column: str) -> Source:
    """Open a path that is no tar file."""
    suffix = path.suffix.lower()
    if path.is_dir():
        from slip.data.sources.folder import ImageFolder

        return ImageFolder(path)
    if suffix in (".csv", ".tsv", ".jsonl"):
        from slip.data.sources.table import Table

        columns = {"image_column": image_column, "caption_column": caption_column}
        return Table(path, image_root=image_root, **columns)
    if suffix == ".json":
        from slip.data.sources.coco import CocoCaptions

        return CocoCaptions(path, image_root=image_root)
    if re.search(r"\.(tgz|tar\.\w+)$", path.name.lower()):
        raise DataError(
            "The tar shard is compressed",
            got=str(path),
            cause="Records are read from the middle of a shard, which only an uncompressed one allows",
            fix="Unpack it to a plain .tar (gunzip, unzstd, unxz); JPEGs hardly shrink anyway",
        )
    raise DataError(
        f"The ending {suffix!r} is not one of a known format" if suffix else "The file has no ending",
        got=str(path),
        fix=f"A source is {_FORMATS}",
    )


def _paths(spec: str) -> list[Path]:
    """Return the existing paths that `spec` stands for: itself, a glob, a brace range, the shards of a folder."""
    if not spec.strip():
        raise DataError("No data is given", fix=f"Name a source: {_FORMATS}")
    if re.match(r"[a-z][a-z0-9+.-]+://", spec):
        raise DataError(
            "Data is read from local files only", got=spec, fix="Copy it to a disk of this machine first"
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar")) or [path]
    if path.exists():
        return [path]
    paths = [found for pattern in expand_braces(str(path)) for found in _glob(pattern)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        what = (
            f"{len(missing)} of {len(paths)} files do not exist"
            if len(paths) > 1
            else "There is no such file or folder"
        )
        raise DataError(what, got=str(missing[0]), fix=_nearby(missing[0]))
    return paths


def _glob(pattern: str) -> list[Path]:
    """Return what a pattern matches, sorted; a plain path as it is. Raises DataError when nothing matches."""
    if not glob.has_magic(pattern):
        return [Path(pattern)]
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not found:
        raise DataError("The pattern matches no file", got=pattern, fix=_nearby(Path(pattern)))
    return found


def expand_braces(spec: str) -> list[str]:
    """Expand `{0000..0003}` (both ends included, zero-padded as written) and `{a,b}`, left to right.

    Raises DataError on unbalanced, nested or empty braces and on ranges that run backwards.
    """
    pieces = re.split(r"\{([^{}]*)\}", spec)  # text, inside, text, inside, …, text
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise DataError(
            "The braces do not match",
            got=spec,
            fix="Write a range as {00000..00099}, a list as {a,b}; no nesting",
        )
    choices: list[Sequence[str]] = [
        _choices(piece, spec) if i % 2 else [piece] for i, piece in enumerate(pieces)
    ]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_SHARDS:
        raise DataError(
            f"The braces stand for {count:,} files", got=spec, fix=f"At most {MAX_SHARDS:,} are possible"
        )
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str, spec: str) -> Sequence[str]:
    """Return what one pair of braces stands for."""
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if bounds is None:
        if "," in inside:
            return inside.split(",")
        raise DataError(
            f"{{{inside}}} is neither a range nor a list",
            got=spec,
            fix="Write a range as {00000..00099}, a list as {a,b}",
        )
    first, last = bounds.groups()
    if int(first) > int(last):
        raise DataError(f"The range {{{inside}}} runs backwards", got=spec, fix=f"Write {{{last}..{first}}}")
    if int(last) - int(first) >= MAX_SHARDS:
        raise DataError(
            f"The range {{{inside}}} is too long", got=spec, fix=f"At most {MAX_SHARDS:,} files are possible"
        )
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _nearby(path: Path) -> str:
    """Return the sentence that helps with a path that is not there: the first missing part, and names like it."""
    path = path.absolute()
    while not path.parent.exists():
        path = path.parent
    try:
        siblings = sorted(name for name in os.listdir(path.parent) if not name.startswith("."))
    except OSError as error:
        return f"The folder '{path.parent}' cannot be listed: {error.strerror}"
    close = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)} in '{path.parent}'?"
    if not siblings:
        return f"The folder '{path.parent}' is empty"
    more = f" and {len(siblings) - 8} more" if len(siblings) > 8 else ""
    return f"'{path.parent}' has no '{path.name}', but {', '.join(siblings[:8])}{more}"
