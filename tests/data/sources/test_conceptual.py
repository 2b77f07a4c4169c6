"""CC3M and CC12M as object arrays of dicts."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from openslip.data.sources.conceptual import Conceptual
from openslip.errors import DataError

CC3M = [
    {"image_id": 1510438788, "captions": ["large field with pink tulips"]},
    {"image_id": np.int64(7), "captions": ["a dog ", "", "a brown dog"]},
    {"image_id": 8, "captions": "one text"},
]
CC12M = [
    {"image_name": "0.jpg", "image_id": 0, "captions": ["a chair"]},
    {"image_name": "part/1.png", "image_id": 1, "captions": []},
]


@pytest.fixture
def array(tmp_path, jpeg):
    """Write an array to meta/cc3m.npy and its image files to `folder`; return the array's path."""

    def write(entries, folder="meta", names=()):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg + name.encode())
        path = tmp_path / "meta" / "cc3m.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.array(entries, dtype=object))
        return path

    return write


@pytest.mark.parametrize("ending", ["", ".jpg"])
def test_cc3m(array, jpeg, ending):
    names = [f"{entry['image_id']}{ending}" for entry in CC3M]
    path = array(CC3M, names=names)
    source = pickle.loads(pickle.dumps(Conceptual(path)))
    assert [(r.key, r.captions, r.source) for r in source] == [
        ("1510438788", ("large field with pink tulips",), str(path)),
        ("7", ("a dog", "a brown dog"), str(path)),
        ("8", ("one text",), str(path)),
    ]
    assert [r.image for r in source] == [jpeg + name.encode() for name in names]
    assert (".jpg added" in source.note) == bool(ending)


def test_cc12m(array, jpeg):
    source = Conceptual(array(CC12M, names=["0.jpg", "part/1.png"]))
    assert [(r.key, r.image, r.captions) for r in source] == [
        ("0.jpg", jpeg + b"0.jpg", ("a chair",)),
        ("part/1.png", jpeg + b"part/1.png", ()),
    ]


@pytest.mark.parametrize("folder", ["meta", "meta/images", "meta/cc3m", ".", "images", "cc3m"])
def test_finds_the_images_and_says_so(array, tmp_path, folder):
    source = Conceptual(array(CC12M, folder, ["0.jpg", "part/1.png"]))
    assert os.path.realpath(source.root) == os.path.realpath(tmp_path / folder)
    assert source.note == f"Images of {source.name}: in {source.root} (guessed)."


def test_image_root(array, tmp_path):
    path = array(CC3M, "far/away", ["7"])
    source = Conceptual(path, image_root=str(tmp_path / "far" / "away"))
    assert source[1].captions == ("a dog", "a brown dog")
    assert source.note == ""
    with pytest.raises(DataError, match="does not exist"):
        source[0]
    with pytest.raises(DataError, match=r"meta/cc3m/1510438788.*--data\.image-root"):
        Conceptual(path)
    with pytest.raises(DataError, match="wrong/1510438788"):
        Conceptual(path, image_root=str(tmp_path / "wrong"))


def test_columns(array):
    entries = [{"file": "1.jpg", "image_id": 0, "alt": "text", "captions": ["other"]}]
    source = Conceptual(array(entries, names=["1.jpg"]), image_column="file", caption_column="alt")
    assert (source[0].key, source[0].captions) == ("1.jpg", ("text",))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "no entries"),
        (
            [*CC3M[:1], {"captions": ["a"]}, 5],
            r"Entry 1 of the array names no image.*'image_name' or 'image_id'",
        ),
        ([{"image_id": None}], "Entry 0"),
        ([{"image_id": 1.5}], "Entry 0"),
        ([{"image_id": ""}], "Entry 0"),
        ([{"image_id": 10**5000}], "Entry 0"),
        ([{"image_id": True}], "Entry 0"),
        (["1.jpg"], "Entry 0 .*'1.jpg'"),
        (np.zeros(3), "no image"),
    ],
)
def test_other_arrays(array, entries, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        Conceptual(array(entries))


def test_no_array(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="not a .npy file"):
        Conceptual(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="no object array"):
        Conceptual(tmp_path / "a.npy")
    with pytest.raises(DataError, match="cannot be read"):
        Conceptual(tmp_path / "none.npy")


def test_harmful_array(array, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'ran'}'",)

    with pytest.raises(DataError, match="nothing of it was executed"):
        Conceptual(array([*CC3M, {"image_id": 1, "captions": Harmful()}], names=["7"]))
    assert not (tmp_path / "ran").exists()


def test_what_is_not_used_is_said(array):
    entries = [
        {"image_id": "1.jpg", "captions": ["a"]},
        {"image_id": "1.jpg", "captions": ["b"]},
        {"captions": ["of no image"]},
        {"image_id": "2.jpg"},
    ]
    source = Conceptual(array(entries, names=["1.jpg", "2.jpg"]))
    assert [(record.key, record.captions) for record in source] == [("1.jpg", ("a", "b")), ("2.jpg", ())]
    assert source.contents is not None
    assert source.contents.summary().startswith("4 entries seen, 3 used")
    assert "1 entries are of images listed before" in source.note


def test_a_text_that_is_named_over_and_over(array, monkeypatch):
    monkeypatch.setattr("openslip.data.sources.entries.MEMORY", 1_000_000)
    text = "x" * 10_000
    path = array([{"image_id": "1.jpg", "captions": [text] * 100}])
    with pytest.raises(DataError, match="takes too much"):
        Conceptual(path)
