"""SHA-256 of the files that weights come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from openslip.errors import CheckpointError
from openslip.files import open_regular


class Digests(Mapping[str, str]):
    """SHA-256 of each file, by the file's path; computed on first use, and then kept.

    A run notes what it started from. A program that only encodes pictures need not read a file of 600 MB twice.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._found: dict[str, str | None] = {str(file): None for file in files}

    def __getitem__(self, path: str) -> str:
        found = self._found[path]
        if found is None:
            found = self._found[path] = sha256(Path(path))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. Raises CheckpointError if the file cannot be read."""
    try:
        with open_regular(path) as file:
            digest = hashlib.sha256()
            while part := file.read(1 << 22):
                digest.update(part)
            return digest.hexdigest()
    except (OSError, ValueError) as error:
        raise CheckpointError("The file cannot be read", got=str(path), cause=str(error)) from None
