"""List the records with something wrong, one JSON line each: to look at, to correct, or to leave out."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openslip.data.fanout import Tick, fan_out, spans
from openslip.data.limits import TABLE_BYTES
from openslip.data.record import Source, as_source
from openslip.errors import DataError
from openslip.files import parse_json, read_whole, write_bytes
from openslip.tools.check.against import NONE, Against
from openslip.tools.check.facts import DAMAGED, UNREADABLE
from openslip.tools.check.fingerprints import of_image
from openslip.tools.check.summary import Summary

EXACT, NEAR, RECAPTIONED = "exact copy", "near copy", "same picture, other captions"
NEAR_RECAPTIONED = "near copy, other captions"
"""What `slip duplicates` calls a near copy with a caption that no earlier picture of its group has."""


def wrong(summary: Summary, against: Against | None = None) -> Iterator[dict[str, Any]]:
    """Yield `index`, `key` and `what` is wrong for every record that training cannot use, or may be better off without,
    with the fingerprint of its `image` if it has one.

    For records that cannot be used, `reason` is the error, for the first `facts.MOST_LISTED` of them.
    What: "cannot be read", "damaged", "no caption" if one is needed, "blank", and for a copy `of` another record:
    "exact copy", "near copy", "same picture, other captions". The first of each group of copies is not listed.
    against: another set. What a record has in common with that set is listed too, as `openslip.tools.check.against`
    calls it, with the key there as `of_other`.
    """
    here, state = np.arange(summary.checked), summary.records["state"]
    silent = (summary.records["captions"] == 0) & (state != UNREADABLE) & summary.needs_captions
    rules = [
        ("cannot be read", state == UNREADABLE),
        ("damaged", state == DAMAGED),
        ("no caption", silent),
        ("blank", summary.fine & summary.records["flat"]),
        (EXACT, summary.redundant),
        (RECAPTIONED, summary.recaptioned),
        (NEAR, summary.alike & ~silent[summary.lookalikes]),  # else both would go
    ]
    others = against.of if against else {}
    rules += [(what, found != NONE) for what, found in others.items()]
    firsts = np.where(summary.twins != here, summary.twins, summary.lookalikes)
    reasons = {trouble.index: trouble.reason for trouble in summary.troubles}
    for position in np.flatnonzero(np.any([holds for _, holds in rules], axis=0)).tolist():
        entry: dict[str, Any] = {"index": int(summary.indices[position]), "key": summary.key(position)}
        entry["what"] = [what for what, holds in rules if holds[position]]
        if entry["index"] in reasons:
            entry["reason"] = reasons[entry["index"]]
        if content := int(summary.records["content"][position]):
            entry["image"] = _hex(content)
        if firsts[position] != position:
            entry["of"] = int(summary.indices[firsts[position]])
        of_other = next((int(found[position]) for found in others.values() if found[position] != NONE), NONE)
        if against and of_other != NONE:
            entry["of_other"] = against.there.key(of_other)
        yield entry


def write_list(path: Path, summary: Summary, against: Against | None = None) -> int:
    """Write what `wrong` yields as JSON lines, and return the number of lines. Raises DataError when it cannot."""
    return write_entries(path, wrong(summary, against))


def write_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write objects as JSON lines, and return the number of lines. Raises DataError when it cannot."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    try:
        write_bytes(path, "".join(lines).encode(errors="replace"))
    except OSError as error:
        raise DataError("The list cannot be written", got=str(path), cause=str(error)) from None
    return len(lines)


def read_list(path: Path, *, near: bool = False) -> dict[int, dict[str, Any]]:
    """Return index → line of the records to leave out, from a list that `write_list` wrote, perhaps shortened by hand.

    Near copies are left out only if `near`, because two products can look alike. Copies and near copies with other
    captions are never left out. Records that have something in common with another set are left out, near copies of
    its pictures included. A line that does not say what is wrong counts. Raises DataError for a file or line that
    cannot be used.
    """
    harmless = {RECAPTIONED, NEAR_RECAPTIONED} | (set() if near else {NEAR})
    try:
        # splitlines would split at U+2028, in a key, too.
        lines = read_whole(path, TABLE_BYTES).decode().split("\n")
    except (OSError, ValueError) as error:
        raise DataError("The list of records cannot be read", got=str(path), cause=str(error)) from None
    listed: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            index, what = entry["index"], entry.get("what") or [""]
            dropped = not set(what) <= harmless
        except (ValueError, KeyError, TypeError, AttributeError):
            entry, index, dropped = {}, None, False
        if type(index) is not int:
            raise DataError(
                f"Line {number} of {path} names no record",
                got=line[:200],
                fix="Write each line as an object with a record's number as `index`, as `slip data check --list` does",
            )
        if dropped:
            listed[index] = entry
    return listed


def compare(
    source: Source, listed: Mapping[int, Mapping[str, Any]], *, processes: int = -1, shown: bool = False
) -> None:
    """Raise DataError when a record that is to be left out has another key or image than its line says.

    Reads these records. A record that cannot be read is not compared, nor is a line without key and image.
    processes, shown: as in `fan_out`.
    """
    source = as_source(source)
    some = [span for span in spans(source) if not listed.keys().isdisjoint(span)]
    work = functools.partial(_compare, listed)
    for _ in fan_out(work, source, some, title="comparing", processes=processes, shown=shown):
        pass


def _compare(listed: Mapping[int, Mapping[str, Any]], source: Source, span: range, tick: Tick) -> None:
    for index in filter(listed.__contains__, span):
        try:
            record = source[index]
        except DataError:
            continue
        key = record.key.encode(errors="replace").decode()  # as the list was written
        for what, now in (("key", key), ("image", _hex(of_image(record.image)))):
            before = listed[index].get(what) or now
            if before != now:
                raise DataError(
                    f"The list names other records than {source.name} has",
                    got=f"The {what} of record {index} is {now}, and was {before}",
                    cause="The list belongs to another source, or the source has changed since",
                    fix="Make the list anew: slip data check SOURCE --list FILE",
                )
    tick(len(span))


def _hex(content: int) -> str:
    return f"{content:016x}"
