"""The formats of pictures: what may be decoded, and the endings of file names that say so."""

from __future__ import annotations

FORMATS = {
    "JPEG": ("jpg", "jpeg", "jfif", "jpe", "jif", "jfi"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    "AVIF": ("avif",),
}
"""Pillow's name of a format → the extensions that its files have, lower case, the usual one first.

Pillow's other formats are rarities, some of which start other programs.
"""

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)
"""All of them, without the dot."""


NOT_READ = frozenset(
    (
        *(
            "heic",
            "heif",
            "hif",
            "jxl",
            "jxr",
            "wdp",
            "svg",
            "psd",
            "eps",
            "ico",
            "tga",
            "exr",
            "hdr",
            "dds",
            "pcx",
            "dng",
            "raw",
        ),
        *(
            "arw",
            "cr2",
            "cr3",
            "crw",
            "nef",
            "nrw",
            "orf",
            "raf",
            "rw2",
            "pef",
            "srw",
            "mp4",
            "m4v",
            "mov",
            "avi",
            "webm",
            "mkv",
        ),
    )
)
"""Extensions of pictures and films that are not read: whoever has some would miss them."""


def image_endings() -> str:
    """Return the extensions as people read them: `.avif, .bmp, …`."""
    return ", ".join(f".{extension}" for extension in sorted(EXTENSIONS))
