"""Tar shards: grouping, captions, random access, what is left out and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slip.data.record import Record
from slip.data.sources import webdataset
from slip.data.sources.webdataset import TarShards
from slip.errors import DataError


def twin(path):
    """The records of a shard, slowly: its members, each sample's in a dict, repeated members in a new one."""
    samples = []
    with tarfile.open(path) as tar:
        for member in tar:
            folder, base = os.path.split(member.name)
            key, _, extension = base.partition(".")
            key = os.path.join(folder, key)
            mine = [s for s in samples if s["key"] == key]
            if not mine or extension in mine[-1]:
                samples.append(mine_last := {"key": key})
            else:
                mine_last = mine[-1]
            mine_last[extension] = tar.extractfile(member).read()
    records = []
    for sample in samples:
        images = [e for e in sample if e in ("jpg", "png")]
        if images:
            texts = json.loads(sample.get("json", b"{}")).get("captions") or [sample.get("txt", b"").decode()]
            captions = tuple(t for t in texts if t)
            records.append(Record(sample[images[0]], captions, sample["key"], str(path)))
    return records


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "d/1", "x" * 110]),
            st.sampled_from(["jpg", "png", "txt", "json", "cls"]),
        ),
        min_size=1,
        max_size=20,
    ),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_same_records_as_the_slow_twin(tmp_path_factory, write_tar, files, format):
    if format == tarfile.USTAR_FORMAT:
        files = [(key[:50], extension) for key, extension in files]

    def content(i, extension):
        if extension == "json":
            return json.dumps({"captions": [f"json {i}", "second"] if i % 2 else []}).encode()
        return f"{extension} {i}".encode()

    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write_tar(path, [(f"{k}.{e}", content(i, e)) for i, (k, e) in enumerate(files)], format)
    expected = twin(path)
    if expected:
        assert list(TarShards([path])) == expected
    else:
        with pytest.raises(DataError, match="hold no images"):
            TarShards([path])


@pytest.fixture
def shards(tmp_path, write_tar, jpeg):
    paths = []
    for s in range(3):
        members = []
        for i in range(4):
            members += [
                (f"{i:03}.jpg", jpeg + bytes([s, i])),
                (f"{i:03}.txt", f"shard {s} image {i}\n".encode()),
            ]
        paths.append(write_tar(tmp_path / f"a-{s}.tar", members))
    return paths


def test_shard_after_shard(shards, jpeg):
    source = TarShards(shards, name="all")
    assert source.name == "all"
    assert len(source) == 12
    for index, record in enumerate(source):
        s, i = divmod(index, 4)
        assert record == Record(jpeg + bytes([s, i]), (f"shard {s} image {i}",), f"{i:03}", str(shards[s]))
    assert source[-1] == source[11]
    with pytest.raises(IndexError):
        source[12]


@pytest.mark.parametrize(
    ("sidecars", "captions"),
    [
        ({"json": {"captions": ["a", " b "]}, "txt": "c"}, ("a", "b")),
        ({"json": {"caption": "a", "url": "x"}, "txt": "c"}, ("a",)),
        ({"json": {"caption": "b", "captions": ["a"]}}, ("a",)),
        ({"json": {"captions": ["", "  "], "caption": "a"}, "txt": "c"}, ("a",)),
        ({"json": {"captions": [], "caption": None}, "txt": "c"}, ("c",)),
        ({"json": {"captions": "just one"}}, ("just one",)),
        ({"json": {"captions": ["a", None, 3]}}, ("a",)),
        ({"json": ["no", "object"], "txt": "c"}, ("c",)),
        ({"json": {"caption": "half \ud83d"}}, ("half ?",)),
        ({"txt": "\ufefftwo\nlines \n"}, ("two\nlines",)),
        ({"txt": ""}, ()),
        ({}, ()),
    ],
)
def test_captions(tmp_path, write_tar, jpeg, sidecars, captions):
    files = [(f"a.{e}", (json.dumps(s) if e == "json" else s).encode()) for e, s in sidecars.items()]
    source = TarShards([write_tar(tmp_path / "a.tar", [*files, ("a.jpg", jpeg)])])
    assert source[0].captions == captions


