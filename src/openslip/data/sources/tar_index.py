"""Index the samples of tar shards: walk over each shard once, then keep the places of the samples in an index file.

The index of `shards/a.tar` is `shards/.openslip-index/a.tar.index`: the index folder moves with the shards, is easily
deleted, and matches no glob. If it cannot be written, and for shards behind a URL, the index is in the cache folder.
An index holds the size and version (mtime or ETag) of the shard, and the options asked for. An index that does not
fit, or is damaged, is made again.
Local shards that are walked in less than WORTH_KEEPING seconds get no index file beside them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openslip.data.containers.tar import BLOCK, Member, members
from openslip.data.contents import Contents
from openslip.data.sources import samples, sidecars
from openslip.data.sources.sidecars import Asked
from openslip.data.storage.reading import (
    File,
    ReadAhead,
    Stat,
    cache_folder,
    cache_name,
    open_file,
    stat,
)
from openslip.data.storage.retry import is_url
from openslip.errors import DataError, printable
from openslip.files import read_whole, whole_or_not
from openslip.progress import Bar

FOLDER = ".openslip-index"
MAGIC = b"openslip tar index 4\n"
WORTH_KEEPING = 0.2
"""Indexes of local shards are written if the walk over the shards takes at least this many seconds."""
THREADS = 16
"""Shards walked at once. Threads suffice, because servers and disks are slow: the walk itself takes 0.1 s for 20,000
members. For 6 such shards on 2 busy cores, processes took 4 s, of which 1.2 to 1.6 s to start; threads took 2 s."""
SILENCE = 1.5
"""Seconds after which progress is shown."""
LOOKED_AT = 16
"""Members with captions at the beginning of each shard that are read during the walk, to look at them."""
LARGEST_LOOK = 1 << 16
"""The most bytes of a member that is read during the walk."""
MOST_TOLD = 50
"""The most extensions of pictures that an index counts."""
UNREACHABLE = 8
"""After this many unreadable shards behind URLs no more are tried, because each takes long."""


class Wanted(NamedTuple):
    """What a user asked for in the samples: the extension of the picture (`rgb.jpg`, or `rgb`), and captions."""

    picture: str = ""
    captions: Asked = sidecars.USUAL

    def __str__(self) -> str:
        lines = ":lines" * self.captions.lines
        return f"{self.picture}/{','.join(self.captions.names)}{lines}" if self != UNASKED else ""


UNASKED = Wanted()


class ShardIndex(NamedTuple):
    """The samples of one shard that have an image.

    extents: (samples, 3, 2) uint32: for image, `.json` and text, the block where the data begin, and the bytes.
    Block 0, which is always a header, stands for "has none". keys: sample → key, only where the image's header lacks
    the key; other keys are read with the image. contents: members seen, and why some are not used.
    facts: facts on some samples' captions (`sidecars.look`), and counts of samples: with a picture of an extension
    ("picture jpg"), with the captions asked for ("asked"), with several equally likely pictures ("tied rgb.jpg,
    x.jpg"), with a key that has dots ("renamed"). remarks: oddities of the file. trouble: why the shard could not be
    reached, so that this is the kept index; the samples may be readable later.
    """

    extents: np.ndarray
    keys: dict[int, str]
    contents: Contents
    facts: Counter[str]
    remarks: tuple[str, ...]
    status: Stat
    trouble: DataError | None = None


class Broken(NamedTuple):
    """A shard that cannot be used, and why."""

    path: str
    error: DataError


def index_shards(
    paths: Sequence[str], name: str, wanted: Wanted = UNASKED
) -> tuple[list[ShardIndex | None], list[Broken]]:
    """Return the shards' indexes, read from their files or made, several at once; `name` is for the progress bar.

    A shard that cannot be read to its end has None, and is among the broken ones. After UNREACHABLE such shards behind
    URLs the rest are not tried, and have None as well. For a remote shard that cannot be reached, a kept index file is
    used if other shards answer: one of hundreds that is away for a while should not keep a run from starting or from
    continuing.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(min(THREADS, len(paths)))
    begun = time.monotonic()
    quick: list[tuple[str, ShardIndex]] = []  # made quickly: kept only if all together took long
    try:
        futures = [pool.submit(_load_or_walk, path, wanted, stop, begun, quick) for path in paths]
        away = 0
        for future in _with_progress(futures, name):
            error = future.exception()
            if error and not isinstance(error, DataError):
                raise error
            away += error is not None and is_url(paths[futures.index(future)])
            if away >= UNREACHABLE:
                break
    finally:  # also on Ctrl-C: walking over a large shard would keep the process alive
        stop.set()
        pool.shutdown(cancel_futures=True)
    if time.monotonic() - begun >= WORTH_KEEPING:
        for path, index in quick:
            _keep(path, index, wanted)
    indexes, broken = [], []
    for path, future in zip(paths, futures):
        error = None if future.cancelled() else future.exception()
        indexes.append(None if error or future.cancelled() else future.result())
        if isinstance(error, DataError) and not isinstance(error, Stopped):
            broken.append(Broken(path, error))
    whole = [index for index in indexes if index]
    if whole and all(index.trouble for index in whole) and whole[0].trouble:
        raise whole[0].trouble
    return indexes, broken


class Stopped(DataError):
    """The walk over a shard was stopped, because it was no longer needed."""


def _load_or_walk(
    path: str, wanted: Wanted, stop: threading.Event, begun: float, quick: list[tuple[str, ShardIndex]]
) -> ShardIndex:
    """Return the index of one shard. A new index is kept, or left to the caller in `quick`."""
    try:
        status = stat(path)
    except DataError as error:
        if not is_url(path) or (index := _load(path, None, wanted)) is None:
            raise
        return index._replace(trouble=error)
    if (index := _load(path, status, wanted)) is not None:
        return index
    file = open_file(path, status)
    index = walk(ReadAhead(file) if is_url(path) else file, status, wanted, stop)
    if is_url(path) or time.monotonic() - begun >= WORTH_KEEPING:
        _keep(path, index, wanted)
    else:
        quick.append((path, index))
    return index


def walk(
    file: File, status: Stat, wanted: Wanted = UNASKED, stop: threading.Event | None = None
) -> ShardIndex:
    """Make the index of a shard. Raises DataError when the shard cannot be read to its end."""
    extents, keys = array("I"), {}
    facts, remarks = Counter(), []
    census, looked = samples.Census(), {}
    names = tuple(name.lower() for name in wanted.captions.names)
    asked = bool(wanted.picture), bool(names)
    kinds: dict[tuple[str, ...], samples.Chosen] = {}  # extensions of a sample → what is chosen among them
    counts: Counter[tuple[str, ...]] = Counter()

    def check() -> None:
        if stop and stop.is_set():
            raise Stopped("Reading the shards was stopped")

    for key, files, renamed in samples.group(_members(file, looked, remarks), census, check):
        extensions = tuple(files)
        chosen = kinds.get(extensions)
        if chosen is None:
            chosen = kinds[extensions] = samples.choose(files, wanted.picture, names)
        counts[extensions] += 1
        if len(files) > 1 + bool(chosen.json) + bool(chosen.text) or not chosen.picture:
            samples.leave_out(files, chosen, census, asked=asked)
        if not chosen.picture:
            continue
        taken = files[chosen.picture], files.get(chosen.json), files.get(chosen.text)
        count = len(extents) // 6
        if renamed or taken[0].extended:
            keys[count] = key
            facts["renamed"] += renamed
        for member in taken:
            extents.extend((member.offset // BLOCK, member.size) if member else (0, 0))
        if count < LOOKED_AT:
            facts.update(_look(taken[1:], looked, wanted.captions))
    facts.update(_of_kinds(((kinds[key], count) for key, count in counts.items()), bool(names)))
    return ShardIndex(
        np.array(extents, np.uint32).reshape(-1, 3, 2),
        keys,
        census.contents(file.path),
        +facts,
        tuple(remarks),
        status,
    )


def write_index(path: str) -> None:
    """Make and keep the index of a local shard, however small, for code that has just written the shard.

    Raises DataError when the shard cannot be read to its end. An index that cannot be written is skipped.
    """
    path = os.path.abspath(path)
    status = stat(path)
    _keep(path, walk(open_file(path, status), status), UNASKED)


def _members(file: File, looked: dict[int, bytes], remarks: list[str]) -> Iterator[Member]:
    """Yield the members of a shard; put the contents of the first members with captions into `looked`, by offset."""
    found = members(file, remarks.append)
    endings = (".json", *(f".{text}" for text in sidecars.TEXTS))
    for member in found:
        yield member
        plain = member.size <= LARGEST_LOOK and not (member.link or member.sparse)
        if plain and member.name.lower().endswith(endings):
            looked[member.offset] = file.read(member.offset, member.size)
            if len(looked) >= LOOKED_AT:
                break
    yield from found


def _of_kinds(kinds: Iterable[tuple[samples.Chosen, int]], asked: bool) -> Counter[str]:
    """Return the facts about samples that follow from their extensions; `kinds`: what was chosen, how many samples."""
    pictures, tied = Counter(), Counter()
    facts: Counter[str] = Counter()
    for chosen, count in kinds:
        if chosen.picture:
            pictures[f"picture {chosen.picture}"] += count
            facts["asked"] += count if asked and chosen.text else 0
        if chosen.tied:
            tied[f"tied {', '.join((chosen.picture, *chosen.tied))}"] += count
    facts.update(dict(pictures.most_common(MOST_TOLD)))
    facts.update(dict(tied.most_common(MOST_TOLD)))
    return facts


def _look(taken: Sequence[Member | None], looked: dict[int, bytes], asked: Asked) -> Counter[str]:
    """Return the facts about a sample's captions, if its members were among the first."""
    if not any(taken) or any(member and member.offset not in looked for member in taken):
        return Counter()
    sidecar, text = (looked[member.offset] if member else None for member in taken)
    facts = sidecars.look(sidecar, text, asked)
    facts["asked"] += 1 - facts["none"] if asked.names and facts else 0
    return facts


# Index files: MAGIC, the checksum of the rest, the length of the JSON that follows, the JSON, the extents.


def encode(index: ShardIndex, wanted: Wanted = UNASKED) -> bytes:
    """Return the bytes of an index file."""
    about = json.dumps(
        {
            "size": index.status.size,
            "version": index.status.version,
            "wanted": str(wanted),
            "samples": len(index.extents),
            "keys": {str(sample): key for sample, key in index.keys.items()},
            "contents": index.contents.to_dict(),
            "facts": index.facts,
            "remarks": index.remarks,
        }
    ).encode()
    rest = len(about).to_bytes(4, "little") + about + index.extents.astype("<u4").tobytes()
    return MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest


def decode(data: bytes, status: Stat | None, wanted: Wanted = UNASKED) -> ShardIndex | None:
    """Return the index that a file holds. None when it is damaged, does not fit a known `status` of the shard, or was
    made for other options."""
    checksum, rest = data[len(MAGIC) :][:4], memoryview(data)[len(MAGIC) + 4 :]
    if not data.startswith(MAGIC) or zlib.crc32(rest).to_bytes(4, "little") != checksum:
        return None
    end = 4 + int.from_bytes(rest[:4], "little")
    try:
        about = json.loads(bytes(rest[4:end]))
        if status is None:
            status = Stat(int(about["size"]), str(about["version"]))
        if (about["size"], about["version"], about["wanted"]) != (*status[:2], str(wanted)):
            return None
        extents = (
            np.frombuffer(rest[end:], "<u4").astype(np.uint32, copy=False).reshape(about["samples"], 3, 2)
        )
        keys = {int(sample): str(key) for sample, key in about["keys"].items()}
        contents = Contents.from_dict(about["contents"])
        facts = Counter({str(fact): int(count) for fact, count in about["facts"].items()})
        remarks = tuple(map(str, about["remarks"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    ends = extents[..., 0].astype(np.int64) * BLOCK + extents[..., 1]
    if len(extents) and (ends.max() > status.size or not extents[:, 0, 0].all()):
        return None
    return ShardIndex(extents, keys, contents, facts, remarks, status)


def _index_files(path: str, wanted: Wanted) -> list[Path]:
    """Return where the index file of a shard may be, the better place first."""
    asked = f".{zlib.crc32(str(wanted).encode()):08x}" if str(wanted) else ""
    in_cache = cache_folder() / "indexes" / f"{cache_name(path)}{asked}.index"
    folder, base = os.path.split(path)
    return [in_cache] if is_url(path) else [Path(folder) / FOLDER / f"{base}{asked}.index", in_cache]


def _load(path: str, status: Stat | None, wanted: Wanted) -> ShardIndex | None:
    for file_path in _index_files(path, wanted):
        try:
            # An index is far smaller than its shard. A larger file is no index, and is not read into memory.
            size, most = file_path.stat().st_size, status.size + 65_536 if status else math.inf
            index = decode(read_whole(file_path, size), status, wanted) if size <= most else None
        except OSError:
            continue
        if index is not None:
            return index
    return None


def _keep(path: str, index: ShardIndex, wanted: Wanted) -> None:
    """Write an index file; if none can be written, the next run walks over the shard again."""
    for file_path in _index_files(path, wanted):
        try:
            file_path.parent.mkdir(parents=True, exist_ok=True)
            with whole_or_not(file_path) as file:
                file.write(encode(index, wanted))
            return
        except OSError:
            continue


def _with_progress(futures: list[Future[ShardIndex]], name: str) -> Iterator[Future[ShardIndex]]:
    """Yield the futures as they finish, with a progress bar on stderr if that takes long."""
    text, left = printable(f"Looking through {len(futures):,} shards of {name}"), set(futures)
    done, left = wait(left, timeout=SILENCE, return_when=ALL_COMPLETED)
    yield from done
    if not left:
        return
    with Bar(text, len(futures), done=len(futures) - len(left), transient=True) as bar:
        if not bar.live:
            print(f"{text} (once: the index is kept)", file=sys.stderr, flush=True)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            yield from done
            bar.update(done=len(futures) - len(left))
