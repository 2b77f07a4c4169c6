"""The formats of pictures: what may be decoded, and the endings of file names that say so."""

from __future__ import annotations

from openslip.errors import printable

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
        ),
        *("dng", "raw", "arw", "cr2", "cr3", "crw", "nef", "nrw", "orf", "raf", "rw2", "pef", "srw"),
    )
)
"""Extensions of pictures that are not read: whoever has some would miss them."""
FILMS = frozenset(("mp4", "m4v", "mov", "avi", "webm", "mkv"))
"""Extensions of films, which are missed as well."""

_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")


def is_picture(beginning: bytes) -> bool:
    """Whether a file with this beginning is a picture, whatever its name: for formats that begin unmistakably."""
    boxed = beginning[4:8] == b"ftyp" and beginning[8:12] in (b"avif", b"heic", b"heix", b"mif1")
    webp = beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP"
    return beginning.startswith(_BEGINNINGS) or boxed or webp


def why_not(extension: str) -> str:
    """Return why files with an extension that is not a picture's are not used."""
    if extension in NOT_READ:
        return f".{extension} is not read (make JPEGs of such pictures)"
    return f".{printable(extension[:20])} is not read" if extension else "a name without an ending"


def image_endings() -> str:
    """Return the extensions as people read them: `.avif, .bmp, …`."""
    return ", ".join(f".{extension}" for extension in sorted(EXTENSIONS))
