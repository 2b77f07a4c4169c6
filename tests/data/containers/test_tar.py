"""The header walk agrees with the standard library, and says where a file breaks off."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openslip.data.containers.tar import Member, header_name, is_header, members
from openslip.data.storage.reading import LocalFile
from openslip.errors import DataError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def twin(path):
    """The same by the standard library."""
    with tarfile.open(path, "r:") as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


def places(path):
    return [(m.name, m.offset, m.size) for m in members(LocalFile(path))]


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.text(
                st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]),
                min_size=1,
                max_size=150,
            ).filter(lambda name: name.strip("./ ")),
            st.binary(max_size=1500),
        ),
        max_size=8,
    ),
    format=st.sampled_from(FORMATS[1:]),
)
def test_agrees_with_tarfile(tmp_path_factory, write_tar, files, format):
    path = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", files, format)
    assert places(path) == twin(path)


def test_names_of_every_length_in_every_format(tmp_path, write_tar):
    names = ["d" * 40 + "/" + "n" * length + ".jpg" for length in (1, 54, 55, 56, 90)]
    for format in FORMATS:
        path = write_tar(tmp_path / f"{format}.tar", [(name, b"x" * 700) for name in names], format)
        assert places(path) == twin(path)
        data = path.read_bytes()
        for member in members(LocalFile(path)):
            assert member.extended or header_name(data[member.offset - 512 : member.offset]) == member.name


def test_links_and_what_is_no_file(tmp_path):
    path = tmp_path / "a.tar"
    for format in FORMATS:
        target = "n" * (100 if format == tarfile.USTAR_FORMAT else 150)
        with tarfile.open(path, "w", format=format) as tar:
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                info = tarfile.TarInfo(f"d/of-kind-{kind.decode()}")
                info.type, info.linkname = kind, target
                tar.addfile(info)
            info = tarfile.TarInfo("b.jpg")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        found = list(members(LocalFile(path)))
        assert [m.name for m in found] == ["d/of-kind-2", "d/of-kind-1", "b.jpg"]
        assert [m.link for m in found] == [f"d/{target}", target, ""]


def test_sparse_files_are_not_read_as_if_they_lay_in_one_piece(tmp_path, write_tar):
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 600), ("2.jpg", b"y")])
    data = bytearray(path.read_bytes())
    data[156:157] = b"S"
    data[482] = 1  # another block of the map follows
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data[:512] + bytes(512) + data[512:])
    assert [(m.name, m.sparse) for m in members(LocalFile(path))] == [("1.jpg", True), ("2.jpg", False)]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/1.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "1.jpg"}
        tar.addfile(info)
    assert [(m.name, m.sparse) for m in members(LocalFile(path))] == [("1.jpg", True)]


def test_sizes_beyond_the_octal_field(tmp_path):
    info = tarfile.TarInfo("big.bin")
    info.size = 9 << 30
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + info.size + 1024)  # a hole: takes no space
    assert next(members(LocalFile(path))) == Member("big.bin", 512, info.size, False)


def heard(path):
    """The members' names, and the remarks."""
    remarks: list[str] = []
    return [m.name for m in members(LocalFile(path), remarks.append)], "\n".join(remarks)


def test_one_after_the_other_count_as_one(tmp_path, write_tar):
    a = write_tar(tmp_path / "a.tar", [("1.jpg", b"a")]).read_bytes()
    b = write_tar(tmp_path / "b.tar", [("2.jpg", b"b" * 600)]).read_bytes()
    path = tmp_path / "both.tar"
    for first in (a, a[:2048]):  # filled up to a record, and with the end mark alone
        path.write_bytes(first + b)
        names, remarks = heard(path)
        assert names == ["1.jpg", "2.jpg"]
        assert f"goes on after an end mark, at byte {len(first):,}: 2 archives one after the other" in remarks
    path.write_bytes(a + b"left over from an older file" * 40)
    names, remarks = heard(path)
    assert names == ["1.jpg"]
    assert "1,120 bytes after the end mark" in remarks
    path.write_bytes(a + bytes(100))
    assert heard(path) == (["1.jpg"], "")
    path.write_bytes(a + bytes(2 << 20))
    assert "a download that was not finished" in heard(path)[1]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sectors", [1, 2, 8])
