"""Count the unusable entries of annotation files, with an error if they are the majority; and bound the texts."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any

from openslip.data.contents import Contents
from openslip.data.limits import MEMORY, Budget
from openslip.errors import DataError

_STEP = 1 << 16
"""Bytes of texts that are counted before they are drawn."""

TRIED = 100
"""Entries after which a file is first judged, so that nobody waits for millions of unusable ones."""


class Unusable:
    """Counts the unusable entries of one annotation file in `contents`, which has seen them."""

    def __init__(self, contents: Contents) -> None:
        self._contents, self._count = contents, 0
        self._first: DataError | None = None

    def count(self, reason: str, error: DataError) -> None:
        """Count an entry that `error` makes unusable. Raises the first such error if most entries are unusable."""
        self._contents.leave_out(reason, str(error.got))
        self._count += 1
        self._first = self._first or error
        if self._contents.seen >= TRIED:
            self.judge()

    def judge(self) -> None:
        """Raise the error of the first unusable entry if more than half of the entries seen are unusable."""
        if self._first and 2 * self._count > self._contents.seen:
            raise self._first


class Texts:
    """Bounds the bytes of a pickle's texts by the size of the file: a pickle can name one text any number of times."""

    def __init__(self, path: str | Path) -> None:
        try:
            most = 2 * os.path.getsize(path) + MEMORY // 2
        except (OSError, ValueError):  # reading the file raises the error
            most = MEMORY
        self._budget, self._taken = Budget("The file", str(path), memory=most), 0

    def draw(self, *values: Any) -> None:
        """Count texts and lists of texts that are about to be copied. Raises DataError when they are too much."""
        for value in values:
            if isinstance(value, list):
                self.draw(*(text for text in value if isinstance(text, str)))
            elif value:
                self._taken += len(value) << (not value.isascii())  # no more than twice its bytes
        if self._taken > _STEP:
            self._budget.draw(memory=self._taken)
            self._taken = 0


def short(value: Any) -> str:
    """Return a short text for any value."""
    try:
        return reprlib.repr(value)
    except ValueError:  # numbers of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to be shown"
