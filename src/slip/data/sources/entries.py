"""Entries of annotation files that cannot be used: counted where they are few, an error where they are the most."""

from __future__ import annotations

from slip.data.contents import Contents
from slip.errors import DataError

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
