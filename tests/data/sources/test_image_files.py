"""Flat string storage, and what all sources of image files share."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip.data.limits import FILE_BYTES
from openslip.data.sources.image_files import ImageFiles, Strings, read_image
from openslip.errors import DataError


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.text(st.characters())))
def test_strings_are_a_list_of_str(strings):
    flat = pickle.loads(pickle.dumps(Strings(strings)))
    assert list(flat) == strings
    assert len(flat) == len(strings)
    for index in range(-len(strings), len(strings)):
        assert flat[index] == strings[index]
    for index in (len(strings), -len(strings) - 1):
        with pytest.raises(IndexError):
            flat[index]


@given(st.lists(st.tuples(st.text(min_size=1), st.lists(st.text(), max_size=3).map(tuple)), max_size=10))
def test_every_entry_keeps_its_captions(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("files")
    (folder / "image").write_bytes(b"bytes")
    source = ImageFiles("name", folder, (("image", captions) for _, captions in entries))
    assert [record.captions for record in source] == [captions for _, captions in entries]
    assert [source.path(i) for i in range(len(source))] == [str(folder / "image")] * len(entries)


def test_unreadable_images(tmp_path):
    for path, message in [("none.jpg", "does not exist"), ("", "cannot be read"), ("a\0b", "cannot be read")]:
        with pytest.raises(DataError, match=message):
            read_image(str(tmp_path / path) if path else str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_block(tmp_path):
    """It would be read until somebody writes to it."""
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"cannot be read.*a\.jpg.*pipe"):
        read_image(str(tmp_path / "a.jpg"))
    source = ImageFiles("name", tmp_path, [("a.jpg", ())])
    with pytest.raises(DataError, match="are not where"):
        source.probe("")


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path):
    with open(tmp_path / "a.tif", "wb") as file:
        file.truncate(FILE_BYTES + 1)  # takes no room on disk
    with pytest.raises(DataError, match=r"too large.*1,000 MB"):
        read_image(str(tmp_path / "a.tif"))


def test_one_missing_file_is_one_missing_record(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    source = ImageFiles("table", tmp_path, [("a", ()), ("b", ()), ("", ()), (str(tmp_path / "a"), ())])
    source.probe("")
    assert source[0].image == source[3].image == b"a"
    with pytest.raises(DataError, match=r"does not exist.*b'"):
        source[1]
    with pytest.raises(DataError, match="Entry 2 of table names no image"):
        source[2]


def test_probe_of_a_wrong_folder(tmp_path):
    source = ImageFiles("table", tmp_path / "wrong", [(f"{i}.jpg", ()) for i in range(1000)])
    with pytest.raises(DataError, match=r"table.*wrong/0\.jpg.*Give --option"):
        source.probe("Give --option")
    ImageFiles("table", Path(), []).probe("")


@given(st.lists(st.text(st.sampled_from("/.a\u00e9\\%"), max_size=4)))
def test_strings_are_searched_as_bytes(strings):
    flat = Strings(strings)
    found = list(flat.holding(rb"\.(?=\.)|%"))
    assert found == sorted(set(found))
    assert {i for i, s in enumerate(strings) if ".." in s or "%" in s} <= set(found)
    assert flat.beginning(b"/\\") == [i for i, s in enumerate(strings) if s[:1] in ("/", "\\")]
    assert list(pickle.loads(pickle.dumps(flat)).holding(b"%")) == [
        i for i, s in enumerate(strings) if "%" in s
    ]
