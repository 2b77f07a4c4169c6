"""A folder of images: what is found, in which order, and what is not."""

from __future__ import annotations

import os
import pickle

import pytest

from slip.data.record import Record
from slip.data.sources.folder import ImageFolder
from slip.errors import DataError


def fill(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


def test_sorted_by_relative_path(tmp_path):
    fill(
        tmp_path,
        "b/2.JPG",
        "b/10.png",
        "a.webp",
        "b/c/d.jpeg",
        "a/x.gif",
        "readme.txt",
        ".cache/x.jpg",
        "b/._2.JPG",
    )
    source = pickle.loads(pickle.dumps(ImageFolder(str(tmp_path))))
    keys = ["a.webp", "a/x.gif", "b/10.png", "b/2.JPG", "b/c/d.jpeg"]
    assert list(source) == [Record(key.encode(), (), key, str(tmp_path)) for key in keys]
    assert [r.key for r in ImageFolder(f"{tmp_path}/")] == keys


def test_links_are_followed_once(tmp_path):
    fill(tmp_path, "real/a.jpg", "set/b.jpg")
    os.symlink(tmp_path / "real", tmp_path / "set" / "linked")
    os.symlink(tmp_path / "set", tmp_path / "set" / "loop")
    assert [r.key for r in ImageFolder(tmp_path / "set")] == ["b.jpg", "linked/a.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes there only")
def test_names_that_are_not_utf8(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    assert ImageFolder(tmp_path)[0].image == b"x"


def test_no_images(tmp_path):
    with pytest.raises(DataError, match="It is empty"):
        ImageFolder(tmp_path)
    fill(tmp_path, "a.csv", "b.txt", "c.txt", "LICENSE")
    with pytest.raises(DataError, match=r"2 × \.txt.*without extension.*give the table"):
        ImageFolder(tmp_path)


def test_unlistable(tmp_path):
    with pytest.raises(DataError, match="cannot be listed"):
        ImageFolder(tmp_path / "none")


def test_missing_later(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg")
    source = ImageFolder(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match="does not exist"):
        source[0]
    assert source[1].key == "b.jpg"
