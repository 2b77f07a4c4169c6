"""What the first bytes of a file look like, in words: for files that are not the pictures they should be."""

from __future__ import annotations

import codecs
import re

HEAD = 1024
"""Bytes of a file's beginning that are looked at."""

_BRANDS = {
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC picture"
    ),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
    b"crx ": "a raw camera picture",
    b"qt  ": "a QuickTime video",
}
"""Major brand of an ISO media file → what it is; all others are MP4 videos."""
_MAGIC = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"\0\0\2\0", "an icon"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"II\xbc\x01", "a JPEG XR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"DDS ", "a DirectDraw texture"),
    (b"gimp xcf", "a GIMP file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"II+\0", "a TIFF picture"),
    (b"MM\0+", "a TIFF picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
)
_WEB = re.compile(rb"<(?:!doctype\s+html|html|head|body|script|title|meta|h1|div|p)\b", re.IGNORECASE)
_SVG = re.compile(rb"<(?:\w+:)?svg\b", re.IGNORECASE)
_JSON = re.compile(rb'\s*(?:\{\s*(?:"|\})|\[\s*(?:["\[\{\d\]]|null|true|false))')


def looks_like(data: bytes) -> str:
    """Return what a file that begins with these bytes looks like: "a web page", "JSON", "a HEIC picture", "text", …

    "nothing known" for anything else. Nothing of the bytes is in the answer: they may be somebody's secret.
    """
    head = data[:HEAD]
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "zeros"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "an MP4 video")
    if head[:4] == b"RIFF":
        kinds = {b"WEBP": "a WebP picture", b"AVI ": "an AVI video", b"WAVE": "a WAV file"}
        return kinds.get(head[8:12], "nothing known")
    if head[257:262] == b"ustar":
        return "a tar archive"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return _text(head)


def _text(head: bytes) -> str:
    """Return what kind of text it is, "nothing known" where it is none."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16"
    head = head.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in head:
        return "nothing known"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut off at the end
    except UnicodeDecodeError:
        text = ""
    if _SVG.search(head):
        return "an SVG picture"
    if _WEB.search(head):
        return "a web page"
    if head.lstrip().startswith(b"<?xml"):
        return "XML"
    if re.fullmatch(rb"\s*data:image/[\w.+-]+;base64,[A-Za-z0-9+/=\s]*", head):
        return "a picture written in base64"
    if _JSON.match(head):
        return "JSON"
    if re.fullmatch(rb"[A-Za-z0-9+/=\r\n]{64,}", head):
        return "base64"
    if text and all(c.isprintable() or c in "\t\r\n\f" for c in text):
        return "text"
    return "nothing known"
