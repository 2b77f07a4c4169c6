"""One file a format; all of them yield the same `Record`s. `open_source` tells the formats apart."""

from __future__ import annotations

import re

from slip.data.record import Source
from slip.data.sources.paths import ending, find_paths
from slip.data.sources.retry import is_url, shown
from slip.errors import DataError

FORMATS = (
    "tar shards (.tar), a table (.csv, .tsv, .jsonl), COCO captions (.json), a folder of images, or `scenes`"
)
"""What a source can be, for messages."""

REMOTE = "tar shards"
"""The formats that are read from URLs, for messages."""


def open_source(
    spec: str, *, image_root: str = "", image_column: str = "", caption_column: str = ""
) -> Source:
    """Open captioned images by what `spec` looks like.

    - `shards/a-0000.tar`, `shards/a-*.tar`, `shards/a-{0000..0099}.tar`, `shards/{a,b}.tar`, or a folder that holds
      .tar files: WebDataset shards, also at `https://…`, `s3://…` and whatever else fsspec reads
    - `.csv`, `.tsv`, `.jsonl`: a table of image paths and captions, in the columns named or guessed
    - `.json`: COCO captions
    - any other folder: its images, without captions
    - `scenes[:split[:count]]`: the built-in renderer

    `image_root` is the folder that the paths in a table or COCO file are relative to, if not a guessed one.
    Raises DataError when there is nothing at `spec`, or nothing that can be read.
    """
    # Specs that are no paths.
    if not spec.strip():
        raise DataError("No data is given", fix=f"Name a source: {FORMATS}")
    if spec == "scenes" or spec.startswith("scenes:"):
        from slip.data.scenes import open_scenes

        return open_scenes(spec)

    # Formats that may be several files, here or behind URLs.
    paths = find_paths(spec)
    kinds = {ending(path) for path in paths}
    if kinds == {".tar"}:
        from slip.data.sources.webdataset import TarShards

        return TarShards(paths, name=spec)

    # Formats that are one file or folder of this machine.
    path = _only(paths, spec)
    match ending(path):
        case "/":
            from slip.data.sources.folder import ImageFolder

            return ImageFolder(path)
        case ".csv" | ".tsv" | ".jsonl":
            from slip.data.sources.table import Table

            return Table(
                path, image_root=image_root, image_column=image_column, caption_column=caption_column
            )
        case ".json":
            from slip.data.sources.coco import CocoCaptions

            return CocoCaptions(path, image_root=image_root)
    raise _unknown(path)


def _only(paths: list[str], spec: str) -> str:
    """Return the one local path there is. Raises DataError when there are several, or it is a URL."""
    path = paths[0]
    if len(paths) > 1:
        other = next(path for path in paths if ending(path) != ".tar")
        raise DataError(
            f"Several files can be one source only if all of them are .tar shards; {spec!r} stands for "
            f"{len(paths)} files, one of them {shown(other)}"
        )
    if _is_compressed_tar(path) or ending(path) == "":
        raise _unknown(path)
    if is_url(path):
        raise DataError(
            f"Of what is not on this machine, only {REMOTE} can be read",
            got=shown(path),
            fix="Copy it to a disk of this machine first, with the images it names; or make shards of them",
        )
    return path


def _unknown(path: str) -> DataError:
    if _is_compressed_tar(path):
        return DataError(
            "The tar shard is compressed",
            got=shown(path),
            cause="Records are read from the middle of a shard, which only an uncompressed one allows",
            fix="Unpack it to a plain .tar (gunzip, unzstd, unxz); JPEGs hardly shrink anyway",
        )
    suffix = ending(path)
    return DataError(
        f"The ending {suffix!r} is not one of a known format" if suffix else "The file has no ending",
        got=shown(path),
        fix=f"A source is {FORMATS}",
    )


def _is_compressed_tar(path: str) -> bool:
    return re.search(r"\.(tgz|tar\.\w+)$", shown(path).lower()) is not None
