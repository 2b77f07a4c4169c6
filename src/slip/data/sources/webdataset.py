"""WebDataset tar shards, as img2dataset and others write them, with random access, on a disk or behind URLs.

The members `a/0001.jpg`, `a/0001.json` and `a/0001.txt` are one sample with the key `a/0001`. Shards are read where
they lie: a local record is two or three reads at known places. Of remote shards a whole block of records is fetched
at once and held for the block's other records (see `TarShards.block`).
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slip.data.containers.tar import BLOCK, header_name, header_size, is_header
from slip.data.formats import image_endings
from slip.data.record import Record
from slip.data.sources.files import texts
from slip.data.sources.tar_index import ShardIndex, index_shards, split_name
from slip.data.storage.files import File, Pieces, Recent, open_file
from slip.data.storage.retry import is_url, shown
from slip.data.storage.shared import Shared
from slip.errors import DataError

OPEN_SHARDS = 128
"""Files kept open in each process."""
REMOTE_BLOCK = 64
"""Records of remote shards that are fetched together. Part of a run's identity: the order of records follows it.
A process that has B rows of a batch fetches about 1 + 64 / B times what it uses: the blocks at their ends reach
farther."""
HELD, HELD_BYTES = 16, 64 << 20
"""What each process holds of what it fetched: so many requests' answers, and so many bytes."""
FETCHED_BYTES = 16 << 20
"""The most that one record's turn fetches, but for a larger record: a block of more is fetched by halves or less; one
of more than HELD_BYTES record by record."""
GAP = 256 << 10
"""Bytes not needed between bytes needed that are rather fetched than asked around."""

_Span = tuple[int, int]  # first byte, byte after the last
_Part = tuple[int, int, list[_Span]]  # samples [first, last) and what to fetch for them


class TarShards:
    """The samples of tar shards that have an image, shard after shard, in the order in which they lie there.

    A sample's captions are those of its `.json` member (`captions`, a list, or `caption`), else that of its `.txt`
    member, else none. The index takes 24 bytes of memory a sample, shared by the processes of a run. `ignored` counts
    the other members by extension.

    `block` is 1 if all shards are local. If any is behind a URL it is REMOTE_BLOCK: reading a record i of a remote
    shard fetches the records of [k · block, (k + 1) · block) with k = i // block, as far as they lie in i's shard,
    with one request. So a block that straddles two shards takes two, and no request crosses shards.

    `note` says which remote shards could not be asked about and are taken as they were when they were indexed.

    Raises DataError when a shard cannot be read to its end, or when no shard holds an image.
    """

    def __init__(self, paths: Sequence[str | Path], *, name: str = "") -> None:
        """`paths`: the shards, also URLs. `name`: what to call them together; default: the first path."""
        self.paths = [path if is_url(path) else os.path.abspath(path) for path in map(str, paths)]
        self.name = shown(name or str(paths[0]))
        self.block = REMOTE_BLOCK if any(map(is_url, self.paths)) else 1
        indexes = index_shards(self.paths, self.name)
        self.ignored: Counter[str] = sum((index.ignored for index in indexes), Counter())
        self._status = [index.status for index in indexes]
        self.note = _missing(indexes)
        self._keys: dict[int, str] = {}  # only of samples whose image has an extended header
        self._first = [0]  # shard s has the samples first[s] to first[s + 1]
        for index in indexes:
            self._keys |= {self._first[-1] + sample: key for sample, key in index.keys.items()}
            self._first.append(self._first[-1] + len(index.places))
        # sample, column, (block, size)
        self._places = Shared(np.concatenate([index.places for index in indexes]))
        self._files: Recent[File] = Recent(OPEN_SHARDS)
        self._plans: Recent[list[_Part]] = Recent(HELD)
        self._pieces: Recent[Pieces] = Recent(HELD, HELD_BYTES)
        if not len(self):
            raise self._no_images()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when it cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        shard = bisect_right(self._first, index) - 1
        path = shown(self.paths[shard])
        file = self._file(shard, index)
        (block, size), json_place, text_place = self._places.array[index].tolist()
        data = file.read((block - 1) * BLOCK, BLOCK + size)  # the header, for the key, with the image
        if not _is_header_of(data, size):
            raise DataError(
                "The tar shard has changed since it was opened",
                got=path,
                cause="Where an image was, there is something else",
                fix="Start again, so that the shard is indexed anew",
            )
        key = self._keys.get(index) or split_name(header_name(data))[0]
        try:
            captions = _captions(file, json_place, text_place)
        except (ValueError, RecursionError) as error:  # what broken JSON and UTF-8 raise
            raise DataError(f"The caption of '{key}' in {path} cannot be read", cause=str(error)) from None
        return Record(data[BLOCK:], captions, key, path)

    def _file(self, shard: int, index: int) -> File | Pieces:
        """Return what record `index` of a shard is read from: the shard, or the pieces of it that hold its block."""
        path = self.paths[shard]
        file = self._files.get(shard, lambda: open_file(path, self._status[shard]))
        if not is_url(path):
            return file
        block = index // self.block
        first = max(block * self.block, self._first[shard])
        last = min((block + 1) * self.block, self._first[shard + 1])
        plan = self._plans.get(first, lambda: _plan_of_block(self._places.array, first, last))
        first, last, spans = next(part for part in plan if index < part[1])
        return self._pieces.get(first, lambda: Pieces(file, spans), lambda pieces: pieces.size)

    def _no_images(self) -> DataError:
        seen = ", ".join(f"{count} × .{extension}" for extension, count in self.ignored.most_common(5))
        return DataError(
            "The tar shards hold no images",
            got=self.name,
            cause=f"They hold only {seen}" if seen else "They are empty",
            fix=f"Images must end in {image_endings()}",
        )


