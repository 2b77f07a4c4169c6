"""WebDataset tar shards, as img2dataset and others write them, with random access, on a disk or behind URLs.

The members `a/0001.jpg`, `a/0001.json` and `a/0001.txt` are one sample with the key `a/0001`. Shards are read in
place: a local record takes two or three reads at known offsets. From remote shards a whole block of records is fetched
at once and held for the block's other records (see `TarShards.block`).
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openslip.data.containers.tar import BLOCK, header_name, header_size, is_header
from openslip.data.contents import BROKEN, LARGE, Contents
from openslip.data.formats import image_endings
from openslip.data.limits import FILE_BYTES, TEXT_BYTES
from openslip.data.record import Record, Source
from openslip.data.sources import sidecars
from openslip.data.sources.image_files import Strings
from openslip.data.sources.options import Misfit
from openslip.data.sources.samples import split_name
from openslip.data.sources.sidecars import Asked
from openslip.data.sources.tar_index import Broken, ShardIndex, Wanted, index_shards
from openslip.data.storage.reading import File, Recent, Spans, open_file
from openslip.data.storage.retry import is_url, shown
from openslip.data.storage.shared_array import SharedArray
from openslip.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

OPEN_SHARDS = 128
"""Files kept open in each process."""
REMOTE_BLOCK = 64
"""Records of remote shards that are fetched together. It is part of a run's identity, because the order of records
depends on it. A process with B rows of a batch fetches about 1 + 64 / B times what it uses, because the first and last
block reach beyond the rows."""
HELD, HELD_BYTES = 16, 64 << 20
"""The most answers to requests, and the most bytes of them, that each process holds."""
FETCHED_BYTES = 16 << 20
"""The most bytes fetched for one record, unless the record is larger. A larger block is fetched by halves or less, and
a block of more than HELD_BYTES record by record."""
NEAR = 64 << 10
"""Up to this many extra bytes are read with an image to get its captions in the same read."""
NAMED = 10
"""The most broken shards that a message names."""
GAP = 256 << 10
"""A gap of up to this many bytes between needed bytes is fetched too, in place of a second request."""

_Span = tuple[int, int]  # first byte, byte after the last
_Part = tuple[int, int, list[_Span]]  # samples [first, last) and what to fetch for them


class TarShards(Source):
    """The samples of tar shards that have an image, shard after shard, in the order of the shards.

    `samples.group` and `choose` determine the members of a sample, its image and its text; `sidecars.read` takes the
    captions from its `.json` and text. `image_column` asks for the image with an extension (`rgb.jpg`, or `rgb`),
    `caption_column` for the text with an extension, or for keys of the `.json` (see `Asked`).

    `contents` counts the members and says why some are not used. `note` reports what was guessed, and which shards are
    damaged, odd or out of reach: a remote shard that cannot be reached is used by its kept index.
    The index takes 24 bytes of memory per sample, shared by the processes of a run.

    `block` is 1 if all shards are local. If any is behind a URL it is REMOTE_BLOCK: reading a record i of a remote
    shard fetches the records of [k · block, (k + 1) · block) with k = i // block, as far as they are in i's shard,
    with one request. So a block that straddles two shards takes two requests, and no request crosses shards.

    Raises DataError when shards cannot be read to their ends, naming all of them, unless `leave_broken` leaves them
    out; when no shard holds an image; when many samples have several equally likely images. Raises Misfit when no
    sample has what was asked for.
    """

    contents: Contents  # type: ignore[override]  # never None
    options = ("image_column", "caption_column")

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        name: str = "",
        image_column: str = "",
        caption_column: str = "",
        leave_broken: bool = False,
    ) -> None:
        """`paths`: the shards, also URLs. `name`: the source's name; default: the first path."""
        self.name = shown(name or str(paths[0]))
        locations = [path if is_url(path) else os.path.abspath(path) for path in map(str, paths)]
        picture = image_column.strip().lower().removeprefix(".")
        self._wanted = Wanted(picture, Asked.parse(caption_column))
        found, broken = index_shards(locations, self.name, self._wanted)
        all_tried = found.count(None) == len(broken)
        if broken and not (leave_broken and all_tried and any(found)):
            raise _broken(broken, locations, found)
        self.paths = [path for path, index in zip(locations, found) if index]
        indexes = [index for index in found if index]
        self.block = REMOTE_BLOCK if any(map(is_url, self.paths)) else 1
        self.contents = Contents("members")
        facts: Counter[str] = Counter()
        for index in indexes:
            self.contents.add(index.contents)
            facts.update(index.facts)
        if broken:
            self.beside = Contents("files", len(paths))
            for path, _ in broken:
                self.beside.leave_out(BROKEN, shown(path))
        self._status = [index.status for index in indexes]
        self._index(indexes)
        self._check(facts, image_column, caption_column)
        remarks = [remark for index in indexes for remark in index.remarks]
        self.note = "\n".join(
            [
                *([_without(broken, len(paths))] if broken else []),
                *filter(None, [_missing(indexes)]),
                *([_renamed(facts["renamed"], self.name)] if facts["renamed"] else []),
                *sidecars.notes(facts, self.name),
                *([f"warning: {remarks[0]}{_more(len(remarks) - 1)}"] if remarks else []),
            ]
        )
        self._files: Recent[File] = Recent(OPEN_SHARDS)
        self._plans: Recent[list[_Part]] = Recent(HELD)
        self._blocks_held: Recent[Spans] = Recent(HELD, HELD_BYTES)

    def _index(self, indexes: Sequence[ShardIndex]) -> None:
        """Join the indexes of the shards."""
        self._first = [0]  # shard s has the samples first[s] to first[s + 1]
        keyed = array("q")  # samples whose keys are not those in the headers of their images, and
        self._keys = Strings()  # these keys
        for index in indexes:
            for sample, key in sorted(index.keys.items()):
                keyed.append(self._first[-1] + sample)
                self._keys.append(key)
            self._first.append(self._first[-1] + len(index.extents))
        self._keyed = SharedArray(np.array(keyed, np.int64))
        # sample, column, (block, size)
        self._extents = SharedArray(np.concatenate([index.extents for index in indexes]))

    def _check(self, facts: Counter[str], image_column: str, caption_column: str) -> None:
        """Raise DataError when there is no image, or no telling which, or nothing that was asked for."""
        if not len(self):
            if image_column and any(
                reason.startswith("the sample has no such") for reason in self.contents.left_out
            ):
                raise Misfit(
                    "image_column",
                    f"No sample of {self.name} has a picture that ends in '.{self._wanted.picture}'",
                    cause="; ".join(self.contents.reasons()[:5]),
                    fix="Give the ending of the samples' pictures with --data.image-column, or leave the option out",
                )
            raise self._no_images()
        if self._wanted.captions.names and not facts["asked"]:
            keys = sorted(fact[4:] for fact in facts if fact.startswith("key "))
            raise Misfit(
                "caption_column",
                f"The samples of {self.name} have no captions {caption_column!r}",
                cause="No text beside the pictures has this ending, and no key of this name in the .json holds text",
                fix=did_you_mean(caption_column, keys)
                if keys
                else "Leave the option out: captions are then guessed",
            )
        tied = Counter({fact[5:]: count for fact, count in facts.items() if fact.startswith("tied ")})
        if tied.total() > LARGE * len(self):
            several = tied.most_common(1)[0][0].split(", ")
            raise DataError(
                f"{tied.total():,} of {len(self):,} samples have several pictures, and any may be the one to use",
                got=f"{self.name}: {', '.join('.' + extension for extension in several)}",
                fix=f"Choose one with --data.image-column, for example --data.image-column {several[0]}",
            )

    def __len__(self) -> int:
        return len(self._extents)

    def __getitem__(self, index: int) -> Record:
        """Return record `index`. Raises DataError when it cannot be read, IndexError beyond the end."""
        index = range(len(self))[index]
        shard = bisect_right(self._first, index) - 1
        path = shown(self.paths[shard])
        file = self._file(shard, index)
        extents = self._extents.array[index].tolist()
        size = extents[0][1]
        if size > FILE_BYTES or extents[1][1] > TEXT_BYTES or extents[2][1] > TEXT_BYTES:
            raise DataError(
                "The picture or its caption is too large",
                got=f"{size:,} and {max(extents[1][1], extents[2][1]):,} bytes, in {path}",
                fix="Store the picture or its caption smaller",
            )
        header, image, sidecar, text = _read(file, extents)
        if not _is_header_of(header, size):
            raise DataError(
                "The tar shard has changed since it was opened",
                got=path,
                cause="There is something else in the place of an image",
                fix="Start again, so that the shard is indexed anew",
            )
        key = self._key(index) or split_name(header_name(header))[0]
        try:
            captions = sidecars.read(sidecar, text, self._wanted.captions)
        except (ValueError, RecursionError) as error:  # what broken JSON and UTF-8 raise
            raise DataError(
                "The caption cannot be read", got=f"that of '{key}' in {path}", cause=str(error)
            ) from None
        return Record(image, captions, key, path)

    def beside_image(self, index: int) -> tuple[str, bytes | None, bytes | None]:
        """Return the key of record `index`, and its stored `.json` and text, each None where it has none.

        The image is not read, which saves time only for local shards. Raises DataError when they cannot be read.
        """
        index = range(len(self))[index]
        sidecar, text = self._beside(index)
        if not (key := self._key(index)):
            file = self._file(bisect_right(self._first, index) - 1, index)
            key = split_name(
                header_name(file.read((int(self._extents.array[index, 0, 0]) - 1) * BLOCK, BLOCK))
            )[0]
        return key, sidecar, text

    def _beside(self, index: int) -> tuple[bytes | None, bytes | None]:
        shard = bisect_right(self._first, index) - 1
        _, *others = self._extents.array[index].tolist()
        if any(size > TEXT_BYTES for _, size in others):
            raise DataError("A text beside a picture is too large", got=shown(self.paths[shard]))
        file = self._file(shard, index)
        sidecar, text = (file.read(at * BLOCK, size) if at else None for at, size in others)
        return sidecar, text

    def columns(self, indices: Sequence[int]) -> pa.Table | None:
        """Return the fields of the records' `.json` except captions (see `sidecars.own_fields`), with JSON's types.

        Types come from these records alone. If the `.json` of a record cannot be read, all its fields are null. From
        local shards only the `.json` and texts are read. From remote shards whole blocks of records are fetched,
        pictures included, which costs as much as reading the records.
        """
        if not self._has_json:
            return None
        return sidecars.own_columns(self._beside, indices, self._wanted.captions)

    @cached_property
    def _has_json(self) -> bool:
        return bool(self._extents.array[:, 1, 0].any())

    def _key(self, index: int) -> str:
        """Return the key of a sample if it is not in the header of its image, else ""."""
        if not len(self._keys):
            return ""
        number = int(np.searchsorted(self._keyed.array, index))
        known = number < len(self._keys) and self._keyed.array[number] == index
        return self._keys[number] if known else ""

    def _file(self, shard: int, index: int) -> File | Spans:
        """Return what to read record `index` from: the shard, or fetched spans of the shard that hold its block."""
        path = self.paths[shard]
        file = self._files.get(shard, lambda: open_file(path, self._status[shard]))
        if not is_url(path):
            return file
        block = index // self.block
        first = max(block * self.block, self._first[shard])
        last = min((block + 1) * self.block, self._first[shard + 1])
        plan = self._plans.get(first, lambda: _plan_of_block(self._extents.array, first, last))
        first, last, spans = next(part for part in plan if index < part[1])
        return self._blocks_held.get(first, lambda: Spans(file, spans), lambda held: held.size)

    def _no_images(self) -> DataError:
        reasons = self.contents.reasons()[:5]
        return DataError(
            "The tar shards hold no images",
            got=self.name,
            cause=f"From the {self.contents.seen:,} members are left out: {'; '.join(reasons)}"
            if reasons
            else "They are empty",
            fix=f"Images must end in {image_endings()}",
        )


