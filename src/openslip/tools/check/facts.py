"""The facts about each record, in a few bytes per record: sets have millions of records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from openslip.data import formats
from openslip.data.captions import is_caption
from openslip.data.decode import decode
from openslip.data.fanout import Tick
from openslip.data.header import Kind, header
from openslip.data.record import Source
from openslip.data.tokenizer import Tokenizer
from openslip.errors import DataError
from openslip.tools.check import caption_text
from openslip.tools.check.fingerprints import LOOK, blank, digest, of_image, thumbnail

FINE, DAMAGED, UNREADABLE = range(3)
"""States of a record: its image can be used; it cannot be decoded; the source cannot give the record at all."""
FORMAT_NAMES = ("unknown", "pixels", *formats.FORMATS)
"""`pixels`: an array, from a source that renders."""
DARK = 64
"""The brightest level, in 8 bits, of pictures of more than 8 bits that are nearly black: 14 bits in a file of 16."""
MOST_TOKENS = 256
"""The tokens of a caption are counted up to this number."""
MOST_LISTED = 10_000
"""The most records whose error message is kept."""

RECORD = np.dtype(
    [
        *(("state", "u1"), ("format", "u1"), ("kinds", "u1"), ("flat", "?")),
        ("brightest", "u1"),
        *(("width", "u4"), ("height", "u4"), ("bytes", "u4"), ("captions", "u4"), ("key", "u4")),
        *(("content", "u8"), ("look", LOOK)),
    ]
)
"""The facts of each record: `brightest` is the picture's highest level, in 8 bits; `captions` counts captions that are
not empty; `key` counts the bytes of the key; `content` is the file's fingerprint, 0 for none; `look` is the picture's
thumbnail."""
USELESS, MISREAD, CODE = 1, 2, 4
"""Flags of a caption: see the functions of these names in `caption_text`."""
CAPTION = np.dtype([("text", "u8"), ("tokens", "u2"), ("script", "u1"), ("flags", "u1")])
"""The facts of each caption that is not empty, record after record; `text` is the caption's fingerprint."""


class Trouble(NamedTuple):
    """A record that cannot be used: its index and key, and why."""

    index: int
    key: str
    reason: str


@dataclass
class Facts:
    """Records and captions looked at, as the bytes of arrays of RECORD and CAPTION, all keys in a row as UTF-8, and the
    first error messages."""

    records: bytearray = field(default_factory=bytearray)
    captions: bytearray = field(default_factory=bytearray)
    keys: bytearray = field(default_factory=bytearray)
    troubles: list[Trouble] = field(default_factory=list)

    def add(self, other: Facts) -> None:
        """Append the facts of the records that follow."""
        self.records += other.records
        self.captions += other.captions
        self.keys += other.keys
        self.troubles += other.troubles[: MOST_LISTED - len(self.troubles)]

    def to_bytes(self) -> bytes:
        """Return the facts as bytes that `from_bytes` reads."""
        arrays = self.records, self.captions, self.keys
        head = json.dumps([*map(len, arrays), self.troubles]).encode()
        return b"".join([b"%d\n" % len(head), head, *arrays])

    @classmethod
    def from_bytes(cls, data: bytes) -> Facts:
        """Return the facts that `to_bytes` wrote."""
        length, _, rest = data.partition(b"\n")
        *sizes, troubles = json.loads(rest[: int(length)])
        arrays, start = [], int(length)
        for size in sizes:
            arrays.append(bytearray(memoryview(rest)[start : start + size]))
            start += size
        records, captions, keys = arrays
        return cls(records, captions, keys, [Trouble(*t) for t in troubles])


def look(source: Source, span: range, tick: Tick) -> Facts:
    """Read and decode the records of a span, and return the facts about them."""
    records = np.zeros(len(span), RECORD)
    texts: list[str] = []
    facts = Facts()
    for row, index in zip(records, span):
        key = f"#{index}"
        row["state"] = UNREADABLE
        try:
            record = source[index]
            key = record.key
            row["state"] = DAMAGED
            captions = [c.encode(errors="replace").decode() for c in record.captions if is_caption(c)]
            row["captions"] = len(captions)
            texts += captions
            _look_at(record.image, row)
            row["state"] = FINE
        except DataError as error:
            facts.troubles.append(Trouble(index, key, str(error)))
        name = key.encode(errors="replace")
        row["key"] = len(name)
        facts.keys += name
        tick(1)
    facts.records += records.tobytes()
    facts.captions += _read(texts).tobytes()
    return facts


def _look_at(image: bytes | np.ndarray, row: np.void) -> None:
    """Fill in the facts about an image. Raises DataError when the image is damaged."""
    row["content"] = of_image(image)
    if isinstance(image, np.ndarray):
        pixels, size = decode(image), image.nbytes
        row["format"] = FORMAT_NAMES.index("pixels")
        row["height"], row["width"] = pixels.shape[:2]
    else:
        pixels, size = decode(image, 64), len(image)
        head = header(image)
        row["format"] = FORMAT_NAMES.index(head.format) if head.format in FORMAT_NAMES else 0
        row["kinds"], row["width"], row["height"] = head.kinds, head.width, head.height
    row["bytes"], row["brightest"] = size, pixels.max()
    row["look"], row["flat"] = thumbnail(pixels), blank(pixels)
    if row["kinds"] & Kind.DEEP and row["brightest"] <= DARK:
        row["kinds"] |= Kind.DARK
        row["flat"] = pixels.min() == pixels.max()  # a picture that looks black may hold a whole scene


def _read(texts: list[str]) -> np.ndarray:
    """Return the facts about captions, (N,) CAPTION."""
    rows = np.zeros(len(texts), CAPTION)
    if not texts:
        return rows
    tokens = Tokenizer(MOST_TOKENS)(texts).numpy()
    rows["tokens"] = tokens.argmax(axis=1) + 1  # the end token has the highest number
    rows["text"] = [digest(caption_text.normal(text).encode(errors="replace")) for text in texts]
    rows["script"] = [caption_text.script(text) for text in texts]
    rows["flags"] = [
        USELESS * caption_text.useless(text)
        | MISREAD * caption_text.misread(text)
        | CODE * caption_text.code(text)
        for text in texts
    ]
    return rows
