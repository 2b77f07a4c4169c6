"""The records that something is wrong with, a JSON line each: to look at, to put right, or to leave out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slip.data.check.facts import DAMAGED, UNREADABLE
from slip.data.check.summary import Summary
from slip.data.record import Source
from slip.errors import DataError
from slip.files import write_bytes


def wrong(summary: Summary, source: Source) -> Iterator[dict[str, Any]]:
    """Yield index, key and what is wrong of every record that training cannot use or is better off without.

    What: "cannot be read", "damaged", "no caption" where one is needed, "blank", "exact copy" and "near copy", of the
    record `of`. The first of each group of copies is not listed. Keys are read from `source` once more.
    """
    here, state = np.arange(summary.checked), summary.records["state"]
    copies, alike = summary.twins != here, summary.lookalikes != here
    rules = [
        ("cannot be read", state == UNREADABLE),
        ("damaged", state == DAMAGED),
        ("no caption", (summary.records["captions"] == 0) & (state != UNREADABLE) & summary.needs_captions),
        ("blank", summary.fine & summary.records["flat"]),
        ("exact copy", copies),
        ("near copy", alike & ~copies),
    ]
    keys = {trouble.index: trouble.key for trouble in summary.troubles}
    for position in np.flatnonzero(np.any([holds for _, holds in rules], axis=0)).tolist():
        index = int(summary.indices[position])
        entry: dict[str, Any] = {"index": index, "key": keys.get(index) or _key(source, index)}
        entry["what"] = [what for what, holds in rules if holds[position]]
        if copies[position] or alike[position]:
            first = summary.twins[position] if copies[position] else summary.lookalikes[position]
            entry["of"] = int(summary.indices[first])
        yield entry


def write_list(path: Path, summary: Summary, source: Source) -> int:
    """Write what `wrong` yields as JSON lines and return their number. Raises DataError when that cannot be done."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in wrong(summary, source)]
    try:
        write_bytes(path, "".join(lines).encode(errors="replace"))
    except OSError as error:
        raise DataError("The list cannot be written", got=str(path), cause=str(error)) from None
    return len(lines)


def read_list(path: Path) -> list[int]:
    """Return the indices in a list that `write_list` wrote, perhaps shortened by hand. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("The list of records cannot be read", got=str(path), cause=str(error)) from None
    indices = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            index = json.loads(line)["index"]
        except (ValueError, KeyError, TypeError, RecursionError):
            index = None
        if type(index) is not int:
            raise DataError(
                f"Line {number} of {path} names no record",
                got=line[:200],
                fix="Each line is an object with a record's number as `index`, as `slip data check --list` writes it",
            )
        indices.append(index)
    return indices


def _key(source: Source, index: int) -> str:
    try:
        return source[index].key
    except DataError:
        return f"#{index}"