def _broken(broken: Sequence[Broken], paths: Sequence[str], found: Sequence[ShardIndex | None]) -> DataError:
    """Return the error that names all shards that cannot be read; a single shard's own error."""
    whole = [path for path, index in zip(paths, found) if index]
    without = "; or leave out the broken shards with --data.leave-broken"
    if len(broken) == 1:
        error = broken[0].error
        return DataError(
            error.what, got=error.got, cause=error.cause, fix=error.fix + without * bool(error.fix and whole)
        )
    not_tried = found.count(None) - len(broken)
    return DataError(
        f"{len(broken):,} of {len(paths):,} shards cannot be read"
        + (f", and {not_tried:,} more were not tried" if not_tried else ""),
        cause=_list(broken),
        fix="Fetch them again, or remove them" + _pattern_of(whole) + without * bool(whole),
    )


def _list(broken: Sequence[Broken]) -> str:
    """Return a line for each of the broken shards, with the reason."""
    lines = [f"  {shown(path)}: {error.what}. {error.cause}" for path, error in broken[:NAMED]]
    return "\n" + "\n".join(lines) + _more(len(broken) - NAMED)


def _more(count: int) -> str:
    return f" (and {count:,} more)" if count > 0 else ""


def _pattern_of(paths: Sequence[str]) -> str:
    """Return the advice to name only these shards, if the pattern is short enough."""
    if not paths or len(paths) > 2 * NAMED or any("{" in path or "," in path for path in paths):
        return ""
    first = [letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*paths))]
    head = "".join(first) if len(paths) > 1 else os.path.dirname(paths[0]) + "/"
    head = head.rstrip("0123456789")
    middles = [path[len(head) :].removesuffix(".tar") for path in paths]
    pattern = f"{head}{{{','.join(middles)}}}.tar" if len(paths) > 1 else paths[0]
    return f"; or leave them out: '{pattern}'" if all(path.endswith(".tar") for path in paths) else ""


