"""Where pictures lie as files of their own: what a source says of them without reading them."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openslip.data.record import ImageFile, Record, Source
from openslip.data.sources import open_source
from openslip.data.sources.image_files import find_image, read_image
from openslip.data.subset import Subset
from openslip.errors import DataError
from toys import ToySource


class Own:
    """A source of a program's own, which knows where its pictures lie."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, "mine"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return self.source[index]

    def file(self, index: int) -> ImageFile | None:
        return self.source.file(index)


@pytest.fixture
def data(tmp_path, write_tar, jpeg, monkeypatch):
    """A folder with some of everything; the pictures differ."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.jpg", "sub/b.jpg", "C.JPG", "d.jpg", "x/cat/1.jpg", "x/dog/2.jpg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg + bytes(number))
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "d.json").write_text('{"captions": ["a cat", "an animal"]}')
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,one\nsub/b.jpg,two\na.jpg,three\nc.jpg,spelled\n")
    (tmp_path / "t.jsonl").write_text('{"image": "sub\\\\b.jpg", "captions": ["one", "two"]}\n')
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,dog\nsub/b.jpg,cat\nd.jpg,cat\n")
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "d.jpg"}],
        "annotations": [{"id": 1, "image_id": 2, "caption": "x"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "x1.jpg").write_bytes(jpeg)
    redcaps = {"annotations": [{"image_id": "x1", "subreddit": "cats", "caption": "a cat"}]}
    (tmp_path / "redcaps.json").write_text(json.dumps(redcaps))
    np.save(tmp_path / "cc.npy", np.array([{"image_id": "a", "captions": ["x"]}], dtype=object))
    pq.write_table(pa.table({"path": ["a.jpg", "d.jpg"], "caption": ["x", "y"]}), tmp_path / "p.parquet")
    pq.write_table(pa.table({"image": [jpeg], "caption": ["x"]}), tmp_path / "bytes.parquet")
    pq.write_table(
        pa.table({"path": ["a.jpg", "d.jpg", "sub/b.jpg"], "label": ["x", "y", "x"]}), tmp_path / "l.parquet"
    )
    pq.write_table(pa.table({"image": [jpeg] * 2, "label": ["x", "y"]}), tmp_path / "lb.parquet")
    write_tar(tmp_path / "s.tar", [("1.jpg", jpeg), ("1.txt", b"one")])
    (tmp_path / "images" / "00").mkdir()
    with zipfile.ZipFile(tmp_path / "images" / "00" / "000.zip", "w") as file:
        file.writestr("007.jpg", jpeg)
    (tmp_path / "yfcc.pkl").write_bytes(pickle.dumps([(7, "a title", "")]))
    return tmp_path


def opened(spec: str) -> Source:
    if spec.startswith("subset of "):
        return Subset(opened(spec.removeprefix("subset of ")), [0])
    if spec.startswith("own "):
        own: Any = Own(opened(spec.removeprefix("own ")))
        return Subset(own, [])
    return open_source(spec, captions_required=False)


def agrees(source: Source, index: int) -> bool:
    """Check a record's file against the record; return whether it has one."""
    found = source.file(index)
    if found is None:
        return False
    record, status = source[index], os.stat(found.path)
    assert os.path.isabs(found.path)
    with open(found.path, "rb") as file:
        assert file.read() == record.image
    assert found == ImageFile(
        found.path, status.st_size, status.st_mtime_ns, record.captions, record.key
    )  # which are those of the file that is there
    return True


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        *(("x", 2), ("sub", 1), ("*.jpg", 2), ("t.csv", 3), ("t.jsonl", 1), ("coco.json", 2), ("cc.npy", 1)),
        *(("redcaps.json", 1), ("p.parquet", 2)),
        *(("labels:x", 2), ("labels:labels.csv", 3), ("labels:l.parquet", 3), ("labels:lb.parquet", 0)),
        ("labels:x + 2 * labels:l.parquet", 5),
        *(("bytes.parquet", 0), ("s.tar", 0), ("yfcc.pkl", 0), ("scenes:test:3", 0)),
        *(("t.csv + s.tar + 0.5 * *.jpg", 5), ("subset of t.csv", 2), ("subset of s.tar + p.parquet", 2)),
        *(("own t.csv", 3), ("own s.tar", 0)),
    ],
)
def test_a_file_is_that_of_the_record(data, spec: str, count: int) -> None:
    source = opened(spec)
    assert sum([agrees(source, index) for index in range(len(source))]) == count
    if spec == "t.csv":
        files = [source.file(i) for i in range(3)]
        assert [file and os.path.relpath(file.path, data) for file in files] == [
            "a.jpg",
            "sub/b.jpg",
            "C.JPG",
        ]  # type: ignore[union-attr]
        assert source.file(-1) == source.file(2)
        with pytest.raises(IndexError):
            source.file(3)


def test_a_source_without_files_has_none() -> None:
    assert ToySource().file(0) is None
    assert ToySource().columns([0, 1]) is None


def test_what_cannot_be_read_is_no_file(data) -> None:
    lines = ["image,caption", "a.jpg,x", "gone.jpg,x", "pipe.jpg,x", "x,x", "deep/a.jpg,x", "two.jpg,x"]
    (data / "t.csv").write_text("\n".join(lines))
    os.mkfifo(data / "pipe.jpg")
    for name in ("Two.jpg", "TWO.jpg"):
        (data / name).touch()
    source = opened("t.csv")
    assert agrees(source, 0)
    for index in range(1, len(source)):
        said = []
        for ask in (source.file, source.__getitem__):
            with pytest.raises(DataError) as error:
                ask(index)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_captions_that_cannot_be_read(data) -> None:
    (data / "a.txt").write_bytes(b"Stra\xdfe")
    (data / "d.json").write_text("{")
    source = opened("*.jpg")
    assert len(source) == 2
    for index in range(2):
        with pytest.raises(DataError, match="caption cannot be read"):
            source.file(index)


def test_a_file_that_is_too_large(data, monkeypatch) -> None:
    monkeypatch.setattr("openslip.data.sources.image_files.FILE_BYTES", 10)
    for ask in (find_image, read_image):
        with pytest.raises(DataError, match="too large"):
            ask(str(data / "a.jpg"))


def test_the_parent_of_a_link_is_another_folder(data, jpeg) -> None:
    (data / "far" / "away").mkdir(parents=True)
    (data / "far" / "e.jpg").write_bytes(jpeg)
    (data / "link").symlink_to(data / "far" / "away")
    (data / "t.csv").write_text("image,caption\nlink/../e.jpg,x\n")
    source = opened("t.csv")
    assert agrees(source, 0)
    assert source.file(0).path == os.path.join(os.path.realpath(data), "far", "e.jpg")  # type: ignore[union-attr]


def test_no_picture_is_read(data, monkeypatch) -> None:
    source = opened("*.jpg")
    expected = [source.file(i) for i in range(len(source))]
    monkeypatch.setattr("openslip.data.sources.image_files.read_whole", None)
    assert [source.file(i) for i in range(len(source))] == expected
