"""A file that is no picture is said to be what it looks like, and never quoted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import pytest
from PIL import Image

from openslip.data.decode import decode
from openslip.data.header import header
from openslip.data.sniff import looks_like
from openslip.errors import DataError


def packed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def box(brand):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + b"mif1heic"


KINDS = {
    "a web page": [b"<!DOCTYPE html>\n<html>", b"\xef\xbb\xbf  <HTML lang=de>", b"<head><title>404</title>"],
    "JSON": [b'{"error": "expired"}', b"[1, 2]", b"{}", json.dumps([{"a": None}], indent=1).encode()],
    "text": [b"Not Found\r\n", "Grüße aus Köln. ".encode() * 200, b"root:x:0:0:root:/root:/bin/bash\n"],
    "text in UTF-16": ["hello".encode("utf-16")],
    "XML": [b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"],
    "an SVG picture": [
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"<?xml version='1.0'?>\n<svg:svg width='1'>",
    ],
    "a HEIC picture": [box(b"heic"), box(b"mif1")],
    "an MP4 video": [box(b"isom"), box(b"mp42")],
    "a PDF": [b"%PDF-1.7\n%\xe2\xe3"],
    "a zip archive": [packed()],
    "a tar archive": [tarred()],
    "gzip data": [gzip.compress(b"x", mtime=0)],
    "a Photoshop file": [b"8BPS\0\1"],
    "an icon": [b"\0\0\1\0\1\0\x10\x10"],
    "zeros": [bytes(500)],
    "an empty file": [b""],
    "nothing known": [b"\x01\x02\x03\xff\xfe", bytes(range(256)) * 4, b"caf\xe9 \xff\x01"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    for data in KINDS[kind]:
        assert looks_like(data) == kind, data[:40]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_our_own_formats(format):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format)
    name = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}.get(format, format)
    assert looks_like(buffer.getvalue()) == f"a {name} picture"


@pytest.mark.parametrize("read", [decode, header])
def test_nothing_of_the_file_is_quoted(read):
    for secret in (
        b"AWS_SECRET_KEY=hunter2\n",
        b"hunter2\x00\x01",
        b'{"password": "hunter2"}',
        b"root:hunter2:0",
    ):
        with pytest.raises(DataError, match="looks like|no|PPM") as error:
            read(secret)
        assert "hunter2" not in str(error.value)
        assert "AWS" not in str(error.value)


@pytest.mark.parametrize("read", [decode, header])
def test_what_is_said_of_it(read):
    with pytest.raises(
        DataError, match=r"not an image of a known format.*looks like a HEIC picture.*Convert it"
    ):
        read(box(b"heic"))
    with pytest.raises(DataError, match=r"looks like a PNG picture: it is damaged"):
        read(b"\x89PNG\r\n\x1a\nIHDR")
    with pytest.raises(DataError, match="zero bytes"):
        read(b"")