def _renamed(count: int, name: str) -> str:
    return (
        f"{count:,} pictures of {name} have names with several dots that share the first part: their keys end at the "
        "last dot"
    )


def _without(broken: Sequence[Broken], count: int) -> str:
    """Return the warning about the shards that are left out."""
    return f"warning: {len(broken):,} of {count:,} shards cannot be read and are left out:{_list(broken)}"


def _missing(indexes: Sequence[ShardIndex]) -> str:
    """Return the warning about the shards that could not be reached, "" if there are none."""
    troubles = [index.trouble for index in indexes if index.trouble]
    if not troubles:
        return ""
    first = f"{troubles[0].got}: {troubles[0].what}"
    return (
        f"warning: {len(troubles):,} of {len(indexes):,} shards could not be reached, for example {first}. "
        "Their kept indexes are used, and their records are skipped while they cannot be reached"
    )


def _read(file: File | Spans, extents: list[list[int]]) -> tuple[bytes, bytes, bytes | None, bytes | None]:
    """Return the header of a sample's image, the image, its `.json` and its text, None where it has none.

    Neighbouring members are read at once.
    """
    (block, size), *others = extents
    start = first = (block - 1) * BLOCK
    end = last = block * BLOCK + size
    for at, length in others:
        if at:
            first, last = min(first, at * BLOCK), max(last, at * BLOCK + length)
    if last - first > end - start + NEAR:
        data = file.read(start, end - start)
        sidecar, text = (file.read(at * BLOCK, length) if at else None for at, length in others)
        return data[:BLOCK], data[BLOCK:], sidecar, text
    data = file.read(first, last - first)
    sidecar, text = (
        data[at * BLOCK - first : at * BLOCK - first + length] if at else None for at, length in others
    )
    start -= first
    return data[start : start + BLOCK], data[start + BLOCK : end - first], sidecar, text


