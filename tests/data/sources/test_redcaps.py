"""RedCaps annotation files, merged on the fly."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from openslip.data.sources import redcaps
from openslip.data.sources.redcaps import RedCaps, is_redcaps
from openslip.errors import DataError


def annotation(image, subreddit, caption="a plant", raw="A plant!", **more):
    return {
        "image_id": image,
        "author": "someone",
        "url": f"https://example.org/{image}.jpg",
        "raw_caption": raw,
        "caption": caption,
        "subreddit": subreddit,
        "score": 72,
        "created_utc": 1558123456,
        "permalink": "/r/x",
        "crosspost_parents": None,
    } | more


FILES = {
    "plants_2018.json": [annotation("b1", "plants", "first"), annotation("b2", ["plants", "pics"], "second")],
    "birds_2019.json": [annotation("c1", "birds", "", "Raw 🐦"), annotation("c2", "birds", None, None)],
    "plants_2017.json": [annotation("a1", "plants", " spaced \n")],
}
IMAGES = ["birds/c1", "birds/c2", "plants/a1", "plants/b1", "plants/b2"]
CAPTIONS = [("Raw 🐦",), (), ("spaced",), ("first",), ("second",)]


@pytest.fixture
def folder(tmp_path, jpeg):
    """Write annotations/ and the images; return the annotations' folder."""

    def write(images="images"):
        for image in IMAGES:
            path = tmp_path / images / f"{image}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg + image.encode())
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for name, entries in FILES.items():
            data = {"info": {"start_date": "2008-01-01", "url": "…"}, "annotations": entries}
            (tmp_path / "annotations" / name).write_text(json.dumps(data), encoding="utf-8")
        (tmp_path / "annotations" / "._birds_2019.json").write_bytes(b"\0\5\26\7")
        return tmp_path / "annotations"

    return write


def records(source):
    return [(record.key, record.captions) for record in source]


EXPECTED = [(f"{image}.jpg", captions) for image, captions in zip(IMAGES, CAPTIONS)]


def test_a_folder_by_file_name(folder, jpeg):
    path = folder()
    source = pickle.loads(pickle.dumps(RedCaps(path)))
    assert records(source) == EXPECTED
    assert source[3].image == jpeg + b"plants/b1"
    assert source.name == source[0].source == str(path)
    assert source.note == f"Images of {path}: in {source.root} (guessed)."


def test_some_files_in_any_order_and_one(folder):
    path = folder()
    some = [path / "plants_2018.json", str(path / "birds_2019.json")]
    assert records(RedCaps(some)) == [EXPECTED[i] for i in (0, 1, 3, 4)]
    assert records(RedCaps(path / "plants_2017.json")) == EXPECTED[2:3]


@pytest.mark.parametrize("chunk", [1, 37, 1 << 20])
def test_the_annotations_of_all_in_one_list(folder, tmp_path, monkeypatch, chunk):
    folder("images")
    monkeypatch.setattr(redcaps, "CHUNK", chunk)
    path = tmp_path / "redcaps_v1.json"
    merged = [a for name in sorted(FILES) for a in FILES[name]]
    for indent in (None, 2):
        path.write_text(json.dumps(merged, indent=indent), encoding="utf-8")
        assert records(RedCaps(path)) == EXPECTED
    path.write_text(json.dumps(merged)[:-60])
    with pytest.raises(DataError, match="not valid JSON.*cut off"):
        RedCaps(path)


@pytest.mark.parametrize("images", ["images", "annotations", ".", "annotations/images"])
def test_finds_the_images(folder, tmp_path, images):
    assert os.path.realpath(RedCaps(folder(images)).root) == os.path.realpath(tmp_path / images)


