"""A folder of images: what is found, in which order, and what is not."""

from __future__ import annotations

import os
import pickle

import pytest

from openslip.data.record import Record
from openslip.data.sources.folder import ImageFolder
from openslip.data.sources.options import Misfit
from openslip.errors import DataError


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
    fill(tmp_path, "b.txt", "c.txt", "LICENSE")
    with pytest.raises(DataError, match=r"2 × \.txt.*without extension.*give the table"):
        ImageFolder(tmp_path)
    for name, message in (
        ("a.heic", "Convert them to JPEG"),
        ("a.csv", r"Give the table instead of the folder: .*/a\.csv"),
        ("sub/a.tar", r"/\*\*/\*\.tar'"),
    ):
        fill(tmp_path, name)
        with pytest.raises(DataError, match=message):
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


def test_captions_beside_the_images(tmp_path):
    fill(tmp_path, "1.jpg", "2.JPG", "3.png", "4.jpg", "d/5.jpg", "6.jpg", "7.jpg", "7.png")
    for name, text in {
        "1.txt": "one",
        "2.TXT": "two",
        "3.json": '{"caption": "three", "url": "x"}',
        "d/5.jpg.txt": "five",
        "6.txt": "six",
        "6.caption": "sechs",
        "6.json": '{"caption": "six", "alt": "VI"}',
        "7.txt": "both",
        "8.txt": "no picture",
        "9.json": "{}",
        "readme.md": "",
        ".DS_Store": "",
    }.items():
        (tmp_path / name).write_text(text)
    source = pickle.loads(pickle.dumps(ImageFolder(tmp_path)))
    assert {record.key: record.captions for record in source} == {
        "1.jpg": ("one",),
        "2.JPG": ("two",),
        "3.png": ("three",),
        "4.jpg": (),
        "6.jpg": ("six",),
        "7.jpg": ("both",),
        "7.png": ("both",),
        "d/5.jpg": ("five",),
    }
    assert source.contents.seen == 20
    assert {reason: (left.count, left.lost) for reason, left in source.contents.left_out.items()} == {
        "a text beside no image, or beside an image that has another text": (2, True),
        ".json is not read": (1, False),
        ".md is not read": (1, False),
        "hidden files": (1, False),
    }
    assert ImageFolder(tmp_path, caption_column="alt")[4].captions == ("VI",)
    assert ImageFolder(tmp_path, caption_column="caption")[4].captions == ("sechs",)
    with pytest.raises(Misfit, match="no captions 'title' beside"):
        ImageFolder(tmp_path, caption_column="title")


def test_what_is_said_of_captions(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg")
    for name in ("1", "2"):
        (tmp_path / f"{name}.txt").write_text("a\nb\n")
        (tmp_path / f"{name}.json").write_text('{"caption": "c"}')
    note = ImageFolder(tmp_path).note
    assert "in 2 of 2" in note
    assert "txt:lines" in note
    assert "differs from 'caption'" in note
    assert ImageFolder(tmp_path, caption_column="txt:lines")[0].captions == ("a", "b")


def test_a_broken_caption_is_one_broken_record(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "1.txt").write_bytes(b"Stra\xdfe")
    (tmp_path / "2.json").write_text('{"caption": "cut o')
    os.mkfifo(tmp_path / "3.txt")
    source = ImageFolder(tmp_path)
    for index in range(3):
        with pytest.raises(DataError, match=rf"caption cannot be read. Got: .*{index + 1}\.jpg"):
            source[index]


def test_captions_in_another_folder_are_told(tmp_path):
    fill(tmp_path, "images/1.jpg", "images/2.jpg", "texts/1.txt", "texts/2.txt")
    source = ImageFolder(tmp_path)
    assert "2 texts such as texts/" in source.note
    assert source.contents is not None
    (left,) = source.contents.left_out.values()
    assert (left.count, left.lost) == (2, True)
    assert not source.options  # no --data.caption-column can help


def test_hidden_texts_are_counted(tmp_path):
    fill(tmp_path, "1.jpg", "1.txt", "._1.jpg", "._1.txt", ".2.json")
    contents = ImageFolder(tmp_path).contents
    assert contents is not None
    assert (contents.seen, contents.used, contents.left_out["hidden files"].count) == (5, 2, 3)


def test_json_of_a_list_or_a_text(tmp_path):
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    for name, text in {"1": '["a", "b"]', "2": '"c"', "3": "5"}.items():
        (tmp_path / f"{name}.json").write_text(text)
    assert [record.captions for record in ImageFolder(tmp_path)] == [("a", "b"), ("c",), ()]


def test_what_is_left_out(tmp_path):
    fill(tmp_path, "1.jpe", "2.HEIC", "3.heic", "d/old.tar", "d/LICENSE", "notes.txt", "clip.mov")
    for name in ("p4", "p5.orig"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0 a JPEG")
    source = ImageFolder(tmp_path)
    assert [record.key for record in source] == ["1.jpe"]
    assert source.contents is not None
    left_out = {reason: (left.count, left.lost) for reason, left in source.contents.left_out.items()}
    assert left_out[".heic is not read (make JPEGs of such pictures)"] == (2, True)
    assert left_out[".orig ending of a picture: rename such pictures"] == (1, True)
    assert left_out[".tar is not read"] == left_out[".mov is not read"] == (1, True)
    assert left_out[".txt is not read"] == (1, False)
    assert source.contents.seen == 9
    assert source.contents.large_loss
