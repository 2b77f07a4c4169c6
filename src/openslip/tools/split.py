"""Hold out a share of the training data to measure on: `--data.val 10%`.

Records with an equal caption, or the same or nearly the same picture, are a group (`openslip.tools.check.groups`), and
a group is on one side. The side depends only on the group's own content: not on the order of the records, nor on the
seed, nor on the process that reads them. So runs with other seeds can be compared. When records are added, every group
that they do not join stays on its side. The price is that the share is met only roughly.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from openslip.config import DataConfig
from openslip.data.data import Data
from openslip.data.record import Source, as_source
from openslip.data.sources.class_captions import names_classes
from openslip.data.sources.mixture import LABELS, split_mixture
from openslip.data.storage.paths import find_paths
from openslip.data.storage.reading import cache_folder, cache_name
from openslip.data.storage.retry import is_url
from openslip.data.subset import HeldOut, Subset
from openslip.errors import ConfigError, DataError, SlipError
from openslip.files import whole_or_not
from openslip.processes import Processes
from openslip.tools.check import check
from openslip.tools.check.facts import FINE
from openslip.tools.check.groups import COMMON, NONE, Groups, group, most_in_common

VERSION = 1
"""Version of the cache: counts up when the rules of grouping change."""
FEW = 50
"""Fewer held-out records than this are too few to measure on: one record moves a recall by 2 % or more."""
HOW = "Write a share of the training data in percent, as in --data.val 10%"

_NUMBER = re.compile(r"[\s\d.,+\-/%‰]*(per\s?cent|pct|records|samples|images)?\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(?:%|per\s?cent)\s*", re.IGNORECASE)


def share_of(spec: str) -> float | None:
    """Return the share of the training data that `spec` asks for, in (0, 1); None where it names a source.

    Raises ConfigError for what is neither: `0%`, `110%`, `1/10`, `0.1`.
    """
    if not spec.strip() or not _NUMBER.fullmatch(spec) or os.path.exists(spec):
        return None
    found = _PERCENT.fullmatch(spec)
    if not found:
        raise ConfigError(
            "This is neither a source nor a share of the training data",
            got=spec,
            cause="There is no file or folder of this name",
            fix=HOW,
        )
    percent = float(found[1])
    if not 0 < percent < 100:
        raise ConfigError(
            "The share of the training data that is held out must be above 0 % and below 100 %",
            got=spec,
            fix=f"{HOW}; leave --data.val out to hold out none",
        )
    return percent / 100


@dataclass(frozen=True)
class _Found:
    """What is cached of a source for other splits: the records' keys (see `Groups`), which have captions, and notes."""

    keys: np.ndarray
    captioned: np.ndarray
    notes: tuple[str, ...]


def split(
    source: Source,
    share: float,
    *,
    spec: str = "",
    processes: int = -1,
    ranks: Processes | None = None,
    shown: bool = False,
) -> tuple[Subset, Subset]:
    """Return what is left of a source to train on, and about `share` of it to measure on; both have `held_out`.

    Reads and decodes every record once, in `processes`, divided among the `ranks`, as `slip data check` does. The
    findings are kept in the cache folder. spec: the spec of `source`, so that files that have changed since are read
    again. A record that cannot be used stays in training, which counts it. A group without a caption also stays in
    training, because retrieval measures nothing on it.

    Raises DataError when no record can be held out, or when only one group could be.
    """
    source, ranks = as_source(source), ranks or Processes()
    with ranks.together():
        path = _cache_file(source, spec) if ranks.first else Path()
        found = _load(path, len(source)) if ranks.first else None
    if not ranks.from_first(int(found is not None)):
        summary = check(
            source,
            title="comparing records",
            processes=processes,
            ranks=ranks,
            shown=shown,
            needs_captions=False,
        )
        with ranks.together():
            if summary is not None:
                found = _look(summary.records, summary.captions, summary.of_class)
                if summary.unusable_share <= DataConfig.max_skipped:  # else the network may have been down
                    _keep(path, found)
    with ranks.together():
        told = _to_bytes(*_choose(found, share, source.name)) if found is not None else b""
    held, about = _from_bytes(ranks.bytes_from_first(told), len(source))
    if source.captions_name_classes and names_classes(source).all():
        about = replace(about, by="pictures")
    return Subset(source, np.flatnonzero(held), about), Subset(source, np.flatnonzero(~held), about)


def _look(records: np.ndarray, captions: np.ndarray, of_class: np.ndarray) -> _Found:
    usable = (records["state"] == FINE) & (records["captions"] > 0)
    if of_class.any():  # hundreds of their captions are equal, and tie no records together
        captions = captions[np.repeat(~of_class, records["captions"])]
        records = records.copy()
        records["captions"][of_class] = 0
    groups = group(records, captions)
    return _Found(groups.keys, usable, tuple(_notes(groups)))


def _notes(groups: Groups) -> list[str]:
    """Return sentences on what may be unexpected."""
    notes = []
    for number, what, most in (
        (groups.common_captions, "captions", most_in_common(len(groups.keys))),
        (groups.common_pictures, "pictures", COMMON),
    ):
        if number:
            notes.append(
                f"{what} that more than {most} records have may be on both sides: {number:,}; labels, boilerplate or "
                "placeholders, most likely"
            )
    if not groups.complete:
        notes.append(
            "so many pictures are alike that not all pairs were compared: near copies may be on both sides"
        )
    if unusable := int((groups.keys == NONE).sum()):
        notes.append(
            f"records that cannot be read or decoded stay in training, which skips them: {unusable:,}"
        )
    return notes


