"""The formats of pictures: what may be decoded, and the endings of file names that say so."""

from __future__ import annotations

FORMATS = {
    "JPEG": ("jpg", "jpeg", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k"),
    "AVIF": ("avif",),
}
"""Pillow's name of a format → the extensions that its files have, lower case, the usual one first.

Pillow's other formats are rarities, some of which start other programs.
"""

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)
"""All of them, without the dot."""


def image_endings() -> str:
    """Return the extensions as people read them: `.avif, .bmp, …`."""
    return ", ".join(f".{extension}" for extension in sorted(EXTENSIONS))
