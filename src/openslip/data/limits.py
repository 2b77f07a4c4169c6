"""The most that opening one file, or decoding one record, may take: bytes, pixels, and work.

A file of a few kilobytes can claim, or unpack to, any size. Every decoder and container draws what it is about to take
from a `Budget` before it takes it. Work is counted in samples that a decoder visits, not in seconds, so that a file is
refused on a slow machine exactly where it is refused on a fast one.
"""

from __future__ import annotations

from openslip.errors import DataError

FILE_BYTES = 1_000_000_000
"""Of a picture's file, or of an archive's member that holds a picture. No picture that can be decoded needs more."""
TEXT_BYTES = 16 << 20
"""Of one record's captions as they are stored: a `.txt` or `.json` member, a line or cell of a table."""
PIXELS = 100_000_000
"""Of a decoded picture."""
MEMORY = 750_000_000
"""Bytes that decoding a picture may take beside its file, at the peak: RGB files of PIXELS just fit."""
SAMPLES = 2_500_000_000
"""Samples that decoding a picture may visit, a measure of time: about 8 seconds of a core. A progressive JPEG of PIXELS
in the usual ten scans just fits."""
TABLE_BYTES = 2 << 30
"""Decoded bytes that have to be in memory at once: a row group of Parquet files, an annotation file's contents."""
PICKLE_BYTES = 8_000_000_000
"""Of a file of pickled metadata, all of which is in memory at once: about 50 million entries like those of YFCC15M."""
COLUMNS = 16_384
"""Of a table, as many as a spreadsheet can have: the search for the right columns looks at each column often."""


class Budget:
    """How much one file or record may still take; `what` and `got` name the file or record in the error.

    memory: bytes held at the same time. samples: values visited, counted each time.
    """

    def __init__(
        self, what: str, got: str | None = None, *, memory: int = MEMORY, samples: int = SAMPLES
    ) -> None:
        self.what, self.got, self.memory, self.samples = what, got, memory, samples
        self._most = memory, samples

    def draw(self, *, memory: int = 0, samples: int = 0) -> None:
        """Take so much from the budget. Raises DataError if less is left."""
        self.memory -= memory
        self.samples -= samples
        for left, most, what in (
            (self.memory, self._most[0], "MB of memory"),
            (self.samples, self._most[1], "million values to visit"),
        ):
            if left < 0:
                raise self._refusal(
                    f"{(most - left) / 1e6:,.0f} {what}, more than the {most / 1e6:,.0f} allowed"
                )

    def _refusal(self, taken: str) -> DataError:
        return DataError(
            f"{self.what} takes too much to be read",
            got=self.got,
            cause=f"It takes {taken}. It may be an attack, or damaged",
            fix="Store it smaller, or leave it out",
        )
