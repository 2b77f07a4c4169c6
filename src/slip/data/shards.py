"""Write any source as WebDataset tar shards, each whole or not there at all."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slip.data.record import Record, Source
from slip.errors import DataError

_log = logging.getLogger(__name__)
_MAGIC = {
    "jpg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
}


def write_shards(
    source: Source,
    folder: str | Path,
    shard_size: int = 1000,
    *,
    prefix: str = "",
    encoding: Literal["jpg", "png"] = "jpg",
    quality: int = 92,
    processes: int = 1,
) -> list[Path]:
    """Write the records of `source` into `folder`/[prefix]000000.tar, … and return the paths, in order.

    Each sample holds its image (`.jpg` or `.png` for arrays, as `encoding` says; encoded images go in unchanged),
    a `.json` with key, captions and, where the source has `label(index)`, label and class; and a `.txt` with the
    first caption, if there is one. A shard is written to a temporary name, synced and renamed, so it is never seen
    half-written. The bytes depend on the records alone, not on `processes` (more than 1: the source is pickled).
    A record that cannot be read is left out, with a warning in the log.

    Raises DataError when the folder cannot be written or holds shards of another, longer set of the same prefix.
    """
    if shard_size < 1:
        raise DataError("A shard holds at least 1 sample", got=shard_size)
    if encoding not in ("jpg", "png"):
        raise DataError("Shards hold arrays as 'jpg' or 'png'", got=encoding)
    folder = Path(folder)
    starts = range(0, len(source), shard_size)
    paths = [folder / f"{prefix}{k:06d}.tar" for k in range(len(starts))]
    _prepare(folder, prefix, paths)
    jobs = [
        (source, path, start, min(start + shard_size, len(source)), encoding, quality)
        for path, start in zip(paths, starts)
    ]
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            _write_shard(*job)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
            for future in [pool.submit(_write_shard, *job) for job in jobs]:
                future.result()
    return paths


def _prepare(folder: Path, prefix: str, paths: list[Path]) -> None:
    """Make the folder, and refuse to mix two sets of shards in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            "The folder for the shards cannot be made", got=str(folder), cause=str(error)
        ) from None
    stale = sorted({*folder.glob(f"{prefix}[0-9][0-9][0-9][0-9][0-9][0-9].tar")} - {*paths})
    if stale:
        raise DataError(
            f"The folder holds {len(stale)} shards that this set would not replace, such as {stale[0].name}",
            got=str(folder),
            cause="A larger set was written there before",
            fix="Write to an empty folder, or choose another prefix.",
        )


def _write_shard(source: Source, path: Path, start: int, stop: int, encoding: str, quality: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    labels = getattr(source, "label", None)
    names = getattr(source, "class_names", ())
    skipped = 0
    try:
        with open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for index in range(start, stop):
                    try:
                        record = source[index]
                        extension, image = encode(record, encoding, quality)
                    except DataError as error:
                        skipped += 1
                        _log.warning("Record %d is left out of %s: %s", index, path.name, error)
                        continue
                    about: dict[str, Any] = {"key": record.key, "captions": list(record.captions)}
                    if labels is not None:
                        about["label"] = int(labels(index))
                        if names:
                            about["class"] = names[about["label"]]
                    _add(tar, f"{index:09d}.{extension}", image)
                    _add(tar, f"{index:09d}.json", json.dumps(about, ensure_ascii=False).encode())
                    if record.captions:
                        _add(tar, f"{index:09d}.txt", record.captions[0].encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            "The shard cannot be written",
            got=str(path),
            cause=str(error),
            fix="Free some space or check the permissions; finished shards are intact.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def encode(record: Record, encoding: str = "jpg", quality: int = 92) -> tuple[str, bytes]:
    """Return (file extension, encoded bytes) of a record's image; bytes pass unchanged.

    Raises DataError when they are of no image format that is known.
    """
    image = record.image
    if isinstance(image, np.ndarray):
        from PIL import Image

        buffer = io.BytesIO()
        if encoding == "png":
            Image.fromarray(image).save(buffer, "PNG")
        else:
            Image.fromarray(image).save(
                buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2
            )
        return encoding, buffer.getvalue()
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp", image
    for extension, starts in _MAGIC.items():
        if image.startswith(starts):
            return extension, image
    raise DataError("The record holds no known image format", got=record.key)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add one member; owner and time are left empty so that equal records give equal shards."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
