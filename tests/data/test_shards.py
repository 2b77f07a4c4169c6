"""Shards: what goes in comes out, whole or not at all, the same for any number of processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from slip.data.record import Record
from slip.data.scenes import Scenes
from slip.data.shards import write_shards
from slip.errors import DataError


class Listed:
    """Records from a list; an exception in it is raised."""

    name = "listed"

    def __init__(self, records: list[Record | Exception]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        if isinstance(record, Exception):
            raise record
        return record


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_scenes_come_back(tmp_path) -> None:
    scenes = Scenes("test", 5, size=32)
    paths = write_shards(scenes, tmp_path / "new" / "folder", 2, encoding="png", prefix="scenes-")
    assert [p.name for p in paths] == ["scenes-000000.tar", "scenes-000001.tar", "scenes-000002.tar"]
    content = members(paths[1])
    assert sorted(content) == [f"{k:09d}.{e}" for k in (2, 3) for e in ("json", "png", "txt")]
    for k in (2, 3):
        record = scenes[k]
        about = json.loads(content[f"{k:09d}.json"])
        assert about == {
            "key": record.key,
            "captions": list(record.captions),
            "label": scenes.label(k),
            "class": scenes.class_names[scenes.label(k)],
        }
        assert content[f"{k:09d}.txt"].decode() == record.captions[0]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content[f"{k:09d}.png"]))), record.image)


def test_jpeg_is_close(tmp_path) -> None:
    scenes = Scenes("test", 1, size=48)
    (path,) = write_shards(scenes, tmp_path)
    image = np.asarray(Image.open(io.BytesIO(members(path)["000000000.jpg"])), dtype=float)
    assert np.abs(image - scenes[0].image).mean() < 6


def test_processes_do_not_matter(tmp_path) -> None:
    scenes = Scenes("train", 4, size=16)
    digests = [
        [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for p in write_shards(scenes, tmp_path / str(n), 2, processes=n)
        ]
        for n in (1, 2)
    ]
    assert digests[0] == digests[1]


def test_bytes_pass_unchanged_and_bad_records_are_left_out(tmp_path) -> None:
    source = Listed(
        [
            Record(png(1), ("one", "eins"), "a", "listed"),
            DataError("gone"),
            Record(b"no image", ("x",), "c", "listed"),
            Record(png(3), (), "d", "listed"),
        ]
    )
    (path,) = write_shards(source, tmp_path)
    content = members(path)
    assert sorted(content) == [
        "000000000.json",
        "000000000.png",
        "000000000.txt",
        "000000003.json",
        "000000003.png",
    ]
    assert content["000000003.png"] == png(3)
    assert json.loads(content["000000000.json"]) == {"key": "a", "captions": ["one", "eins"]}


def test_nothing_half_written(tmp_path) -> None:
    fine = Record(png(1), ("one",), "a", "listed")
    with pytest.raises(RuntimeError):
        write_shards(Listed([fine, fine, fine, RuntimeError("power cut")]), tmp_path, 2)
    assert os.listdir(tmp_path) == ["000000.tar"]


def test_full_disk(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_shards(Scenes("test", 1, size=16), tmp_path)
    assert os.listdir(tmp_path) == []


def test_two_sets_are_not_mixed(tmp_path) -> None:
    write_shards(Scenes("test", 3, size=16), tmp_path, 1)
    write_shards(Scenes("test", 3, size=16, seed=1), tmp_path, 1)
    with pytest.raises(DataError, match=r"000002\.tar"):
        write_shards(Scenes("test", 2, size=16), tmp_path, 1)


def test_bad_arguments(tmp_path) -> None:
    with pytest.raises(DataError):
        write_shards(Scenes("test", 1), tmp_path, 0)
    with pytest.raises(DataError):
        write_shards(Scenes("test", 1), tmp_path, encoding="tiff")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        write_shards(Scenes("test", 1), tmp_path / "file")
