"""Records to convert, some of which cannot be read."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from openslip.data.encode import Encoding
from openslip.data.record import Record, Source
from openslip.errors import DataError
from openslip.tools.convert import shard_size_for


class Listed(Source):
    """Records from a list; an exception in it is raised."""

    name = "listed"

    def __init__(self, records: Sequence[Record | Exception]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        if isinstance(record, Exception):
            raise record
        return record


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def of_two_sizes() -> tuple[Listed, Listed]:
    """A source, and the same on a bad day, on which a shard of so many MB would be given more records."""
    rng = np.random.default_rng(0)
    sizes = [90, *[30] * 11]
    pixels = [rng.integers(0, 256, (size, size, 3), np.uint8) for size in sizes]
    records: list[Record | Exception] = [
        Record(image, (), str(k), "listed") for k, image in enumerate(pixels)
    ]
    well, ill = Listed(records), Listed([DataError("the network is down"), *records[1:]])
    assert [shard_size_for(source, 0.02, Encoding("png")) for source in (well, ill)] == [3, 4]
    return well, ill
