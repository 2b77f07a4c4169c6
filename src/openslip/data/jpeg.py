"""JPEGs: decode them with libjpeg-turbo, which reports damage where Pillow keeps silent."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

from openslip.data import limits
from openslip.data.limits import Budget
from openslip.errors import DataError

SEGMENT, FILL = 5000, 400
"""Values to visit that a segment counts for, and a byte between two segments: the cost of Python loops."""

SURPLUS = 8
"""Bytes that may be left between the picture's last block and its end. Decoders read about as many ahead, so they
notice fewer only by chance."""

HOLE = 512
"""Zero bytes in a row that count as a hole: disks and file systems lose data in sectors of at least as many."""

_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_DAMAGED = ("Corrupt JPEG data", "Premature end of JPEG file")
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES, _END, _SCAN, _EXIF, _PHOTOSHOP = 0xC4, 0xD9, 0xDA, 0xE1, 0xED
_AC = 0x10
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""Those that end the data of a scan, which restart markers (0xd0 to 0xd7) do not."""


def read(image: bytes, colours: str = "RGB", height: int = 1, width: int = 1) -> np.ndarray | None:
    """Decode a JPEG to (H, W, C) uint8 as stored, not turned: C is 3 for RGB and 4 for CMYK, only for CMYK files.

    The result has at least `height` × `width` pixels, at an eighth, a quarter, … of the picture's size. A small result
    is the way to judge a file: all of its data are read, but hardly any pixels are made.

    Raises DataError where data of the picture are missing or wrong, as far as their code shows it: the data break off,
    hold codes without meaning, hold more or fewer blocks than the picture has, or have a `hole`. What follows the
    picture's end, and SURPLUS bytes before it, do not matter. A few flipped bits, or by chance more, can make another
    valid picture: no decoder notices these.

    Returns None for files that libjpeg-turbo, as simplejpeg uses it, does not know or only warns about (uncommon
    subsampling, an unknown JFIF version, …). Other decoders must judge whether that is a picture.
    """
    pixels = None
    try:
        pixels = simplejpeg.decode_jpeg(image, colours, min_height=height, min_width=width)
    except ValueError as error:  # its message is the first warning, or what made it give up
        message = str(error)
        left_over = _LEFT_OVER.match(message)
        if message.startswith(_DAMAGED) and not (left_over and int(left_over[1]) <= SURPLUS):
            raise _damaged(f"libjpeg-turbo says: {message}") from None
    start = hole(image)
    if start >= 0:
        raise _damaged(f"From byte {start} on, the file holds zeros, which mean nothing there")
    return pixels


def _damaged(cause: str) -> DataError:
    return DataError(
        "The JPEG is damaged or truncated: a part of its picture is missing or wrong",
        cause=cause,
        fix="Get the file anew from where it came from, or leave it out",
    )


def held(image: bytes, budget: Budget | None = None) -> int:
    """Return the bytes that any decoder must hold beside the pixels, whatever size it decodes at.

    If a picture comes in several scans (progressive ones do), these are all of its coefficients, 2 bytes each. The
    usual single scan is decoded as it is read: 0 bytes. A header that cannot be followed gives 0 as well.

    budget: pays for Pillow's reading of the segments before the picture. Raises DataError for far too many segments.
    Pillow joins the segments of EXIF data one by one, and copies all earlier ones for each.
    """
    frame, progressive = b"", False
    samples, joined, last = 0, 0, 2
    for marker, segment, end in _segments(image):
        samples += SEGMENT + FILL * max(0, end - len(segment) - 4 - last)
        last = end
        if marker in _FRAMES:
            frame, progressive = segment, marker in _PROGRESSIVE
        elif marker == _SCAN:
            several = progressive or segment[:1] < frame[5:6]  # fewer components than the picture has
            if budget:
                budget.draw(samples=samples)
            return 2 * _samples(frame) if several else 0
        elif marker == _EXIF and segment.startswith(b"Exif"):
            joined += len(segment)
            samples += joined
        elif marker == _PHOTOSHOP:
            samples += FILL * segment.count(b"8BIM")
        if budget and samples > limits.SAMPLES:
            break
    if budget:
        budget.draw(samples=samples)
    return 0


