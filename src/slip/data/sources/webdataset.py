"""WebDataset tar shards, as img2dataset and others write them, with random access.

The members `a/0001.jpg`, `a/0001.json` and `a/0001.txt` are one sample with the key `a/0001`. Shards are read where
they lie: opening walks over the headers, and a record is two or three reads at known places.
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slip.data.record import Record
from slip.data.sources.files import IMAGE_EXTENSIONS, texts
from slip.data.sources.tar import BLOCK, Member, header_name, members
from slip.errors import DataError

OPEN_SHARDS = 128
"""File handles kept open in each process."""

IMAGE, JSON, TEXT = range(3)
"""What a sample may have: the columns of the index."""


class TarShards:
    """The samples of tar shards that have an image, shard after shard, in the order in which they lie there.

    A sample's captions are those of its `.json` member (`captions`, a list, or `caption`), else that of its `.txt`
    member, else none. The index takes 24 bytes of memory a sample. `ignored` counts the other members by extension.
    Raises DataError when a shard cannot be read to its end, or when no shard holds an image.
    """

    def __init__(self, paths: Sequence[str | Path], *, name: str = "") -> None:
        """`paths`: the shards. `name`: what to call them together; default: the first path."""
        self.paths = [os.path.abspath(path) for path in paths]
        self.name = name or str(paths[0])
        self.ignored: Counter[str] = Counter()
        self._keys: dict[int, str] = {}  # only of samples whose image has an extended header
        self._first = [0]  # shard s has the samples first[s] to first[s + 1]
        index = array("I")
        for path in self.paths:
            for key, files in _samples(path):
                image = _image(files)
                self.ignored.update(files.keys() - {image, "json", "txt"} if image else files.keys())
                if not image:
                    continue
                if files[image].extended:
                    self._keys[len(index) // 6] = key
                for member in files[image], files.get("json"), files.get("txt"):
                    # Block 0 is always a header: it stands for "has none".
                    index.extend((member.offset // BLOCK, member.size) if member else (0, 0))
            self._first.append(len(index) // 6)
        self._index = np.frombuffer(index, np.uint32).reshape(-1, 3, 2)  # sample, column, (block, size)
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        if not len(self):
            raise self._no_images()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when it cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        shard = bisect_right(self._first, index) - 1
        (block, size), json_span, text_span = self._index[index].tolist()
        data = self._read(shard, block - 1, BLOCK + size)  # the header, for the key, with the image
        key = self._keys.get(index) or _split(header_name(data))[0]
        path = self.paths[shard]
        try:
            captions = self._captions(shard, json_span, text_span)
        except (ValueError, RecursionError) as error:  # what broken JSON and UTF-8 raise
            raise DataError(f"The caption of '{key}' in {path} cannot be read", cause=str(error)) from None
        return Record(data[BLOCK:], captions, key, path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": OrderedDict()}

    def _captions(self, shard: int, json_span: list[int], text_span: list[int]) -> tuple[str, ...]:
        captions: tuple[str, ...] = ()
        if json_span[0]:
            sidecar = json.loads(self._read(shard, *json_span))
            if isinstance(sidecar, dict):
                captions = texts(sidecar.get("captions")) or texts(sidecar.get("caption"))
        if not captions and text_span[0]:
            captions = texts(self._read(shard, *text_span).decode("utf-8-sig"))
        return captions

    def _read(self, shard: int, block: int, size: int) -> bytes:
        path = self.paths[shard]
        try:
            handle = self._handles.get(shard) or self._handles.setdefault(shard, _Handle(path))
            data = os.pread(handle.descriptor, size, block * BLOCK)
        except OSError as error:
            raise DataError("The tar shard cannot be read", got=path, cause=str(error)) from None
        if len(data) < size:
            raise DataError("The tar shard has become shorter since it was opened", got=path)
        if len(self._handles) > OPEN_SHARDS:
            self._handles.popitem(last=False)
        return data

    def _no_images(self) -> DataError:
        seen = ", ".join(f"{count} × .{extension}" for extension, count in self.ignored.most_common(5))
        return DataError(
            "The tar shards hold no images",
            got=self.name,
            cause=f"They hold only {seen}" if seen else "They are empty",
            fix=f"Images must end in {', '.join('.' + e for e in sorted(IMAGE_EXTENSIONS))}",
        )


class _Handle:
    """A file descriptor that closes with its last user: one thread cannot take it from under another's read."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _samples(path: str) -> list[tuple[str, dict[str, Member]]]:
    """Group a shard's members by key, in order: key, extension → member. A repeated member begins a new sample."""
    samples: list[tuple[str, dict[str, Member]]] = []
    latest: dict[str, dict[str, Member]] = {}
    for member in members(path):
        key, extension = _split(member.name)
        files = latest.get(key)
        if files is None or extension in files:
            files = latest[key] = {}
            samples.append((key, files))
        if member.size < 1 << 32:
            files[extension] = member
    return samples


def _image(files: dict[str, Member]) -> str:
    """Return the extension of the sample's image (`jpg` before `0.jpg`, else the first), or an empty string."""
    plain = (extension for extension in files if extension in IMAGE_EXTENSIONS)
    compound = (extension for extension in files if extension.rpartition(".")[2] in IMAGE_EXTENSIONS)
    return next(plain, "") or next(compound, "")


def _split(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does; hidden files have no extension."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem, extension.lower()) if stem else (name, "")