@pytest.mark.parametrize("bad", [("b.json", b'{"caption": "cut o'), ("b.txt", "Stra\xdfe".encode("latin1"))])
def test_one_broken_sidecar_is_one_broken_record(tmp_path, write_tar, jpeg, bad):
    source = TarShards(
        [write_tar(tmp_path / "a.tar", [("a.jpg", jpeg), ("b.jpg", jpeg), bad, ("c.jpg", jpeg)])]
    )
    assert [source[0].key, source[2].key] == ["a", "c"]
    with pytest.raises(DataError, match=r"caption of 'b' in .*a\.tar"):
        source[1]


def test_which_member_is_the_image_and_which_key(tmp_path, write_tar):
    members = [
        ("./d.x/1.seg.png", b"mask"),
        ("./d.x/1.JPG", b"picture"),
        ("./d.x/1.TXT", b"caption"),
        ("IMG.2020.jpeg", b"dots"),
        ("only.txt", b"failed download"),
        ("3.cls", b"7"),
        ("._3.jpg", b"resource fork"),
        ("README", b""),
        ("3.webp", b"late"),
    ]
    source = TarShards([write_tar(tmp_path / "a.tar", members)])
    assert [(r.key, r.image, r.captions) for r in source] == [
        ("d.x/1", b"picture", ("caption",)),
        ("IMG", b"dots", ()),
        ("3", b"late", ()),
    ]
    assert source.ignored == {"seg.png": 1, "txt": 1, "cls": 1, "": 2}


def test_long_and_foreign_keys(tmp_path, write_tar):
    keys = ["k" * 150, "straße/鳥", "plain"]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / f"{format}.tar", [(f"{key}.jpg", b"x") for key in keys], format)
        assert [record.key for record in TarShards([path])] == keys


def test_no_images(tmp_path, write_tar):
    with pytest.raises(DataError, match=r"hold no images.*2 × \.txt.*\.jpg"):
        TarShards([write_tar(tmp_path / "a.tar", [("a.txt", b"a"), ("b.txt", b"b")])])
    with pytest.raises(DataError, match="They are empty"):
        TarShards([write_tar(tmp_path / "b.tar", [])])


def test_one_shard_cut_in_half(shards):
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[: 512 * 5])
    with pytest.raises(DataError, match=r"cut off.*a-1\.tar.*Fetch it again, or remove it"):
        TarShards(shards)


def test_shard_shrinks_or_goes_after_opening(shards):
    source = TarShards(shards)
    with shards[2].open("r+b") as file:
        file.truncate(512)
    with pytest.raises(DataError, match="become shorter"):
        source[11]
    shards[0].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source[0]
    assert source[4].key == "000"


def test_index_is_compact(tmp_path, write_tar):
    count = 2000
    path = write_tar(
        tmp_path / "a.tar", [(f"{i:08}.{e}", b"x") for i in range(count) for e in ("jpg", "json", "txt")]
    )
    source = TarShards([path])
    assert len(source) == count
    assert len(pickle.dumps(source)) < 24 * count + 2000


def test_few_handles_stay_open(shards, monkeypatch):
    monkeypatch.setattr(webdataset, "OPEN_SHARDS", 2)
    source = TarShards(shards)
    before = len(os.listdir("/dev/fd"))
    for index in (0, 4, 8, 1, 5, 9):
        assert source[index].captions
    assert len(os.listdir("/dev/fd")) <= before + 2
    del source
    assert len(os.listdir("/dev/fd")) <= before


def test_pickled_without_handles_and_read_in_another_process(shards):
    source = TarShards(shards)
    expected = [source[7], source[0]]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[7], copy[0]] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.__getitem__, [7, 0]) == expected


def test_threads_share_a_source(shards, monkeypatch):
    monkeypatch.setattr(webdataset, "OPEN_SHARDS", 1)
    source = TarShards(shards)
    expected = [source[i] for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.__getitem__, list(range(12)) * 50)) == expected * 50