def _is_header_of(header: bytes, size: int) -> bool:
    """Whether the bytes begin with the header of a file of `size` bytes, or of 0 if an extended header has the size."""
    try:
        return is_header(header[:BLOCK]) and header_size(header) in (size, 0)
    except ValueError:
        return False


def _plan_of_block(extents: np.ndarray, first: int, last: int) -> list[_Part]:
    """Return what to fetch for the samples of a block, or of its share in a shard, which are read in any order: as much
    at once as can be held beside the rest of the block, or each sample alone."""
    if _size(_spans(extents[first:last])) * REMOTE_BLOCK <= HELD_BYTES * (last - first):
        return _plan(extents, first, last)
    return [(sample, sample + 1, _spans(extents[sample : sample + 1])) for sample in range(first, last)]


def _plan(extents: np.ndarray, first: int, last: int) -> list[_Part]:
    """Cut the samples [first, last) of a shard into parts that are fetched at once: all of them, if not too large."""
    spans = _spans(extents[first:last])
    if last - first == 1 or _size(spans) <= FETCHED_BYTES:
        return [(first, last, spans)]
    middle = (first + last) // 2
    return _plan(extents, first, middle) + _plan(extents, middle, last)


def _size(spans: list[_Span]) -> int:
    return sum(end - start for start, end in spans)


def _spans(extents: np.ndarray) -> list[_Span]:
    """Return what to fetch for samples: their members and the headers of their images, in order."""
    starts = extents[..., 0].astype(np.int64) * BLOCK
    ends = starts + extents[..., 1]
    starts[:, 0] -= BLOCK
    there = extents[..., 0] > 0
    spans: list[_Span] = []
    for start, end in sorted(zip(starts[there].tolist(), ends[there].tolist())):
        if spans and start <= spans[-1][1] + GAP:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans
