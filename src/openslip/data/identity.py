"""Describe a run's data in a few lines: enough to notice other data when the run continues."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from openslip.data.record import Record, Source
from openslip.data.subset import HeldOut
from openslip.errors import DataError

SAMPLED = 4
"""Records of each part that are looked at, spread over it."""
UNREADABLE = "unreadable"

Identity = dict[str, list[dict[str, Any]]]
"""By the option that names a source (`train`, `ssl`), for each part of it: its name, how many records, their order,
digests. And HELD_OUT, where some of `train` is held out: which records these are."""
HELD_OUT = "held_out"


def identify(sources: Mapping[str, Source], held_out: HeldOut | None = None, *, captioned: bool) -> Identity:
    """Return what tells the sources of a run from other sources: for each part (of a mixture), what its order depends
    on and digests of SAMPLED records; and what is held out. Digests for `train` include captions if `captioned`.

    Reads these records. A record that cannot be read is noted as UNREADABLE, which equals any digest.
    """
    found = {option: _parts(source, captioned and option == "train") for option, source in sources.items()}
    return found | ({HELD_OUT: [asdict(held_out)]} if held_out else {})


def differences(old: Identity, new: Identity) -> list[str]:
    """Return in words how `new` differs from `old` in what the order or the content of batches depends on.

    Names do not count: the same records may have moved to another place.
    """
    held_out = _held_out(old), _held_out(new)
    if held_out[0] != held_out[1]:
        before, now = (about[0] if about else "none" for about in held_out)
        return [
            f"records held out of data.train for data.val: {now}, were: {before}"
            + ", but other records" * (before == now)
        ]
    if old.keys() != new.keys():
        return [f"data for {' and '.join(new)}, were for {' and '.join(old)}"]
    options = [option for option in old if option != HELD_OUT]
    return [change for option in options for change in _differences(option, old[option], new[option])]


def _held_out(identity: Identity) -> tuple[str, str] | None:
    """Return how many records are held out of `train`, in words, and a digest of which; None where none are."""
    for about in identity.get(HELD_OUT, ()):
        return f"{about['records']:,} of {about['total']:,}", about["digest"]
    return None


def _parts(source: Source, captioned: bool) -> list[dict[str, Any]]:
    parts, first = [], 0
    for name, part in zip(source.part_names, source.parts):
        last = part.length - 1
        spread = sorted({number * last // (SAMPLED - 1) for number in range(SAMPLED)}) if part.length else []
        samples = {str(index): _digest(source, first + index, captioned) for index in spread}
        about = {"name": name, "records": part.length, "share": part.share, "block": part.block}
        parts.append(about | {"samples": samples})
        first += part.length
    return parts


def _digest(source: Source, index: int, captioned: bool) -> str:
    try:
        record = source[index]
    except DataError:
        return UNREADABLE
    return _of_record(record, captioned)


def _of_record(record: Record, captioned: bool) -> str:
    image = record.image
    digest = hashlib.sha256()
    if isinstance(image, np.ndarray):  # of a source that renders
        digest.update(f"{image.shape}{image.dtype}".encode())
        image = np.ascontiguousarray(image).tobytes()
    digest.update(hashlib.sha256(image).digest())
    for caption in record.captions if captioned else ():
        digest.update(hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def _differences(option: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    if len(old) != len(new):
        return [f"data.{option} has {len(new)} sources, had {len(old)}"]
    found = []
    for before, now in zip(old, new):
        what = f"{now['name']} (data.{option})"
        found += [
            f"{what} has {quantity} {now[key]:,}, had {before[key]:,}"
            for key, quantity in (
                ("records", "records:"),
                ("share", "samples an epoch:"),
                ("block", "blocks of"),
            )
            if now[key] != before[key]
        ]
        if now["records"] == before["records"]:
            others = [
                index for index, digest in before["samples"].items() if _differ(digest, now["samples"][index])
            ]
            if others:
                found.append(f"{what} has other content or another order: record {', '.join(others)}")
    return found


def _differ(one: str, other: str) -> bool:
    return one != other and UNREADABLE not in (one, other)