@pytest.mark.parametrize("root", ["far/away", "far/away/images"])
def test_image_root(folder, tmp_path, root):
    path = folder("far/away/images")
    source = RedCaps(path, image_root=str(tmp_path / root))
    assert records(source) == EXPECTED
    assert source.note == ""
    (tmp_path / "far/away/images/plants/a1.jpg").unlink()
    with pytest.raises(DataError, match=r"does not exist.*a1\.jpg"):
        source[2]
    with pytest.raises(DataError, match=r"birds/c1\.jpg.*--data\.image-root"):
        RedCaps(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"info": {}, "annotations": [{"image_id": "a', "not valid JSON"),
        ("", "not valid JSON"),
        ("\xff", "not valid JSON"),
        ('{"info": {}, "images": []}', "not a RedCaps annotation file.*keys info, images"),
        ('"text"', "not a RedCaps annotation file.*holds no object"),
        ('{"annotations": []}', "list no images"),
        ("[]", "list no images"),
        ("[1, 2", "not valid JSON"),
        ('{"annotations": [{"image_id": "a", "subreddit": 3}]}', "no usable 'image_id' and 'subreddit'.*: 3"),
        ('{"annotations": [{"image_id": "a", "subreddit": []}]}', "no usable"),
        ('{"annotations": [{"image_id": 5, "subreddit": "a"}]}', "no usable"),
        ('{"annotations": ["a"]}', "no usable"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_something_else(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=f"(?s){message}"):
        RedCaps(path)


def test_no_files(tmp_path):
    with pytest.raises(DataError, match="no annotation files.*end in .json"):
        RedCaps(tmp_path)
    with pytest.raises(DataError, match="No annotation files"):
        RedCaps([])
    with pytest.raises(DataError, match="cannot be read"):
        RedCaps(tmp_path / "none.json")


def test_is_redcaps(folder, tmp_path):
    path = folder()
    assert is_redcaps(path)
    assert is_redcaps(path / "plants_2018.json")
    assert not is_redcaps(tmp_path)
    assert not is_redcaps(tmp_path / "none.json")
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "the subreddit"}],
    }
    others = [
        json.dumps(coco),
        '{"images": []}',
        "[]",
        "",
        '["subreddit", "image_id"]',
        "\xff\xfe",
        "subreddit: x",
    ]
    for text in others:
        (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
        assert not is_redcaps(tmp_path / "a.json")
        assert not is_redcaps(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(FILES["birds_2019.json"]))
    assert is_redcaps(tmp_path / "a.json")


def test_what_is_not_used_is_said(folder, jpeg, tmp_path):
    path = folder()
    entries = [
        annotation("b1", "plants", "again"),
        annotation("a1", "birds"),  # another picture than that of plants
        annotation("c1", None),
        5,
        annotation("", "birds"),
    ]
    (path / "plants_2020.json").write_text(
        json.dumps({"annotations": [*entries, annotation("b2", "plants")]})
    )
    (tmp_path / "images/birds/a1.jpg").write_bytes(jpeg)
    source = RedCaps(path)
    assert records(source)[3:] == [
        ("plants/b1.jpg", ("first", "again")),
        ("plants/b2.jpg", ("second", "a plant")),
        ("birds/a1.jpg", ("a plant",)),
    ]
    assert source.contents is not None
    assert (source.contents.things, source.contents.seen, source.contents.used) == ("annotations", 11, 8)
    assert "no usable 'image_id' and 'subreddit'" in source.contents.summary()
    assert "2 annotations are of images listed before" in source.note


def test_a_file_of_bad_annotations_is_refused_early(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[" + "5," * 10_000)
    monkeypatch.setattr(redcaps, "CHUNK", 500)
    with pytest.raises(DataError, match="no usable 'image_id'"):
        RedCaps(path)


def test_an_annotation_that_does_not_end_is_not_read_over_and_over(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('[{"image_id": "a", "subreddit": "b", "caption": "' + "x" * 5000)
    monkeypatch.setattr(redcaps, "CHUNK", 100)
    monkeypatch.setattr(redcaps, "LONGEST", 1000)
    with pytest.raises(DataError, match="goes on for 1,000 characters"):
        RedCaps(path)
