"""Which samples a tar shard holds and where: found by walking over it once, then kept in an index file.

The index of `shards/a.tar` is `shards/.openslip-index/a.tar.index`, so that it moves with the folder, is one thing to
delete, and is met by no glob. Where that cannot be written, and for shards behind a URL, it is in the cache folder.
It holds the size and version (mtime or ETag) of its shard; one that does not fit, or is damaged, is made again.
Local shards that are walked in less than WORTH_KEEPING seconds get none: nothing is put beside anybody's few shards.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slip.data.containers.tar import BLOCK, Member, members
from slip.data.formats import EXTENSIONS
from slip.data.limits import FILE_BYTES
from slip.data.storage.files import (
    File,
    ReadAhead,
    Stat,
    cache_folder,
    cache_name,
    open_file,
    stat,
)
from slip.data.storage.retry import is_url
from slip.errors import DataError, printable
from slip.files import read_whole, whole_or_not
from slip.progress import Bar

FOLDER = ".openslip-index"
MAGIC = b"openslip tar index 2\n"
WORTH_KEEPING = 0.2
"""Seconds of walking over local shards from which on their indexes are written."""
THREADS = 16
"""Shards walked at once. Threads, for what takes long is a server or a disk: the walk itself takes 0.1 s for 20,000
members. On 6 such shards on 2 busy cores, processes took 4 s and threads 2: starting them was 1.2 to 1.6 s of it."""
SILENCE = 1.5
"""Seconds after which progress is shown."""
LARGEST = 1 << 32
"""Members of this many bytes and more are passed over: their sizes do not fit the index."""


class ShardIndex(NamedTuple):
    """The samples of one shard that have an image.

    places: (samples, 3, 2) uint32: for image, `.json` and `.txt` the block where the data begin, and their bytes.
    Block 0, which is always a header, stands for "has none". keys: sample → key, of those only whose image has an
    extended header; the others' keys are read with the image. ignored: extension → members left out. trouble: why the
    shard could not be asked about now, where the index is as it was kept; its samples may yet be had later.
    """

    places: np.ndarray
    keys: dict[int, str]
    ignored: Counter[str]
    status: Stat
    trouble: DataError | None = None


def index_shards(paths: Sequence[str], name: str) -> list[ShardIndex]:
    """Return the shards' indexes, read from their files or made, several at once; `name` is for the progress bar.

    A remote shard that cannot be asked about is taken as its index file has it, if there is one and others answer:
    one of hundreds that is away for a while should not keep a run from starting, let alone from going on.
    Raises DataError for the first shard found that cannot be read to its end.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(min(THREADS, len(paths)))
    begun = time.monotonic()
    quick: list[tuple[str, ShardIndex]] = []  # made, and not worth keeping if that was all
    try:
        futures = [pool.submit(_load_or_walk, path, stop, begun, quick) for path in paths]
        for future in _with_progress(futures, name):
            future.result()
    finally:  # also on Ctrl-C: walking over a large shard would keep the process alive
        stop.set()
        pool.shutdown(cancel_futures=True)
    if time.monotonic() - begun >= WORTH_KEEPING:
        for path, index in quick:
            _keep(path, index)
    indexes = [future.result() for future in futures]
    if all(index.trouble for index in indexes) and indexes[0].trouble:
        raise indexes[0].trouble
    return indexes


def _load_or_walk(
    path: str, stop: threading.Event, begun: float, quick: list[tuple[str, ShardIndex]]
) -> ShardIndex:
    """Return the index of one shard; one that was made is kept, or left to the caller in `quick`."""
    try:
        status = stat(path)
    except DataError as error:
        if not is_url(path) or (index := _load(path, None)) is None:
            raise
        return index._replace(trouble=error)
    if (index := _load(path, status)) is not None:
        return index
    file = open_file(path, status)
    index = walk(ReadAhead(file) if is_url(path) else file, status, stop)
    if is_url(path) or time.monotonic() - begun >= WORTH_KEEPING:
        _keep(path, index)
    else:
        quick.append((path, index))
    return index