def test_zeros_where_a_header_was(tmp_path, write_tar, format, sectors):
    """Lost sectors in the middle of a shard: a header, and data or more headers after it."""
    names = [f"{'n' * (150 if format else 50)}{i}.jpg" for i in range(9)]
    for size in (5000, 10):
        path = write_tar(tmp_path / "a.tar", [(name, b"x" * size) for name in names], format)
        data = bytearray(path.read_bytes())
        third = list(members(LocalFile(path)))[2].offset - 512
        data[third : third + 512 * sectors] = bytes(512 * sectors)
        path.write_bytes(data)
        try:
            found, remarks = heard(path)
        except DataError as error:
            assert "damaged at byte" in str(error)  # noqa: PT017
            assert "2 files before it are readable" in str(error)  # noqa: PT017
        else:  # just a header and its data, no others: as an end mark before another archive
            assert (size, sectors) == (10, 2)
            assert len(found) == 8
            assert "or sectors lost to zeros" in remarks


def test_zeros_before_the_last_member(tmp_path, write_tar):
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 600), ("2.jpg", b"y" * 600)])
    data = bytearray(path.read_bytes())
    data[1536:2048] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged at byte 1,536.*zeros"):
        heard(path)
    data[:512] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged at byte 0"):
        heard(path)


@pytest.mark.parametrize("format", FORMATS)
def test_cut_anywhere(tmp_path, write_tar, format):
    names = ["a.jpg", "b" * 80 + "/" + "c" * 70 + ".jpg", "d.txt"]
    whole = write_tar(tmp_path / "whole.tar", [(name, b"x" * 600) for name in names], format)
    data, found = whole.read_bytes(), list(members(LocalFile(whole)))
    end = found[-1].offset + 1024  # where the end mark begins
    path = tmp_path / "cut.tar"
    for length in {*range(0, end + 512, 128), end - 1, end + 511, 1, 511, 513}:
        path.write_bytes(data[:length])
        read = []
        with pytest.raises(DataError, match=r"cut off|is empty|not a tar") as error:
            read.extend(members(LocalFile(path)) if length < 512 else iterate(path, read))
        assert str(path) in str(error.value)
        if length >= 512:
            whole_ones = [m for m in found if m.offset + m.size <= length]
            assert read == whole_ones
            assert f"{len(whole_ones)} whole files" in str(error.value)
    path.write_bytes(data[: end + 512])
    assert list(members(LocalFile(path))) == found


def iterate(path, into):
    for member in members(LocalFile(path)):
        into.append(member)
    return ()


def test_missing_end_mark_says_how_to_add_it(tmp_path, write_tar):
    whole = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 512)])
    whole.write_bytes(whole.read_bytes()[:1024])
    with pytest.raises(DataError, match=r"end mark is missing.*truncate -s"):
        list(members(LocalFile(whole)))


def test_damaged_in_the_middle(tmp_path, write_tar):
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 512), ("2.jpg", b"y")])
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 0x40  # one bit of the second header
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged at byte 1,024.*The 1 files before"):
        list(members(LocalFile(path)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_ends_with_our_error_or_not_at_all(tmp_path_factory, write_tar, data):
    """Headers with a correct checksum but senseless fields: no crash, no endless loop."""
    path = write_tar(
        tmp_path_factory.mktemp("tar") / "a.tar",
        [("n" * 120, b"x" * 600), ("2", b"y")],
        data.draw(st.sampled_from(FORMATS[1:])),
    )
    content = bytearray(path.read_bytes())
    block = data.draw(st.sampled_from([0, 1, 2, 3])) * 512
    for _ in range(data.draw(st.integers(1, 4))):
        content[block + data.draw(st.sampled_from([*range(124, 136), 156, *range(0, 20)]))] = data.draw(
            st.sampled_from(b"-0 7x\xff\x80L\0")
        )
    header = content[block : block + 512]
    header[148:156] = b" " * 8
    content[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert len(list(members(LocalFile(path)))) <= 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not Found</html>", "not a tar file.*DOCTYPE"),
        (b"version https://example.org/spec/v1\n" * 40, "not a tar file"),
        (gzip.compress(bytes(range(256)) * 40, mtime=0), "compressed .gzip.*gunzip"),
        (b"\x28\xb5\x2f\xfd" + b"z" * 2000, "compressed .zstd"),
    ],
)
def test_not_a_tar_file(tmp_path, content, message):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(members(LocalFile(path)))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(members(LocalFile(tmp_path / "none.tar")))
    with pytest.raises(DataError, match="cannot be read"):
        list(members(LocalFile(tmp_path)))


@settings(deadline=None)
@given(st.binary(min_size=512, max_size=512), st.integers(-3, 3))
def test_the_checksum_is_the_sum_of_the_bytes(block, off):
    blank = block[:148] + b" " * 8 + block[156:]
    header = block[:148] + f"{sum(blank) + off:06o}\0 ".encode() + block[156:]
    assert is_header(header) == (off == 0)
    bright = b"\xff" * 148 + b"%06o\0 " % (504 * 255 + 8 * 32) + b"\xff" * 356  # more than Adler-32 counts to
    assert is_header(bright)