def _missing(indexes: Sequence[ShardIndex]) -> str:
    """Return what there is to say about the shards that could not be asked about, "" if there are none."""
    troubles = [index.trouble for index in indexes if index.trouble]
    if not troubles:
        return ""
    first = f"{troubles[0].got}: {troubles[0].what}"
    return (
        f"warning: {len(troubles):,} of {len(indexes):,} shards could not be asked about, for example {first}. "
        "They are taken as they were when they were indexed; their records are skipped while they cannot be had"
    )


def _captions(file: File | Pieces, json_place: list[int], text_place: list[int]) -> tuple[str, ...]:
    """Read a sample's captions. Raises ValueError or RecursionError when its JSON or text is broken."""
    captions: tuple[str, ...] = ()
    if json_place[0]:
        sidecar = json.loads(file.read(json_place[0] * BLOCK, json_place[1]))
        if isinstance(sidecar, dict):
            captions = texts(sidecar.get("captions")) or texts(sidecar.get("caption"))
    if not captions and text_place[0]:
        captions = texts(file.read(text_place[0] * BLOCK, text_place[1]).decode("utf-8-sig"))
    return captions


def _is_header_of(header: bytes, size: int) -> bool:
    """Whether the bytes begin with a header of a file of `size` bytes; 0 there: an extended header has the size."""
    try:
        return is_header(header[:BLOCK]) and header_size(header) in (size, 0)
    except ValueError:
        return False


def _plan_of_block(places: np.ndarray, first: int, last: int) -> list[_Part]:
    """Return what to fetch for the samples of a block, or its share in a shard, which are asked for in any order: as
    much at once as can be held beside the rest of the block, or each alone."""
    if _size(_spans(places[first:last])) * REMOTE_BLOCK <= HELD_BYTES * (last - first):
        return _plan(places, first, last)
    return [(sample, sample + 1, _spans(places[sample : sample + 1])) for sample in range(first, last)]


def _plan(places: np.ndarray, first: int, last: int) -> list[_Part]:
    """Cut the samples [first, last) of a shard into parts that are fetched at once: all of them, if not too large."""
    spans = _spans(places[first:last])
    if last - first == 1 or _size(spans) <= FETCHED_BYTES:
        return [(first, last, spans)]
    middle = (first + last) // 2
    return _plan(places, first, middle) + _plan(places, middle, last)


def _size(spans: list[_Span]) -> int:
    return sum(end - start for start, end in spans)


def _spans(places: np.ndarray) -> list[_Span]:
    """Return what to fetch for samples: their members and the headers of their images, in order."""
    starts = places[..., 0].astype(np.int64) * BLOCK
    ends = starts + places[..., 1]
    starts[:, 0] -= BLOCK
    there = places[..., 0] > 0
    spans: list[_Span] = []
    for start, end in sorted(zip(starts[there].tolist(), ends[there].tolist())):
        if spans and start <= spans[-1][1] + GAP:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans
