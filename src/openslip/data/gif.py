"""GIFs: count the blocks before a picture, before Pillow reads them one by one."""

from __future__ import annotations

from openslip.data.limits import Budget

BLOCK = 1000
"""Values to visit that a block counts for: the cost of a Python loop."""
_EXTENSION, _COMMENT, _IMAGE = 0x21, 0xFE, 0x2C


def check_blocks(image: bytes, budget: Budget, pictures: int = 1) -> None:
    """Draw what reading the blocks up to the first, or another, picture takes. Raises DataError for far too many.

    Pillow joins comments one by one, and copies all earlier ones for each. A file that is no GIF, or a GIF that cannot
    be followed, is left to Pillow.
    """
    if not image.startswith((b"GIF87a", b"GIF89a")) or len(image) < 13:
        return
    position = 13 + _palette(image[10])
    joined = 0
    while position + 10 < len(image):
        budget.draw(samples=BLOCK + joined)
        kind = image[position]
        if kind == _IMAGE:
            pictures -= 1
            if not pictures:
                return
            start = position + 11 + _palette(image[position + 9])
        elif kind == _EXTENSION:
            start = position + 2
        else:  # Pillow passes over bytes that mean nothing
            position += 1
            continue
        comment = kind == _EXTENSION and image[position + 1] == _COMMENT
        position = _after_blocks(image, start, budget)
        joined += position - start if comment else 0


def _palette(flags: int) -> int:
    """Return the bytes of a palette that follows flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(image: bytes, position: int, budget: Budget) -> int:
    """Return where the blocks of data that begin at a position end."""
    count = 0
    while position < len(image) and image[position]:
        position += 1 + image[position]
        count += 1
        if count == 100_000:
            budget.draw(samples=count * BLOCK // 4)
            count = 0
    budget.draw(samples=count * BLOCK // 4)
    return position + 1
