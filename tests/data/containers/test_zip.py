"""One member of a zip archive: the same bytes as zipfile gives, or our error."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.containers import zip as zips
from openslip.data.containers.zip import read_member
from openslip.errors import DataError


def write_zip(path, members, compression=zipfile.ZIP_STORED, comment=b""):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.comment = comment
    return str(path)


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def thousand(request, tmp_path):
    return write_zip(
        tmp_path / "345.zip", [(f"{i:03}.jpg", b"%d" % i * i) for i in range(1000)], compression=request.param
    )


def test_members_of_a_thousand(thousand, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", None)  # the slow way is not taken
    for i in (0, 1, 7, 500, 678, 999):
        assert read_member(thousand, f"{i:03}.jpg") == b"%d" % i * i


def test_a_directory_longer_than_what_is_read_first(thousand, monkeypatch):
    monkeypatch.setattr(zips, "_TAIL", 100)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert read_member(thousand, "012.jpg") == b"12" * 12


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(
        st.tuples(
            st.sampled_from(["1.jpg", "11.jpg", "a/1.jpg", "1.jpg2", "é.jpg", "PK\1\2"]),
            st.binary(max_size=50),
        ),
        min_size=1,
        max_size=6,
    ),
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
    comment=st.sampled_from([b"", b"comment", b"a longer comment " * 20]),
    before=st.sampled_from([b"", b"#!/bin/sh\n"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_same_as_zipfile(tmp_path_factory, members, compression, comment, before):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    buffer = io.BytesIO()
    write_zip(buffer, members, compression, comment)
    path.write_bytes(before + buffer.getvalue())
    with zipfile.ZipFile(path) as archive:
        for name, _ in members:
            assert read_member(str(path), name) == archive.read(name)
    with pytest.raises(DataError, match="has no member 'x1.jpg'"):
        read_member(str(path), "x1.jpg")


def test_extra_fields_differ_between_directory_and_member(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open(zipfile.ZipInfo("1.jpg"), "w", force_zip64=True) as f,
    ):
        f.write(b"data")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert read_member(str(path), "1.jpg") == b"data"


def test_no_such_archive(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_member(str(tmp_path / "none.zip"), "1.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_member(str(tmp_path), "1.jpg")


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"PK\5\6", b"PK\5\6" + b"\xff" * 18, b"PK\5\6" + b"\0" * 14]
)
def test_not_a_zip(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_member(str(tmp_path / "a.zip"), "1.jpg")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_data_is_noticed(tmp_path, compression):
    data = random.Random(0).randbytes(1000)
    path = write_zip(tmp_path / "a.zip", [("1.jpg", data), ("2.jpg", b"fine")], compression)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[500] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"Member '1\.jpg' of the zip file cannot be read"):
        read_member(path, "1.jpg")
    assert read_member(path, "2.jpg") == b"fine"
    (tmp_path / "a.zip").write_bytes(content[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        read_member(path, "2.jpg")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_ends_with_our_error_or_the_right_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    write_zip(path, [("1.jpg", b"one" * 9), ("2.jpg", b"two" * 9)], zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_member(str(path), "2.jpg") == b"two" * 9


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("step", [10, 1 << 20])
def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, compression, step):
    monkeypatch.setattr(zips, "_STEP", step)
    path = write_zip(tmp_path / "a.zip", [("1.jpg", bytes(500)), ("2.jpg", bytes(99))], compression)
    assert read_member(path, "1.jpg") == bytes(500)
    monkeypatch.setattr(zips, "FILE_BYTES", 100)
    monkeypatch.setattr(zips, "_STEP", 10)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_member(path, "1.jpg")
    assert read_member(path, "2.jpg") == bytes(99)


def test_sizes_that_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "_STEP", 10)
    monkeypatch.setattr(zips, "FILE_BYTES", 100)
    path = tmp_path / "a.zip"
    write_zip(path, [("1.jpg", bytes(500))], zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace((500).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    with pytest.raises(DataError, match="cannot be read"):  # what is beyond 50 bytes is never unpacked
        read_member(str(path), "1.jpg")


def test_a_directory_of_millions_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "_DIRECTORY", 200)
    path = write_zip(tmp_path / "a.zip", [(f"{i}.jpg", b"") for i in range(10)], zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match="directory has more than"):
        read_member(path, "1.jpg")
