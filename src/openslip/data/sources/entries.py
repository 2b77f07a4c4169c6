"""The entries of annotation files: the unusable are counted, or an error where they are the most; texts are bounded."""

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
"""Entries after which a file is judged for the first time: nobody waits for millions of unusable ones."""


class Unusable:
    """The unusable entries of one annotation file, counted in its `contents`, which has seen them."""

    def __init__(self, contents: Contents) -> None:
        self._contents, self._count = contents, 0
        self._first: DataError | None = None

    def count(self, reason: str, error: DataError) -> None:
        """Count an entry, of which `error` would say why it cannot be used. Raises the first where most are so."""
        self._contents.leave_out(reason, str(error.got))
        self._count += 1
        self._first = self._first or error
        if self._contents.seen >= TRIED:
            self.judge()

    def judge(self) -> None:
        """Raise the error of the first unusable entry if more than half of those seen are so."""
        if self._first and 2 * self._count > self._contents.seen:
            raise self._first


class Texts:
    """The bytes of all texts of a pickle, which can name one text any number of times: not much more than the file."""

    def __init__(self, path: str | Path) -> None:
        try:
            most = 2 * os.path.getsize(path) + MEMORY // 2
        except (OSError, ValueError):  # whoever reads it says so
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
    """Return a value in a few words, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # numbers of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to be shown"