def walk(file: File, status: Stat, stop: threading.Event | None = None) -> ShardIndex:
    """Make the index of a shard. Raises DataError when it cannot be read to its end."""
    places, keys, ignored = array("I"), {}, Counter()
    for key, files in _samples(file, stop):
        image = _image(files)
        for extension in files:
            if not image or extension not in (image, "json", "txt"):
                ignored[extension] += 1
        if not image:
            continue
        if files[image].extended:
            keys[len(places) // 6] = key
        for member in files[image], files.get("json"), files.get("txt"):
            places.extend((member.offset // BLOCK, member.size) if member else (0, 0))
    return ShardIndex(np.array(places, np.uint32).reshape(-1, 3, 2), keys, ignored, status)


def write_index(path: str) -> None:
    """Make and keep the index of a local shard, however small: for who writes shards and has just made one.

    Raises DataError when the shard cannot be read to its end. An index that cannot be written is none.
    """
    path = os.path.abspath(path)
    status = stat(path)
    _keep(path, walk(open_file(path, status), status))


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does; hidden files have no extension."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem else (name, "")


def _samples(file: File, stop: threading.Event | None) -> list[tuple[str, dict[str, Member]]]:
    """Group a shard's members by key, in order: key, extension → member. A repeated member begins a new sample."""
    samples: list[tuple[str, dict[str, Member]]] = []
    latest: dict[str, dict[str, Member]] = {}
    for member in members(file):
        if stop and stop.is_set():
            raise DataError("Reading the shards was stopped")
        key, extension = split_name(member.name)
        files = latest.get(key)
        if files is None or extension in files:
            files = latest[key] = {}
            samples.append((key, files))
        if member.size < LARGEST:
            files[extension] = member
    return samples


def _image(files: dict[str, Member]) -> str:
    """Return the extension of the sample's image (`jpg` before `0.jpg`, else the first), or an empty string."""
    for extension in files:
        if extension in EXTENSIONS:
            return extension
    return next((extension for extension in files if extension.rpartition(".")[2] in EXTENSIONS), "")


# Index files: MAGIC, the checksum of the rest, the length of the JSON that follows, the JSON, the places.


def encode(index: ShardIndex) -> bytes:
    """Return the bytes of an index file."""
    about = json.dumps(
        {
            "size": index.status.size,
            "version": index.status.version,
            "samples": len(index.places),
            "keys": {str(sample): key for sample, key in index.keys.items()},
            "ignored": index.ignored,
        }
    ).encode()
    rest = len(about).to_bytes(4, "little") + about + index.places.astype("<u4").tobytes()
    return MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest


def decode(data: bytes, status: Stat | None) -> ShardIndex | None:
    """Return the index that a file holds, or None when it is damaged or that of another shard or version than `status`
    says, if that is known."""
    checksum, rest = data[len(MAGIC) :][:4], memoryview(data)[len(MAGIC) + 4 :]
    if not data.startswith(MAGIC) or zlib.crc32(rest).to_bytes(4, "little") != checksum:
        return None
    end = 4 + int.from_bytes(rest[:4], "little")
    try:
        about = json.loads(bytes(rest[4:end]))
        if status is None:
            status = Stat(int(about["size"]), str(about["version"]))
        if (about["size"], about["version"]) != (status.size, status.version):
            return None
        places = (
            np.frombuffer(rest[end:], "<u4").astype(np.uint32, copy=False).reshape(about["samples"], 3, 2)
        )
        keys = {int(sample): str(key) for sample, key in about["keys"].items()}
        ignored = Counter({str(extension): int(count) for extension, count in about["ignored"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    ends = places[..., 0].astype(np.int64) * BLOCK + places[..., 1]
    if len(places) and (ends.max() > status.size or not places[:, 0, 0].all()):
        return None
    return ShardIndex(places, keys, ignored, status)


def _places(path: str) -> list[Path]:
    """Return where the index file of a shard may be, the better place first."""
    in_cache = cache_folder() / "indexes" / f"{cache_name(path)}.index"
    folder, base = os.path.split(path)
    return [in_cache] if is_url(path) else [Path(folder) / FOLDER / f"{base}.index", in_cache]


def _load(path: str, status: Stat | None) -> ShardIndex | None:
    for place in _places(path):
        try:
            # An index is far smaller than its shard: what is not, is none, and is not read into memory.
            if status and place.stat().st_size > status.size + 65_536:
                continue
            index = decode(read_whole(place, FILE_BYTES), status)
        except OSError:
            continue
        if index is not None:
            return index
    return None


def _keep(path: str, index: ShardIndex) -> None:
    """Write an index file; where nothing can be written, the shard will be walked over again next time."""
    for place in _places(path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole_or_not(place) as file:
                file.write(encode(index))
            return
        except OSError:
            continue


def _with_progress(futures: list[Future[ShardIndex]], name: str) -> Iterator[Future[ShardIndex]]:
    """Yield the futures as they are done, with a bar on the standard error output if that takes long."""
    text, left = printable(f"Looking through {len(futures):,} shards of {name}"), set(futures)
    done, left = wait(left, timeout=SILENCE, return_when=FIRST_EXCEPTION)
    yield from done
    if not left:
        return
    with Bar(text, len(futures), done=len(futures) - len(left), transient=True) as bar:
        if not bar.live:
            print(f"{text} (once: what is found is kept)", file=sys.stderr, flush=True)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            yield from done
            bar.update(done=len(futures) - len(left))