def _choose(found: _Found, share: float, name: str) -> tuple[np.ndarray, HeldOut]:
    """Return which records are held out, (R,) bool, and a description.

    A group is held out when its key is below the share of all values; if none is, the group with the smallest key is
    held out. So added records never move a group, except for that one.
    """
    keys, which, sizes = np.unique(found.keys, return_inverse=True, return_counts=True)
    speaks = np.zeros(len(keys), bool)
    speaks[which[found.captioned]] = True
    eligible = np.flatnonzero(speaks & (keys != NONE))  # sorted by key
    if not len(eligible):
        raise DataError(
            f"Nothing of {name} can be held out: no record has both a picture that can be decoded and a caption",
            got=f"{len(found.keys):,} records",
            fix="Run `slip data check SOURCE` to see what is wrong with the records",
        )
    if len(eligible) == 1:
        raise DataError(
            f"{name} cannot be split: all usable records are one group, by equal captions and equal or near pictures",
            got=f"{len(found.keys):,} records, one group",
            fix="Give another source as --data.val",
        )
    below = int(np.searchsorted(keys[eligible], np.uint64(min(int(share * 2**64), 2**64 - 1))))
    chosen = np.zeros(len(keys), bool)
    chosen[eligible[: min(max(1, below), len(eligible) - 1)]] = True
    held = chosen[which]
    largest = int(sizes[keys != NONE].max())
    notes = list(found.notes)
    if largest > max(0.05, share / 2) * len(held) and largest > 2:
        notes.insert(
            0,
            f"one group has {largest:,} of the {len(held):,} records, so the share can hardly be met: each of its "
            "records has a caption or picture that is equal, or nearly equal, to another record's",
        )
    if held.sum() < FEW:
        notes.append(
            f"held-out records: only {held.sum():,}, and a result on so few says little. A larger share, or "
            "another source as --data.val, says more"
        )
    digest = hashlib.blake2b(np.packbits(held).tobytes(), digest_size=8).hexdigest()
    about = HeldOut(share, int(held.sum()), int(chosen.sum()), len(held), digest, tuple(notes))
    return held, about


def _cache_file(source: Source, spec: str) -> Path:
    """Return the file in the cache folder for the findings on a source with this content."""
    about = [
        VERSION,
        spec or source.name,
        len(source),
        _stamps(spec),
        Data(source).identity(captioned=True),
    ]
    return cache_folder() / "splits" / f"{cache_name(json.dumps(about))}.groups"


def _stamps(spec: str) -> str:
    """Return a digest of the names, sizes and times of the files on this machine that a spec names."""
    found = hashlib.blake2b(digest_size=16)
    for _, term in split_mixture(spec) if spec and not os.path.exists(spec) else [(1, spec)]:
        term = term.removeprefix("hf:").removeprefix(LABELS)
        if not term or term.startswith("hf-stream:") or (is_url(term) and not term.startswith("file://")):
            continue
        try:
            for path in find_paths(term):
                for file in _files(path):
                    status = os.stat(file)
                    found.update(
                        f"{file}\0{status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogatepass")
                    )
        except (SlipError, OSError, ValueError):  # it names no files
            continue
    return found.hexdigest()


def _files(path: str) -> Iterator[str]:
    """Yield a file, or all files in a folder and below it."""
    if not os.path.isdir(path):
        yield path
    for folder, folders, files in os.walk(path):
        folders.sort()
        yield from (os.path.join(folder, file) for file in sorted(files))


def _keep(path: Path, found: _Found) -> None:
    """Keep the findings; if they cannot be written, the next run reads all records again."""
    body = found.keys.astype("<u8").tobytes() + np.packbits(found.captioned).tobytes()
    head = json.dumps([len(found.keys), found.notes, hashlib.blake2b(body, digest_size=16).hexdigest()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not(path, durable=False) as file:
            file.write(head.encode() + b"\n" + body)
    except OSError:
        pass


def _load(path: Path, records: int) -> _Found | None:
    """Return what `_keep` wrote, None where there is nothing, or it is damaged."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        count, notes, digest = json.loads(head)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    whole = count == records and isinstance(notes, list) and len(body) == 8 * records + -(-records // 8)
    if not whole or hashlib.blake2b(body, digest_size=16).hexdigest() != digest:
        return None
    keys = np.frombuffer(body, "<u8", records).astype(np.uint64)
    captioned = np.unpackbits(np.frombuffer(body, np.uint8, offset=8 * records), count=records).astype(bool)
    return _Found(keys, captioned, tuple(map(str, notes)))


def _to_bytes(held: np.ndarray, about: HeldOut) -> bytes:
    return json.dumps(asdict(about)).encode() + b"\n" + np.packbits(held).tobytes()


def _from_bytes(told: bytes, records: int) -> tuple[np.ndarray, HeldOut]:
    head, _, bits = told.partition(b"\n")
    values = json.loads(head)
    held = np.unpackbits(np.frombuffer(bits, np.uint8), count=records).astype(bool)
    return held, HeldOut(**values | {"notes": tuple(values["notes"])})