def visited(image: bytes) -> int:
    """Return how many samples a decoder visits for a picture in several scans, or more where they are few anyway.

    Each scan of a progressive picture goes over all samples of its components, however few bytes it has, and nothing
    bounds how often the same scan comes. Do not call it for the usual single scan.
    """
    frame, samples = b"", 0
    for marker, segment, _ in _segments(image):
        if marker in _FRAMES:
            frame = segment
            most = image.count(b"\xff\xda") * _samples(frame)
            if most <= limits.SAMPLES // 2:
                return most  # without looking for the scans, which takes longer
        elif marker == _SCAN:
            chosen = segment[1 : 1 + 2 * segment[0] : 2] if segment else b""
            samples += _samples(frame, chosen)
            if samples > limits.SAMPLES:
                break
    return samples


def hole(image: bytes) -> int:
    """Return where a scan's data were overwritten with zeros, or -1.

    A decoder makes something of zeros, too. Of photographs with one sector of 512 zeros, libjpeg-turbo decodes one in
    seven without a warning. But HOLE bytes of zeros are data only where the Huffman codes of the scan let zeros mean
    blocks like the one before, as in white backgrounds; elsewhere they mean hundreds of coefficients of -1.
    """
    first: dict[int, int] = {}
    progressive = False
    for marker, segment, end in _segments(image) if bytes(HOLE) in image else ():
        if marker == _TABLES:
            first |= _first_symbols(segment)
        elif marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
        elif marker == _SCAN and first:  # arithmetic codes have no tables
            following = _MARKER.search(image, end)
            start = image.find(bytes(HOLE), end, following.start() if following else len(image))
            if start >= 0 and not _even(segment, first, progressive):
                return start
    return -1


def _segments(image: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield each marker of the picture, what its segment holds, and where that ends (ITU T.81, B.1.1)."""
    position = 2
    while (found := _MARKER.search(image, position)) and image[found.end() - 1] != _END:
        position = found.end() + max(2, int.from_bytes(image[found.end() : found.end() + 2], "big"))
        yield image[found.end() - 1], image[found.end() + 2 : position], position


def _samples(frame: bytes, chosen: bytes | None = None) -> int:
    """Return how many samples the components of a frame header have together (B.2.2), or the `chosen` ones."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    across, down = [byte >> 4 for byte in frame[7::3]], [byte & 15 for byte in frame[7::3]]
    largest = max(1, max(across, default=1) * max(down, default=1))
    shares = [x * y / largest for x, y in zip(across, down)]
    return int(height * width * sum(s for s, c in zip(shares, frame[6::3]) if chosen is None or c in chosen))


def _first_symbols(segment: bytes) -> dict[int, int]:
    """Return what zeros mean in each Huffman table of a segment (B.2.4.2): class and number → symbol."""
    first = {}
    while len(segment) > 17:
        first[segment[0]] = segment[17]
        segment = segment[17 + sum(segment[1:17]) :]
    return first


def _even(scan: bytes, first: dict[int, int], progressive: bool) -> bool:
    """Return whether zeros in a scan of this header (B.2.3) may mean that nothing changes from block to block."""
    count = scan[0] if scan else 0
    tables, band = scan[2 : 1 + 2 * count : 2], scan[1 + 2 * count :]
    if len(band) < 3:
        return True  # a damaged header; the decoder will see
    dc = all(first.get(table >> 4) == 0 for table in tables)
    ac = all(first.get(_AC | table & 15) == 0 for table in tables)
    if not progressive:
        return dc and ac
    # After a DC scan there are scans of single bits, of which zeros are as good as any.
    return ac if band[0] else dc or band[2] > 15
